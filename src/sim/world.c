/* SPDX-License-Identifier: Apache-2.0 */
/* Sites are the largest cities, but every region's capital comes first, so that each region has one while there are
 * enough. Nodes are dealt to sites by the users who are nearest to them, at least one a site, largest remainder
 * first. */
#include "sim/world.h"

#include "core/node_map_index.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LOCAL_US 200 /* of two in one city */
#define QUANTILES 512
#define RAMP 0.1 /* of a flash crowd's time: rise, and fall */

/* ---- places ---------------------------------------------------------------------------------- */

static double normal(struct rng *rng)
{
	return sqrt(-2 * log(1 - rng_unit(rng))) * cos(2 * M_PI * rng_unit(rng));
}

static double between_km(const struct sim_city *a, const struct sim_city *b)
{
	return hypot(a->x_km - b->x_km, a->y_km - b->y_km);
}

static int by_weight(const void *a, const void *b)
{
	double x = ((const struct sim_city *)a)->weight, y = ((const struct sim_city *)b)->weight;
	return (x < y) - (x > y);
}

static void place_cities(struct sim_world *w, struct rng *rng)
{
	const struct scenario_network *n = &w->scenario->network;
	uint32_t regions = (uint32_t)n->regions, across = (uint32_t)ceil(sqrt(regions * n->width_km / n->height_km));
	uint32_t down = (regions + across - 1) / across;
	double *x = mem_new(regions * sizeof(double)), *y = mem_new(regions * sizeof(double)), sum = 0;
	for (uint32_t r = 0; r < regions; r++) {
		x[r] = (r % across + 0.25 + 0.5 * rng_unit(rng)) * n->width_km / across;
		uint32_t row = r / across;
		y[r] = (row + 0.25 + 0.5 * rng_unit(rng)) * n->height_km / down;
	}
	for (uint32_t i = 0; i < w->city_count; i++) {
		struct sim_city *c = &w->cities[i];
		bool capital = i < regions;
		c->region = capital ? i : (uint32_t)rng_below(rng, regions);
		c->x_km = x[c->region] + (capital ? 0 : normal(rng) * n->region_km);
		c->y_km = y[c->region] + (capital ? 0 : normal(rng) * n->region_km);
		c->weight = pow(i + 1.0, -0.8); /* flatter than Zipf's 1: prefectures, not towns */
		sum += c->weight;
	}
	for (uint32_t i = 0; i < w->city_count; i++)
		w->cities[i].weight /= sum;
	free(x);
	free(y);
	if (w->site_count > regions)
		qsort(w->cities + regions, w->city_count - regions, sizeof(*w->cities), by_weight);
	double before = 0;
	for (uint32_t i = 0; i < w->city_count; i++) {
		snprintf(w->cities[i].name, sizeof(w->cities[i].name), "c%u", i);
		w->cities[i].weights_before = before;
		before += w->cities[i].weight;
	}
}

static void measure(struct sim_world *w)
{
	double us_per_km = w->scenario->network.us_per_km;
	for (uint32_t i = 0; i < w->city_count; i++) {
		uint32_t best = 0;
		for (uint32_t s = 0; s < w->site_count; s++) {
			double us = between_km(&w->cities[i], &w->cities[s]) * us_per_km;
			w->rtt_us[(size_t)i * w->site_count + s] = (int32_t)(us < LOCAL_US ? LOCAL_US : us);
			if (sim_rtt_us(w, i, s) < sim_rtt_us(w, i, best))
				best = s;
		}
		w->cities[i].nearest = best;
	}
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void deal_nodes(struct sim_world *w)
{
	double *wanted = mem_new(w->site_count * sizeof(double));
	uint32_t left = w->node_count - w->site_count, given = 0;
	for (uint32_t i = 0; i < w->city_count; i++)
		wanted[w->cities[i].nearest] += w->cities[i].weight;
	for (uint32_t s = 0; s < w->site_count; s++) {
		double share = wanted[s] * w->node_count - 1;
		uint32_t whole = share > 0 ? (uint32_t)share : 0;
		whole = whole < left - given ? whole : left - given;
		w->site_nodes[s] = 1 + whole;
		given += whole;
		wanted[s] = wanted[s] * w->node_count - w->site_nodes[s];
	}
	for (; given < left; given++) {
		uint32_t most = 0;
		for (uint32_t s = 1; s < w->site_count; s++)
			most = wanted[s] > wanted[most] ? s : most;
		w->site_nodes[most]++;
		wanted[most]--;
	}
	free(wanted);
}

/* The k-th of every 1 / share nodes has it; the first always. */
static bool is_chosen(uint32_t node, double share)
{
	return node == 0 || floor((node + 1) * share) > floor(node * share);
}

static void make_nodes(struct sim_world *w)
{
	const struct scenario *s = w->scenario;
	uint32_t n = 0;
	for (uint32_t site = 0; site < w->site_count; site++) {
		w->site_first[site] = n;
		for (uint32_t i = 0; i < w->site_nodes[site]; i++, n++) {
			w->nodes[n].site = site;
			for (uint32_t m = 0; m < s->model_count; m++)
				if (is_chosen(n, s->models[m].nodes_share))
					w->nodes[n].models |= 1u << m;
		}
	}
}

void sim_world_init(struct sim_world *w, const struct scenario *s, uint32_t pools)
{
	struct rng rng;
	rng_init(&rng, s->seed);
	*w = (struct sim_world){.scenario = s};
	w->city_count = (uint32_t)s->network.cities;
	w->site_count = (uint32_t)s->sites.count;
	w->node_count = (uint32_t)s->sites.nodes;
	w->cities = mem_new(w->city_count * sizeof(*w->cities));
	place_cities(w, &rng);
	if (pools > 0)
		w->site_count = pools;
	w->nodes = mem_new(w->node_count * sizeof(*w->nodes));
	w->site_nodes = mem_new(w->site_count * sizeof(uint32_t));
	w->site_first = mem_new(w->site_count * sizeof(uint32_t));
	w->rtt_us = mem_new((size_t)w->city_count * w->site_count * sizeof(int32_t));
	w->labels = mem_new(s->model_count * sizeof(*w->labels));
	w->model_names = mem_new(s->model_count * sizeof(*w->model_names));
	for (uint32_t m = 0; m < s->model_count; m++) {
		snprintf(w->model_names[m], sizeof(w->model_names[m]), "%s:latest", s->models[m].name);
		if (!model_label(str_from(s->models[m].name), w->labels[m]))
			w->labels[m][0] = '\0';
	}
	measure(w);
	deal_nodes(w);
	if (pools > 0) /* each address the same, whatever is near it */
		for (uint32_t i = 0; i < pools; i++)
			w->site_nodes[i] = w->node_count / pools + (i < w->node_count % pools);
	make_nodes(w);
}

void sim_world_fini(struct sim_world *w)
{
	free(w->cities);
	free(w->nodes);
	free(w->site_nodes);
	free(w->site_first);
	free(w->rtt_us);
	free(w->labels);
	free(w->model_names);
	*w = (struct sim_world){0};
}

void sim_world_tell(const struct sim_world *w, struct node_map *map)
{
	size_t pairs = (size_t)w->site_count * (w->city_count - 1), n = 0;
	char(*lines)[64] = mem_new((pairs + 1) * sizeof(*lines));
	struct str *texts = mem_new((pairs + w->city_count + 1) * sizeof(*texts));
	for (uint32_t s = 0; s < w->site_count; s++) {
		for (uint32_t c = 0; c < w->city_count; c++) {
			if (c == s || (c < s && c < w->site_count)) /* a pair is told once */
				continue;
			snprintf(lines[n], sizeof(lines[n]), "%s-%s=%dus", w->cities[c].name, w->cities[s].name,
			         (int)sim_rtt_us(w, c, s));
			texts[n] = str_from(lines[n]);
			n++;
		}
	}
	struct error err;
	int rc = node_map_set_distances(map, texts, n, &err);
	char(*zones)[64] = mem_new(w->city_count * sizeof(*zones));
	for (uint32_t c = 0; c < w->city_count; c++) {
		snprintf(zones[c], sizeof(zones[c]), "10.%u.%u.0/24=%s", c >> 8, c & 255, w->cities[c].name);
		texts[c] = str_from(zones[c]);
	}
	if (rc == 0)
		rc = node_map_set_zones(map, texts, w->city_count, &err);
	if (rc != 0) /* ours to get right: the lines were made here */
		abort();
	free(zones);
	free(texts);
	free(lines);
}

/* ---- users ----------------------------------------------------------------------------------- */

static double users_at(const struct scenario *s, int64_t now_us)
{
	const struct scenario_users *u = &s->users;
	int64_t rise_us = s->duration_us > s->day_us ? s->duration_us - s->day_us : s->duration_us;
	double share = now_us < rise_us ? (double)now_us / (double)rise_us : 1;
	return u->grow_from * pow(u->count / u->grow_from, share);
}

double sim_rate(const struct scenario *s, int64_t now_us)
{
	const struct scenario_users *u = &s->users;
	double turn = (double)now_us / (double)s->day_us - (double)u->peak_us / 86400e6;
	return users_at(s, now_us) * u->requests_per_day / 86400 * (1 + u->diurnal * cos(2 * M_PI * turn));
}

double sim_flash(const struct scenario *s, int64_t now_us, uint32_t model, uint32_t region)
{
	double factor = 1;
	for (unsigned i = 0; i < s->flash_count; i++) {
		const struct scenario_flash *f = &s->flash[i];
		double x = (double)(now_us - f->at_us) / (double)f->lasts_us;
		if (x <= 0 || x >= 1 || (f->model_at >= 0 && (uint32_t)f->model_at != model) ||
		    (f->region > 0 && (uint32_t)f->region != region + 1))
			continue;
		double height = x < RAMP ? x / RAMP : x > 1 - RAMP ? (1 - x) / RAMP : 1;
		factor *= 1 + (f->times - 1) * height;
	}
	return factor;
}

double sim_rate_most(const struct scenario *s)
{
	const struct scenario_users *u = &s->users;
	double users = u->count > u->grow_from ? u->count : u->grow_from, most = 1;
	for (unsigned i = 0; i < s->flash_count; i++)
		most *= s->flash[i].times;
	return users * u->requests_per_day / 86400 * (1 + u->diurnal) * most;
}

uint32_t sim_city_draw(const struct sim_world *w, struct rng *rng)
{
	double x = rng_unit(rng);
	uint32_t low = 0, high = w->city_count;
	while (high - low > 1) {
		uint32_t middle = (low + high) / 2;
		if (w->cities[middle].weights_before <= x)
			low = middle;
		else
			high = middle;
	}
	return low;
}

uint32_t sim_model_draw(const struct scenario *s, struct rng *rng)
{
	double x = rng_unit(rng);
	uint32_t m = 0;
	while (m + 1 < s->model_count && x >= s->models[m].share)
		x -= s->models[m++].share;
	return m;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Acklam's rational approximation; relative error below 1.2e-9. */
double sim_normal_at(double p)
{
	static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
	                           1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
	static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
	                           6.680131188771972e+01, -1.328068155288572e+01};
	static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
	                           -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
	static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
	                           3.754408661907416e+00};
	if (p < 1e-12)
		p = 1e-12;
	if (p > 1 - 1e-12)
		p = 1 - 1e-12;
	if (p < 0.02425 || p > 1 - 0.02425) {
		double q = sqrt(-2 * log(p < 0.5 ? p : 1 - p));
		double x = (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
		           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
		return p < 0.5 ? x : -x;
	}
	double q = p - 0.5, r = q * q;
	return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
	       (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

int32_t sim_tokens_at(double median, double sigma, double most, double share)
{
	double x = median * exp(sigma * sim_normal_at(share));
	return x < 1 ? 1 : x > most ? (int32_t)most : (int32_t)x;
}

double sim_tokens_mean(double median, double sigma, double most)
{
	double sum = 0;
	for (int i = 0; i < QUANTILES; i++)
		sum += sim_tokens_at(median, sigma, most, (i + 0.5) / QUANTILES);
	return sum / QUANTILES;
}

/* ---- load ------------------------------------------------------------------------------------ */

static double load_of(const struct scenario *s, double rate, double nodes)
{
	const struct scenario_engine *e = &s->engine;
	const struct scenario_tokens *t = &s->tokens;
	double prompt = sim_tokens_mean(t->prompt_median, t->prompt_sigma, t->prompt_most);
	double output = sim_tokens_mean(t->output_median, t->output_sigma, t->output_most);
	double uncached = prompt * (1 - t->cached_share), kv = prompt + output;
	double streams = e->slots < e->kv_tokens / kv ? e->slots : e->kv_tokens / kv;
	double itl_s = ((double)e->itl_base_us + e->itl_slope_us * streams) / 1e6;
	double prefill_s = uncached / e->prefill_tokens_per_s;
	double decode = rate * (output * itl_s + prefill_s) / (nodes * streams), prefill = rate * prefill_s / nodes;
	return decode > prefill ? decode : prefill;
}

double sim_offered(const struct sim_world *w, int64_t now_us)
{
	const struct scenario *s = w->scenario;
	double rate = sim_rate(s, now_us), sum = 0, worst = 0;
	for (uint32_t m = 0; m < s->model_count; m++) {
		double of_model = 0, nodes = 0;
		double last = -1, factor = 1;
		for (uint32_t c = 0; c < w->city_count; c++) {
			if (w->cities[c].region != last)
				factor = sim_flash(s, now_us, m, w->cities[c].region);
			last = w->cities[c].region;
			of_model += w->cities[c].weight * factor;
		}
		for (uint32_t n = 0; n < w->node_count; n++)
			nodes += w->nodes[n].models >> m & 1;
		of_model *= rate * s->models[m].share;
		double load = load_of(s, of_model, nodes);
		worst = load > worst ? load : worst;
		sum += of_model;
	}
	double all = load_of(s, sum, w->node_count);
	return all > worst ? all : worst;
}
