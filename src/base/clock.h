/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - the only place that asks what time it is. Microseconds everywhere. Any thread. */
#ifndef MDN_BASE_CLOCK_H
#define MDN_BASE_CLOCK_H

#include <stdint.h>

#define US_PER_MS INT64_C(1000)
#define US_PER_S INT64_C(1000000)

int64_t clock_mono_us(void); /* never steps back; meaning only within this process */
int64_t clock_wall_us(void); /* since 1970-01-01 UTC; can jump */
/* RFC 3339 with milliseconds, UTC: "2026-11-24T12:40:00.123Z" (25 bytes with NUL). */
void clock_format(int64_t wall_us, char ret_text[static 25]);

#endif
