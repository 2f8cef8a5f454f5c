/* SPDX-License-Identifier: Apache-2.0 */
/* How: each step looks at the gates first, then moves the phase on, then grants or takes back as many as may be
 * unavailable. Rates and means are compared with those of the old version measured at the same time on the nodes that
 * still run it (and before, when none is left); small absolute allowances keep noise of fast models from counting.
 */
#include "core/rollout.h"

#include <stdio.h>
#include <stdlib.h>

#define ERROR_RATE_ALLOWED 0.01
#define ERRORS_LEAST 3
#define TTFT_ALLOWED_US 50000.0
#define ITL_ALLOWED_US 5000.0

static const char *const phase_names[] = {"moving", "soaking", "halted", "returning", "returned", "done"};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

const char *rollout_phase_name(enum rollout_phase p)
{
	return (size_t)p < COUNT(phase_names) ? phase_names[p] : "unknown";
}

int rollout_phase_parse(struct str text, enum rollout_phase *ret_phase)
{
	for (size_t i = 0; i < COUNT(phase_names); i++) {
		if (str_equal(text, str_from(phase_names[i]))) {
			*ret_phase = (enum rollout_phase)i;
			return 0;
		}
	}
	return E_INVAL;
}

int rollout_percents_parse(struct str text, struct rollout_policy *policy, struct error *err)
{
	size_t count = 0;
	uint64_t last = 0;
	for (bool more = true; more;) {
		struct str rest = {0}, item = str_cut(text, ',', &rest);
		uint64_t percent;
		more = item.len < text.len;
		text = rest;
		if (str_to_u64(str_trim(item), &percent) < 0 || percent <= last || percent > 100)
			return error_set(err, E_INVAL, "percents are rising numbers up to 100: 10,50,100");
		if (count == ROLLOUT_WAVES_MAX - 1 && percent < 100)
			return error_set(err, E_LIMIT, "a roll-out has at most %d waves", ROLLOUT_WAVES_MAX);
		policy->percents[count++] = (uint8_t)percent;
		last = percent;
	}
	if (last < 100)
		policy->percents[count++] = 100;
	policy->percent_count = count;
	return 0;
}

void rollout_measure_add(struct rollout_measure *to, const struct rollout_measure *more)
{
	to->requests += more->requests;
	to->errors += more->errors;
	to->ttft_us += more->ttft_us;
	to->tokens += more->tokens;
	to->decode_us += more->decode_us;
}

uint32_t rollout_waves(const struct rollout_policy *p)
{
	return (p->canary ? 1 : 0) + (uint32_t)(p->percent_count ? p->percent_count : 1);
}

size_t rollout_target(const struct rollout *r, const struct rollout_node *nodes, size_t count)
{
	const struct rollout_policy *p = &r->policy;
	size_t canaries = 0, index = r->wave - (p->canary && r->wave > 0);
	for (size_t i = 0; p->canary && i < count; i++)
		canaries += nodes[i].canary;
	if (p->canary && r->wave == 0)
		return canaries;
	size_t percent = index < p->percent_count ? p->percents[index] : 100;
	size_t share = (count * percent + 99) / 100;
	return share > canaries ? share : canaries;
}

static void phase_set(struct rollout *r, enum rollout_phase phase, int64_t now_us)
{
	r->phase = phase;
	r->since_us = now_us;
}

void rollout_begin(struct rollout *r, const struct rollout_policy *policy, int64_t now_us)
{
	*r = (struct rollout){.policy = *policy, .begun_us = now_us};
	phase_set(r, ROLLOUT_MOVING, now_us);
}

/* ---- gates ------------------------------------------------------------------------------------------------ */

static double mean(uint64_t sum, uint64_t count)
{
	return count ? (double)sum / (double)count : 0;
}

static double error_rate(const struct rollout_measure *m)
{
	return mean(m->errors, m->requests + m->errors);
}

static bool latency_rose(const struct rollout *r, const char *what, double old, double fresh, double allowed_us,
                         char *why, size_t size)
{
	if (old <= 0 || fresh <= old * r->policy.latency_factor || fresh - old <= allowed_us)
		return false;
	snprintf(why, size, "%s rose from %.1f ms to %.1f ms (allowed: %.2g times)", what, old / 1000, fresh / 1000,
	         r->policy.latency_factor);
	return true;
}

static bool traffic_is_bad(const struct rollout *r, char *why, size_t size)
{
	const struct rollout_measure *old = &r->old, *fresh = &r->fresh;
	double allowed = error_rate(old) * r->policy.error_factor + ERROR_RATE_ALLOWED;
	if (fresh->requests + fresh->errors < r->policy.least_requests)
		return false;
	if (fresh->errors >= ERRORS_LEAST && error_rate(fresh) > allowed) {
		snprintf(why, size, "%.1f %% of %llu requests failed, with the old version %.1f %% (allowed: %.1f %%)",
		         error_rate(fresh) * 100, (unsigned long long)(fresh->requests + fresh->errors),
		         error_rate(old) * 100, allowed * 100);
		return true;
	}
	if (old->requests < r->policy.least_requests)
		return false;
	return latency_rose(r, "time to first token", mean(old->ttft_us, old->requests),
	                    mean(fresh->ttft_us, fresh->requests), TTFT_ALLOWED_US, why, size) ||
	       latency_rose(r, "time between tokens", mean(old->decode_us, old->tokens),
	                    mean(fresh->decode_us, fresh->tokens), ITL_ALLOWED_US, why, size);
}

static bool node_is_bad(const struct rollout *r, const struct rollout_node *n, int64_t now_us, char *why, size_t size)
{
	if (n->granted_us == 0 || n->fresh == HAVE_READY)
		return false;
	if (n->fresh == HAVE_FAILED) {
		snprintf(why, size, "node %.60s cannot run it: %.100s", n->name,
		         n->error ? n->error : "no reason given");
		return true;
	}
	if (now_us - n->granted_us <= r->policy.patience_us)
		return false;
	snprintf(why, size, "node %.60s is not ready %lld s after it was told to run it", n->name,
	         (long long)((now_us - n->granted_us) / 1000000));
	return true;
}

static bool gate_fails(const struct rollout *r, const struct rollout_node *nodes, size_t count, int64_t now_us,
                       char *why, size_t size)
{
	if (!r->policy.gated)
		return false;
	for (size_t i = 0; i < count; i++)
		if (node_is_bad(r, &nodes[i], now_us, why, size))
			return true;
	return traffic_is_bad(r, why, size);
}

/* ---- steps --------------------------------------------------------------------------------------------------- */

static int by_rank(const void *a, const void *b)
{
	const struct rollout_node *x = a, *y = b;
	if (x->canary != y->canary)
		return y->canary - x->canary;
	return (x->key > y->key) - (x->key < y->key);
}

void rollout_rank(const struct rollout *r, struct rollout_node *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		nodes[i].canary = nodes[i].canary && r->policy.canary;
	if (count > 1)
		qsort(nodes, count, sizeof(*nodes), by_rank);
	for (size_t i = 0; i < count; i++)
		nodes[i].rank = i;
}

static size_t unavailable_most(const struct rollout *r, size_t count)
{
	size_t most = count * r->policy.unavailable_percent / 100;
	return most > 0 ? most : 1;
}

/* Of those told to run the new one: on its way there. */
static bool is_between(const struct rollout *r, const struct rollout_node *n)
{
	bool went_back = n->fresh == HAVE_FAILED && n->old == HAVE_READY && !r->policy.gated;
	return n->granted_us && !n->away && n->fresh != HAVE_READY && !went_back;
}

static bool grant(struct rollout *r, struct rollout_node *nodes, size_t count, size_t target, int64_t now_us)
{
	size_t between = 0, most = unavailable_most(r, count);
	bool changed = false;
	for (size_t i = 0; i < count; i++)
		between += is_between(r, &nodes[i]);
	for (size_t i = 0; i < target; i++) {
		struct rollout_node *n = &nodes[i];
		bool here = n->fresh == HAVE_ON_DISK || n->fresh == HAVE_LOADING || n->fresh == HAVE_READY;
		/* Nothing runs there yet, so nothing can become unavailable. */
		bool empty = n->old != HAVE_READY && n->old != HAVE_LOADING;
		if (n->granted_us || n->away || !here || (between >= most && !empty && n->fresh != HAVE_READY))
			continue;
		n->granted_us = now_us;
		between += n->fresh != HAVE_READY && !empty;
		changed = true;
	}
	return changed;
}

static bool wave_is_ready(const struct rollout *r, const struct rollout_node *nodes, size_t target)
{
	size_t there = 0;
	for (size_t i = 0; i < target; i++) {
		const struct rollout_node *n = &nodes[i];
		bool failed = n->fresh == HAVE_FAILED && !r->policy.gated;
		if (n->away || failed)
			continue;
		if (!n->granted_us || n->fresh != HAVE_READY)
			return false;
		there++;
	}
	return there > 0 || target == 0 || !r->policy.gated;
}

/* One on which the old version does not run any more is as far back as it gets: it holds nobody up. */
static bool is_coming_back(const struct rollout_node *n)
{
	return !n->granted_us && !n->away && n->old != HAVE_READY && n->old != HAVE_FAILED &&
	       (n->fresh == HAVE_READY || n->old == HAVE_ON_DISK || n->old == HAVE_LOADING);
}

static bool take_back(struct rollout *r, struct rollout_node *nodes, size_t count, int64_t now_us)
{
	size_t between = 0, granted = 0, most = unavailable_most(r, count);
	bool changed = false;
	for (size_t i = 0; i < count; i++)
		between += is_coming_back(&nodes[i]);
	for (size_t i = 0; i < count; i++) {
		struct rollout_node *n = &nodes[i];
		if (!n->granted_us)
			continue;
		/* What does not answer now cannot become less available. */
		bool free_of_charge = n->away || n->fresh != HAVE_READY || n->old == HAVE_READY;
		if (between >= most && !free_of_charge) {
			granted++;
			continue;
		}
		n->granted_us = 0;
		between += !free_of_charge;
		changed = true;
	}
	bool answers = false; /* some node still answers with the new one */
	for (size_t i = 0; i < count; i++)
		answers = answers || (!nodes[i].away && nodes[i].fresh == HAVE_READY && nodes[i].old != HAVE_FAILED);
	if (granted == 0 && between == 0 && !answers && !changed) {
		phase_set(r, ROLLOUT_RETURNED, now_us);
		changed = true;
	}
	return changed;
}

/* For people: the first node that the wave waits for, or better the first that says why. */
static void say_what_it_waits_for(struct rollout *r, const struct rollout_node *nodes, size_t target)
{
	const struct rollout_node *found = NULL;
	r->why[0] = '\0';
	if (r->phase != ROLLOUT_MOVING)
		return;
	for (size_t i = 0; i < target; i++) {
		const struct rollout_node *n = &nodes[i];
		if (n->away || (n->granted_us && n->fresh == HAVE_READY))
			continue;
		bool says = n->fresh == HAVE_FAILED;
		if (!found || (says && found->fresh != HAVE_FAILED))
			found = n;
	}
	if (found && found->fresh == HAVE_FAILED)
		snprintf(r->why, sizeof(r->why), "waits for node %.60s: %.100s", found->name,
		         found->error ? found->error : "it failed and says no more");
	else if (found)
		snprintf(r->why, sizeof(r->why), "waits for node %.60s", found->name);
	else if (target > 0)
		snprintf(r->why, sizeof(r->why), "waits for a node of the wave to be back");
}

static bool move_on(struct rollout *r, const struct rollout_node *nodes, size_t count, size_t target, int64_t now_us)
{
	if (!wave_is_ready(r, nodes, target))
		return false;
	if (r->phase == ROLLOUT_MOVING) {
		phase_set(r, ROLLOUT_SOAKING, now_us);
		if (r->policy.gated)
			return true;
	}
	if (r->policy.gated && now_us - r->since_us < r->policy.soak_us)
		return false;
	if (r->wave + 1 >= rollout_waves(&r->policy)) {
		phase_set(r, ROLLOUT_DONE, now_us);
		return true;
	}
	r->wave++;
	r->fresh = (struct rollout_measure){0};
	phase_set(r, ROLLOUT_MOVING, now_us);
	return true;
}

bool rollout_step(struct rollout *r, struct rollout_node *nodes, size_t count, int64_t now_us)
{
	char why[sizeof(r->why)];
	bool changed = false;
	rollout_rank(r, nodes, count);
	if (now_us < r->since_us)
		r->since_us = now_us; /* the clock was set back: soak anew */
	if (r->phase == ROLLOUT_MOVING || r->phase == ROLLOUT_SOAKING) {
		if (gate_fails(r, nodes, count, now_us, why, sizeof(why))) {
			memcpy(r->why, why, sizeof(r->why));
			phase_set(r, r->policy.halt_only ? ROLLOUT_HALTED : ROLLOUT_RETURNING, now_us);
			changed = true;
		} else {
			size_t target = rollout_target(r, nodes, count);
			changed = move_on(r, nodes, count, target, now_us);
			target = rollout_target(r, nodes, count);
			if (r->phase != ROLLOUT_DONE)
				changed = grant(r, nodes, count, target, now_us) || changed;
			say_what_it_waits_for(r, nodes, target);
		}
	}
	if (r->phase == ROLLOUT_RETURNING)
		changed = take_back(r, nodes, count, now_us) || changed;
	return changed;
}

enum rollout_want rollout_want(const struct rollout *r, const struct rollout_node *node, size_t target)
{
	if (r->phase == ROLLOUT_DONE || node->granted_us)
		return WANT_NEW;
	bool moving = r->phase == ROLLOUT_MOVING || r->phase == ROLLOUT_SOAKING;
	return moving && node->rank < target ? WANT_FETCH : WANT_OLD;
}

/* ---- people ------------------------------------------------------------------------------------------------------ */

static void because(struct rollout *r, const char *why)
{
	snprintf(r->why, sizeof(r->why), "%s", why);
}

int rollout_halt(struct rollout *r, int64_t now_us, const char *why, struct error *err)
{
	if (r->phase != ROLLOUT_MOVING && r->phase != ROLLOUT_SOAKING)
		return error_set(err, E_CONFLICT, "the roll-out is %s: there is nothing to halt",
		                 rollout_phase_name(r->phase));
	because(r, why);
	phase_set(r, ROLLOUT_HALTED, now_us);
	return 0;
}

int rollout_continue(struct rollout *r, struct rollout_node *nodes, size_t count, int64_t now_us, struct error *err)
{
	if (r->phase == ROLLOUT_MOVING || r->phase == ROLLOUT_SOAKING || r->phase == ROLLOUT_DONE)
		return error_set(err, E_CONFLICT, "the roll-out is %s: it needs no word to go on",
		                 rollout_phase_name(r->phase));
	if (r->phase != ROLLOUT_HALTED)
		r->wave = 0;
	/* What failed the gate was accepted by whoever says so: a node that failed tries again, all get their time. */
	r->fresh = (struct rollout_measure){0};
	for (size_t i = 0; i < count; i++) {
		if (nodes[i].granted_us && nodes[i].fresh != HAVE_READY)
			nodes[i].granted_us = nodes[i].fresh == HAVE_FAILED ? 0 : now_us;
	}
	because(r, "");
	phase_set(r, ROLLOUT_MOVING, now_us);
	return 0;
}

int rollout_return(struct rollout *r, int64_t now_us, const char *why, struct error *err)
{
	if (r->phase == ROLLOUT_RETURNING || r->phase == ROLLOUT_RETURNED)
		return error_set(err, E_CONFLICT, "the roll-out is %s already", rollout_phase_name(r->phase));
	because(r, why);
	phase_set(r, ROLLOUT_RETURNING, now_us);
	return 0;
}
