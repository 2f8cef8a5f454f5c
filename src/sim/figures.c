/* SPDX-License-Identifier: Apache-2.0 */
/* A bucket's number is made of a double's exponent and the upper bits of its fraction: no logarithm. */
#include "sim/figures.h"

#include <math.h>
#include <stdlib.h>

#define NEAR_US 5000
#define CITY_US 10000

static unsigned bucket_of(double us)
{
	uint64_t bits;
	if (us < 1)
		return 0;
	memcpy(&bits, &us, sizeof(bits));
	unsigned octave = (unsigned)(bits >> 52) - 1023, step = (unsigned)(bits >> 47) & (HISTOGRAM_STEPS - 1);
	return octave < HISTOGRAM_OCTAVES ? octave * HISTOGRAM_STEPS + step : HISTOGRAM_OCTAVES * HISTOGRAM_STEPS - 1;
}

void histogram_add(struct histogram *h, double us, double count)
{
	h->counts[bucket_of(us)] += count;
	h->total += count;
	h->sum_us += us * count;
}

double histogram_at(const struct histogram *h, double share)
{
	double left = h->total * share;
	if (h->total <= 0)
		return 0;
	for (unsigned i = 0; i < HISTOGRAM_OCTAVES * HISTOGRAM_STEPS; i++) {
		left -= h->counts[i];
		if (left <= 0 && h->counts[i] > 0)
			return ldexp(1 + (i % HISTOGRAM_STEPS + 0.5) / HISTOGRAM_STEPS, (int)(i / HISTOGRAM_STEPS));
	}
	return ldexp(1, HISTOGRAM_OCTAVES);
}

void figures_init(struct figures *f, const struct sim_world *w, enum sim_policy policy)
{
	*f = (struct figures){.policy = policy, .sites = w->site_count};
	f->regions = (uint32_t)w->scenario->network.regions;
	f->slots = w->scenario->engine.slots * w->node_count;
	f->line_ttft = mem_new(FIGURES_LINES * sizeof(*f->line_ttft));
	f->flows = mem_new((size_t)f->regions * f->sites * sizeof(float));
	f->flows_before = mem_new((size_t)f->regions * f->sites * sizeof(float));
}

void figures_fini(struct figures *f)
{
	free(f->line_ttft);
	free(f->flows);
	free(f->flows_before);
	*f = (struct figures){0};
}

/* Half of how much the shares differ from the line before, weighted by each region's demand. */
static double moved(const struct figures *f)
{
	double different = 0, all = 0;
	for (uint32_t r = 0; r < f->regions; r++) {
		const float *now = f->flows + (size_t)r * f->sites, *was = f->flows_before + (size_t)r * f->sites;
		double now_sum = 0, was_sum = 0, sum = 0;
		for (uint32_t s = 0; s < f->sites; s++) {
			now_sum += now[s];
			was_sum += was[s];
		}
		if (now_sum <= 0 || was_sum <= 0)
			continue;
		for (uint32_t s = 0; s < f->sites; s++)
			sum += fabs(now[s] / now_sum - was[s] / was_sum);
		different += sum / 2 * now_sum;
		all += now_sum;
	}
	return all > 0 ? different / all : 0;
}

static void close_line(struct figures *f, const struct sim_world *w)
{
	struct figures_line *l = &f->lines[f->line];
	double length = (double)w->scenario->duration_us / FIGURES_LINES;
	l->offered = sim_offered(w, (int64_t)((f->line + 0.5) * length));
	l->streams /= length;
	l->moved = f->line > 0 ? moved(f) : 0;
	f->streams_most = l->streams > f->streams_most ? l->streams : f->streams_most;
	f->was_full = f->was_full || l->offered > 1;
	if (!f->was_full)
		f->busy_early += l->busy;
	float *swap = f->flows_before;
	f->flows_before = f->flows;
	f->flows = swap;
	memset(f->flows, 0, (size_t)f->regions * f->sites * sizeof(float));
}

void figures_turn(struct figures *f, const struct sim_world *w, int64_t now_us)
{
	double length = (double)w->scenario->duration_us / FIGURES_LINES;
	uint32_t line = (uint32_t)((double)now_us / length);
	for (; f->line < line && f->line + 1 < FIGURES_LINES; f->line++)
		close_line(f, w);
}

void figures_request(struct figures *f, double count)
{
	f->requests += count;
	f->lines[f->line].requests += count;
}

static int64_t nearest_us(const struct sim_world *w, uint32_t city, uint32_t model)
{
	int64_t best = INT64_MAX;
	for (uint32_t s = 0; s < w->site_count; s++) {
		int64_t us = sim_rtt_us(w, city, s);
		for (uint32_t n = w->site_first[s]; us < best && n < w->site_first[s] + w->site_nodes[s]; n++)
			if (w->nodes[n].models >> model & 1)
				best = us;
	}
	return best;
}

void figures_served(struct figures *f, const struct sim_world *w, uint32_t city, uint32_t site, uint32_t model,
                    double count)
{
	int64_t us = sim_rtt_us(w, city, site);
	f->served += count;
	f->lines[f->line].served += count;
	if (us <= CITY_US)
		f->in_10_ms += count;
	if (site == w->cities[city].nearest || us <= nearest_us(w, city, model) + NEAR_US)
		f->near += count;
	f->way_sum_us += (double)us * count;
	histogram_add(&f->way, (double)us, count);
	f->flows[(size_t)w->cities[city].region * f->sites + site] += (float)count;
}

void figures_ttft(struct figures *f, double us, double count)
{
	histogram_add(&f->ttft, us, count);
	histogram_add(&f->line_ttft[f->line], us, count);
}

void figures_busy(struct figures *f, double count, bool with_room)
{
	f->busy += count;
	f->lines[f->line].busy += count;
	if (with_room)
		f->busy_with_room += count;
}

void figures_lost(struct figures *f, double count)
{
	f->lost += count;
	f->lines[f->line].lost += count;
}

void figures_end(struct figures *f, const struct sim_world *w)
{
	for (; f->line < FIGURES_LINES; f->line++)
		close_line(f, w);
	for (unsigned i = 0; i < FIGURES_LINES; i++) {
		f->lines[i].p50_us = histogram_at(&f->line_ttft[i], 0.5);
		f->lines[i].p99_us = histogram_at(&f->line_ttft[i], 0.99);
	}
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static double of(double part, double whole)
{
	return whole > 0 ? part / whole : 0;
}

static void format_quantiles(const struct histogram *h, const char *name, struct buf *out)
{
	buf_printf(out, ",\"%s_ms\":{\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f}", name,
	           of(h->sum_us, h->total) / 1e3, histogram_at(h, .5) / 1e3, histogram_at(h, .9) / 1e3,
	           histogram_at(h, .99) / 1e3, histogram_at(h, .999) / 1e3);
}

static void format_lines(const struct scenario *s, const struct figures *f, struct buf *out)
{
	double length_s = (double)s->duration_us / FIGURES_LINES / 1e6;
	for (unsigned i = 0; i < FIGURES_LINES; i++) {
		const struct figures_line *l = &f->lines[i];
		buf_printf(out,
		           "%s{\"at_s\":%.0f,\"requests\":%.0f,\"served\":%.0f,\"busy\":%.0f,\"lost\":%.0f,"
		           "\"offered\":%.4f,\"streams\":%.1f,\"used\":%.4f,\"moved\":%.4f,\"ttft_p50_ms\":%.3f,"
		           "\"ttft_p99_ms\":%.3f}",
		           i ? "," : "", i * length_s, l->requests, l->served, l->busy, l->lost, l->offered, l->streams,
		           of(l->streams, f->slots), l->moved, l->p50_us / 1e3, l->p99_us / 1e3);
	}
}

static void format_policy(const struct scenario *s, const struct figures *f, struct buf *out)
{
	double most = 0, sum = 0, used = 0;
	for (unsigned i = 1; i < FIGURES_LINES; i++) {
		most = f->lines[i].moved > most ? f->lines[i].moved : most;
		sum += f->lines[i].moved;
	}
	for (unsigned i = 0; i < FIGURES_LINES; i++)
		used += f->lines[i].streams / FIGURES_LINES;
	buf_printf(out,
	           "{\"policy\":\"%s\",\"requests\":%.0f,\"served\":%.0f,\"busy\":%.0f,\"busy_share\":%.6f,"
	           "\"busy_while_room\":%.0f,\"busy_before_full\":%.0f,\"lost\":%.0f,\"retries\":%.0f,"
	           "\"served_near\":%.4f,\"served_within_10ms\":%.4f,\"wrong_node\":%.0f",
	           sim_policy_names[f->policy], f->requests, f->served, f->busy, of(f->busy, f->requests),
	           f->busy_with_room, f->busy_early, f->lost, f->retries, of(f->near, f->served),
	           of(f->in_10_ms, f->served), f->wrong);
	buf_printf(out,
	           ",\"streams_most\":%.0f,\"slots\":%.0f,\"used\":%.4f,\"moved_mean\":%.4f,\"moved_most\":%.4f,"
	           "\"decisions\":%.0f,\"decision_us\":%.3f,\"took_s\":%.2f",
	           f->streams_most, f->slots, of(used, f->slots), sum / (FIGURES_LINES - 1), most, f->decisions,
	           of(f->decision_s * 1e6, f->decisions), f->took_s);
	format_quantiles(&f->ttft, "ttft", out);
	format_quantiles(&f->itl, "itl", out);
	format_quantiles(&f->way, "distance", out);
	buf_append_str(out, STR(",\"lines\":["));
	format_lines(s, f, out);
	buf_append_str(out, STR("]}"));
}

void figures_format(const struct scenario *s, const struct sim_world *w, const struct figures *all, unsigned count,
                    struct buf *out)
{
	buf_append_str(out, STR("{\"scenario\":"));
	buf_append_json(out, str_from(s->name));
	buf_append_str(out, STR(",\"about\":"));
	buf_append_json(out, str_from(s->about ? s->about : ""));
	buf_append_str(out, STR(",\"tokens_source\":"));
	buf_append_json(out, str_from(s->tokens.source ? s->tokens.source : ""));
	buf_printf(out,
	           ",\"mode\":\"%s\",\"seed\":%llu,\"duration_s\":%.0f,\"cities\":%u,\"sites\":%.0f,\"nodes\":%u,"
	           "\"policies\":[",
	           s->flows ? "flows" : "requests", (unsigned long long)s->seed, (double)s->duration_us / 1e6,
	           w->city_count, s->sites.count, w->node_count);
	for (unsigned i = 0; i < count; i++) {
		if (i > 0)
			buf_append_str(out, STR(","));
		format_policy(s, &all[i], out);
	}
	buf_append_str(out, STR("]}\n"));
}
