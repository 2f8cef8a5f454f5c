/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c - see progress.h. */
#include "cli/progress.h"

#include "base/clock.h"

#include <unistd.h>

#define TERMINAL_EVERY_US (100 * US_PER_MS)
#define PLAIN_EVERY_US (5 * US_PER_S)

void format_bytes(uint64_t bytes, char ret_text[static 16])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	int unit = 0;
	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	snprintf(ret_text, 16, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

void format_duration(int64_t us, char ret_text[static 16])
{
	int64_t s = us / US_PER_S;
	if (s < 10)
		snprintf(ret_text, 16, "%.1fs", (double)us / (double)US_PER_S);
	else if (s < 600)
		snprintf(ret_text, 16, "%ds", (int)s);
	else if (s < 36000)
		snprintf(ret_text, 16, "%dm", (int)(s / 60));
	else
		snprintf(ret_text, 16, "%dh", (int)(s / 3600 > 9999 ? 9999 : s / 3600));
}

void format_bar(double share, char *ret_text, size_t size)
{
	size_t cells = size - 3, full = (size_t)(share * (double)cells); /* full only when all is there */
	ret_text[0] = '[';
	for (size_t i = 0; i < cells; i++)
		ret_text[1 + i] = i < full ? '#' : ' ';
	ret_text[1 + cells] = ']';
	ret_text[2 + cells] = 0;
}

static void line(const struct progress *p, uint64_t done, int64_t now_us)
{
	char bar[18], have[16], total[16], speed[16], left[16] = "";
	double share = p->total ? (double)done / (double)p->total : 1;
	int64_t took = now_us - p->started_us;
	uint64_t moved = done > p->found ? done - p->found : 0;
	double rate = took > 0 ? (double)moved * (double)US_PER_S / (double)took : 0;
	format_bar(share, bar, sizeof bar);
	format_bytes(done, have);
	format_bytes(p->total, total);
	format_bytes((uint64_t)rate, speed);
	if (rate > 0)
		format_duration((int64_t)((double)(p->total - done) / rate * (double)US_PER_S), left);
	fprintf(stderr, "%s%s %s %3d%%  %s of %s  ", p->terminal ? "\r" : "", p->what, bar, (int)(share * 100), have,
	        total);
	if (p->total && p->found >= p->total)
		fprintf(stderr, "was there already");
	else
		fprintf(stderr, "%s/s  %s left", speed, left[0] ? left : "?");
	fprintf(stderr, "%s", p->terminal ? "\033[K" : "\n");
	fflush(stderr);
}

void progress_start(struct progress *p, const char *what, uint64_t total)
{
	*p = (struct progress){.what = what, .total = total, .started_us = clock_mono_us()};
	p->terminal = isatty(STDERR_FILENO);
	p->shown_us = p->started_us;
}

void progress_show(struct progress *p, uint64_t done)
{
	int64_t now = clock_mono_us();
	if (now - p->shown_us < (p->terminal ? TERMINAL_EVERY_US : PLAIN_EVERY_US))
		return;
	p->shown_us = now;
	done += p->before;
	line(p, done > p->total ? p->total : done, now);
}

void progress_end(struct progress *p, uint64_t done)
{
	line(p, p->before + done, clock_mono_us());
	if (p->terminal)
		fputc('\n', stderr);
}
