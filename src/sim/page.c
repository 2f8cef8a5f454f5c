/* SPDX-License-Identifier: Apache-2.0 */
/* The report as one HTML page: a table, and plots as inline SVG, drawn here. Nothing is fetched and no script runs, so
 * the page can be mailed and opened in ten years. */
#include "sim/figures.h"

#include <math.h>

enum { WIDTH = 760, HEIGHT = 230, LEFT = 64, RIGHT = 12, TOP = 12, BOTTOM = 28, TICKS = 4 };

static const char *const colours[SIM_POLICIES] = {"#0b7a75", "#c1121f", "#e09f3e", "#7b6d8d", "#3a6ea5", "#8a5a44"};

static const char style[] =
    "<style>:root{color-scheme:light dark;--ink:#1d2a30;--soft:#5c6b73;--line:#d5dde0;--paper:#fff}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6edf0;--soft:#9fb0b8;--line:#33434b;--paper:#11191d}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .3rem}p{color:var(--soft)}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.25rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}svg text{fill:var(--soft);font:11px "
    "system-ui,sans-serif}svg .axis{stroke:var(--line)}svg polyline{fill:none;stroke-width:1.8}"
    ".key span{margin-right:1rem}.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;"
    "margin-right:.35rem;vertical-align:-1px}</style>";

static void append_html(struct buf *out, const char *text)
{
	for (; text && *text; text++) {
		if (*text == '<')
			buf_append_str(out, STR("&lt;"));
		else if (*text == '&')
			buf_append_str(out, STR("&amp;"));
		else
			buf_append(out, text, 1);
	}
}

/* ---- plots ----------------------------------------------------------------------------------- */

typedef double plot_fn(const struct figures *f, const struct figures_line *l);

struct plot {
	const char *title, *unit;
	plot_fn *of;
	bool logarithmic, only_first; /* only_first: the same for all */
};

static double busy_share(const struct figures *f, const struct figures_line *l)
{
	return l->requests > 0 ? 100 * (l->busy + l->lost) / l->requests : 0;
}

static double ttft_p50(const struct figures *f, const struct figures_line *l)
{
	return l->p50_us / 1e3;
}

static double ttft_p99(const struct figures *f, const struct figures_line *l)
{
	return l->p99_us / 1e3;
}

static double offered(const struct figures *f, const struct figures_line *l)
{
	return 100 * l->offered;
}

static double used(const struct figures *f, const struct figures_line *l)
{
	return 100 * l->streams / f->slots;
}

static double moved(const struct figures *f, const struct figures_line *l)
{
	return 100 * l->moved;
}

static const struct plot plots[] = {
    {"Offered load, share of what the hardware can do", "%", offered, false, true},
    {"Busy answers and failed requests, share of requests", "%", busy_share, false, false},
    {"TTFT, 99th percentile (log scale)", "ms", ttft_p99, true, false},
    {"TTFT, median (log scale)", "ms", ttft_p50, true, false},
    {"Streams running, share of slots", "%", used, false, false},
    {"Demand that moved to other sites since the point before", "%", moved, false, false},
};

struct range {
	double low, high, step; /* step: between lines */
	bool logarithmic;
};

/* 1, 2 or 5 times a power of ten, at least `least`. */
static double round_step(double least)
{
	double decade = pow(10, floor(log10(least)));
	return least <= decade       ? decade
	       : least <= 2 * decade ? 2 * decade
	       : least <= 5 * decade ? 5 * decade
	                             : 10 * decade;
}

static struct range range_of(const struct plot *p, const struct figures *all, unsigned count)
{
	struct range r = {p->logarithmic ? 1e300 : 0, p->logarithmic ? 0 : 1e-3, 0, p->logarithmic};
	for (unsigned i = 0; i < count; i++) {
		for (unsigned k = 0; k < FIGURES_LINES; k++) {
			double y = p->of(&all[i], &all[i].lines[k]);
			r.high = y > r.high ? y : r.high;
			if (p->logarithmic && y > 0 && y < r.low)
				r.low = y;
		}
	}
	if (p->logarithmic) {
		r.low = r.low < 1e300 ? pow(10, floor(log10(r.low))) : 1;
		r.high = r.high > r.low ? pow(10, ceil(log10(r.high))) : r.low * 10;
	} else {
		r.step = round_step(r.high / TICKS);
		r.high = r.step * ceil(r.high / r.step);
	}
	return r;
}

static double y_of(const struct range *r, double value)
{
	double share = r->logarithmic ? log(fmax(value, r->low) / r->low) / log(r->high / r->low)
	                              : (value - r->low) / (r->high - r->low);
	return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP);
}

static void draw_line(const struct plot *p, const struct range *r, double value, struct buf *out)
{
	double y = y_of(r, value);
	buf_printf(out, "<line class=axis x1=%d x2=%d y1=%.1f y2=%.1f /><text x=%d y=%.1f text-anchor=end>", LEFT,
	           WIDTH - RIGHT, y, y, LEFT - 6, y + 4);
	bool seconds = value >= 1000 && strcmp(p->unit, "ms") == 0;
	buf_printf(out, "%.3g %s</text>", seconds ? value / 1000 : value, seconds ? "s" : p->unit);
}

/* Decades; of few decades the 2 and 5 between them, too. */
static void draw_decades(const struct plot *p, const struct range *r, struct buf *out)
{
	static const double between[] = {1, 2, 5};
	unsigned each = r->high / r->low < 1001 ? 3 : 1;
	double decade = r->low;
	while (decade < r->high * 1.001) {
		for (unsigned i = 0; i < each && decade * between[i] < r->high * 1.001; i++)
			draw_line(p, r, decade * between[i], out);
		decade *= 10;
	}
}

static void draw_axes(const struct scenario *s, const struct plot *p, const struct range *r, struct buf *out)
{
	double hours = (double)s->duration_us / 3600e6;
	if (r->logarithmic)
		draw_decades(p, r, out);
	int lines = r->logarithmic ? 0 : (int)((r->high - r->low) / r->step + 1.5);
	for (int i = 0; i < lines; i++)
		draw_line(p, r, r->low + i * r->step, out);
	for (int i = 0; i <= TICKS; i++) {
		double share = (double)i / TICKS;
		buf_printf(out, "<text x=%.1f y=%d text-anchor=%s>", LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - 8,
		           i < TICKS ? "middle" : "end");
		if (hours >= 72)
			buf_printf(out, "day %.1f</text>", share * hours / 24);
		else if (hours >= 1.5)
			buf_printf(out, "%.1f h</text>", share * hours);
		else if (hours >= 0.1)
			buf_printf(out, "%.3g min</text>", share * hours * 60);
		else
			buf_printf(out, "%.3g s</text>", share * hours * 3600);
	}
}

static void draw(const struct scenario *s, const struct plot *p, const struct figures *all, unsigned count,
                 struct buf *out)
{
	if (p->only_first)
		count = 1;
	struct range r = range_of(p, all, count);
	buf_printf(out, "<h2>%s</h2><svg viewBox=\"0 0 %d %d\" role=img>", p->title, WIDTH, HEIGHT);
	draw_axes(s, p, &r, out);
	for (unsigned i = count; i-- > 0;) { /* the first on top */
		buf_printf(out, "<polyline stroke=\"%s\" points=\"", colours[all[i].policy]);
		for (unsigned k = 0; k < FIGURES_LINES; k++)
			buf_printf(out, "%.1f,%.1f ", LEFT + (k + 0.5) * (WIDTH - LEFT - RIGHT) / FIGURES_LINES,
			           y_of(&r, p->of(&all[i], &all[i].lines[k])));
		buf_append_str(out, STR("\"/>"));
	}
	buf_append_str(out, STR("</svg>"));
}

/* ---- words ----------------------------------------------------------------------------------- */

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : 0;
}

static double way_mean(const struct figures *f)
{
	return f->served > 0 ? f->way_sum_us / f->served / 1e3 : 0;
}

static double moved_mean(const struct figures *f)
{
	double sum = 0;
	for (unsigned k = 1; k < FIGURES_LINES; k++)
		sum += f->lines[k].moved;
	return percent(sum, FIGURES_LINES - 1);
}

static double requests(const struct figures *f)
{
	return f->requests;
}

static double busy(const struct figures *f)
{
	return percent(f->busy, f->requests);
}

static double busy_early(const struct figures *f)
{
	return f->busy_early;
}

static double failed(const struct figures *f)
{
	return percent(f->lost, f->requests);
}

static double ttft_median(const struct figures *f)
{
	return histogram_at(&f->ttft, .5) / 1e3;
}

static double ttft_most(const struct figures *f)
{
	return histogram_at(&f->ttft, .99) / 1e3;
}

static double itl_median(const struct figures *f)
{
	return histogram_at(&f->itl, .5) / 1e3;
}

static double itl_most(const struct figures *f)
{
	return histogram_at(&f->itl, .99) / 1e3;
}

static double near(const struct figures *f)
{
	return percent(f->near, f->served);
}

static double within_10_ms(const struct figures *f)
{
	return percent(f->in_10_ms, f->served);
}

static const struct row {
	const char *name, *format;
	double (*of)(const struct figures *f);
} rows[] = {
    {"Requests", "%.0f", requests},
    {"Answered \"busy\"", "%.3f %%", busy},
    {"... before all was full", "%.0f", busy_early},
    {"Failed", "%.3f %%", failed},
    {"TTFT, median", "%.0f ms", ttft_median},
    {"TTFT, 99th percentile", "%.0f ms", ttft_most},
    {"ITL, median", "%.1f ms", itl_median},
    {"ITL, 99th percentile", "%.1f ms", itl_most},
    {"Served near", "%.1f %%", near},
    {"Served within 10 ms", "%.1f %%", within_10_ms},
    {"Way there and back, mean", "%.1f ms", way_mean},
    {"Demand that moved, mean", "%.1f %%", moved_mean},
};

/* A column a policy: six of them fit a page, twelve figures would not. */
static void append_table(const struct figures *all, unsigned count, struct buf *out)
{
	buf_append_str(out, STR("<div class=wide><table><tr><th>"));
	for (unsigned i = 0; i < count; i++)
		buf_printf(out, "<th>%s", sim_policy_names[all[i].policy]);
	buf_append_str(out, STR("</tr>"));
	for (unsigned r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		buf_printf(out, "<tr><td>%s", rows[r].name);
		for (unsigned i = 0; i < count; i++) {
			buf_append_str(out, STR("<td>"));
			buf_printf(out, rows[r].format, rows[r].of(&all[i]));
		}
		buf_append_str(out, STR("</tr>"));
	}
	buf_append_str(out, STR("</table></div><p class=key>"));
	for (unsigned i = 0; i < count; i++)
		buf_printf(out, "<span><i style=\"background:%s\"></i>%s</span>", colours[all[i].policy],
		           sim_policy_names[all[i].policy]);
	buf_append_str(out, STR("</p>"));
}

void figures_page(const struct scenario *s, const struct sim_world *w, const struct figures *all, unsigned count,
                  struct buf *out)
{
	buf_append_str(out, STR("<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
	                        "content=\"width=device-width\"><title>"));
	append_html(out, s->name);
	buf_append_str(out, STR("</title>"));
	buf_append_str(out, str_from(style));
	buf_append_str(out, STR("<h1>"));
	append_html(out, s->name);
	buf_append_str(out, STR("</h1><p>"));
	append_html(out, s->about);
	buf_printf(
	    out,
	    "</p><p>%u cities, %.0f sites, %u nodes of %.0f streams; seed %llu; %s. The single pool has the same "
	    "nodes at %.0f addresses.",
	    w->city_count, s->sites.count, w->node_count, s->engine.slots, (unsigned long long)s->seed,
	    s->flows ? "played as flows: many requests of a city at once, each parcel one decision of the shipping "
		       "code"
		     : "every request played by itself, decided by the shipping code",
	    s->sites.pool_addresses);
	if (s->tokens.source) {
		buf_append_str(out, STR(" Lengths: "));
		append_html(out, s->tokens.source);
	}
	buf_append_str(out, STR("</p>"));
	append_table(all, count, out);
	for (unsigned i = 0; i < sizeof(plots) / sizeof(plots[0]); i++)
		draw(s, &plots[i], all, count, out);
	buf_append_str(out, STR("</html>\n"));
}
