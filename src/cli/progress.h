/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - how far a long thing is: a line with bar, bytes, rate and time left, redrawn on a terminal; a line now
 * and then elsewhere. On stderr, so that stdout stays clean. Bytes, microseconds. Main thread.
 */
#ifndef MDN_CLI_PROGRESS_H
#define MDN_CLI_PROGRESS_H

#include "base/str.h"

#include <stdio.h>

struct progress {
	const char *what;
	uint64_t total, before; /* before: done by earlier steps, added to what each call says */
	uint64_t found;         /* was there already, so no part of the rate */
	int64_t started_us, shown_us;
	bool terminal;
};

void progress_start(struct progress *p, const char *what, uint64_t total);
void progress_show(struct progress *p, uint64_t done);
void progress_end(struct progress *p, uint64_t done); /* the last line stays */

/* "93.8 MiB", "12s", "[#####     ]": pieces for others' lines. */
void format_bytes(uint64_t bytes, char ret_text[static 16]);
void format_duration(int64_t us, char ret_text[static 16]);
void format_bar(double share, char *ret_text, size_t size); /* size: cells + 3 */

#endif
