/* SPDX-License-Identifier: Apache-2.0 */
/* Calendars of rates (core/calendar): what is taken has one canonical text that means the same, and questions end. */
#include "core/calendar.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct calendar c, again;
	struct buf text = {0};
	int64_t moment, now = INT64_C(1795582800) * 1000000;
	const struct calendar *all[] = {&c};
	moment_parse((struct str){(const char *)data, size}, now, &moment, NULL);
	if (calendar_parse((struct str){(const char *)data, size}, &c, NULL) < 0)
		return 0;
	calendar_format(&c, &text);
	if (calendar_parse(buf_str(&text), &again, NULL) < 0)
		abort();
	for (int i = 0; i < 20; i++) {
		int64_t next = calendar_next(&c, now);
		if (calendar_rate(&c, now) != calendar_rate(&again, now) || next <= now)
			abort();
		if (next == CALENDAR_NEVER)
			break;
		if (calendar_rate(&c, next) == calendar_rate(&c, now))
			abort();
		now = next;
	}
	if (calendar_when(all, 1, CALENDAR_NONE, 1000, now) < now)
		abort();
	buf_fini(&text);
	return 0;
}
