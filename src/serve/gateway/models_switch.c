/* SPDX-License-Identifier: Apache-2.0 */
/* How: the first SHARE_US after a new version beside the old one is ready it takes a rising part of the new requests,
 * so that a cold cache does not meet them all at once; then it stands in the list. Where memory is short, even after
 * idle models have gone, the old version yields: the own entry of the map says that it does not answer, other nodes
 * take the requests, those that nobody else can take wait here, and when it is idle the new one is loaded. Fails that,
 * the old one comes back. An old version that is on disk only is simply followed by the new one.
 */
#include "serve/gateway/internal.h"

#include <stdio.h>

#define SHARE_US (3 * US_PER_S)
#define YIELD_HOPS_US (1500 * US_PER_MS) /* so long a map may be old that says this node answers */

static int64_t now_us(const struct model *m)
{
	return loop_now_us(m->g->loop);
}

static void begin(struct model *m)
{
	struct error err = {0};

	if (model_start(m, &err) < 0)
		log_error(ROOM, "model %s cannot be used: %s", m->name, err.text);
}

struct model *model_pick(struct model *m)
{
	m->used_us = now_us(m);
	m->used_wall_us = clock_wall_us();
	if (!m->shared_us || !m->next || m->next->state != MODEL_READY)
		return m;
	int64_t part = now_us(m) - m->shared_us;
	if ((int64_t)rng_below(&m->g->rng, SHARE_US) >= part)
		return m;
	m->next->used_us = m->used_us;
	m->next->used_wall_us = m->used_wall_us;
	return m->next;
}

bool model_takes_hops(const struct model *m)
{
	return model_answers(m) ||
	       (m->state == MODEL_READY && m->yielding_us && now_us(m) - m->yielding_us < YIELD_HOPS_US);
}

bool model_switching(const struct model *m)
{
	return m->next && m->next->state != MODEL_FAILED;
}

void model_depart(struct model *m)
{
	m->removing = true;
	m->following = m->g->leaving;
	m->g->leaving = m;
	models_settle_soon(m->g);
}

/* next stands in the list from now on. */
static void model_succeed(struct model *m)
{
	struct model **at = &m->g->models, *next = m->next;

	while (*at != m)
		at = &(*at)->following;
	next->following = m->following;
	*at = next;
	m->next = NULL;
	m->yielding_us = m->shared_us = 0;
	log_info(ROOM, "model %s: version %.19s in place of %.19s", m->name, next->digest, m->digest);
	model_depart(m);
}

void model_next_drop(struct model *m)
{
	if (!m->next)
		return;
	model_depart(m->next);
	m->next = NULL;
	m->yielding_us = m->shared_us = 0;
}

/* Idle, and there is no room for two: one goes, the other comes. The old one is kept without its engine until it is
 * known that the new one works. */
static void model_exchange(struct model *m)
{
	struct model *next = m->next;

	if (room_make(next, m, true) != RESIDENCE_FITS)
		return;
	model_stop(m);
	next->came_after = true;
	begin(next);
	m->state = MODEL_LOADING;
}

/* The new version failed after the old one had gone: the old one again. */
static void model_come_back(struct model *m)
{
	log_warn(ROOM, "model %s: version %.19s failed, %.19s comes back", m->name, m->next->digest, m->digest);
	model_stop(m->next);
	m->yielding_us = 0;
	m->came_after = true;
	if (room_make(m, m->next, true) == RESIDENCE_FITS)
		begin(m);
	else
		m->state = MODEL_CACHED;
}

/* The old one is loaded, and there is no room beside it. */
static void next_wait(struct model *m, enum residence alone)
{
	if (alone == RESIDENCE_NEVER || alone == RESIDENCE_PINNED) {
		m->next->waits = false;
		room_refuse(m->next, alone);
		return;
	}
	log_info(ROOM, "model %s: no memory for two versions, so this node lets others answer", m->name);
	m->yielding_us = now_us(m);
}

static void next_begin(struct model *m)
{
	struct model *next = m->next;

	if (m->state != MODEL_READY && m->requests == 0)
		model_stop(m); /* it answers nothing: nothing is lost */
	/* None goes for one that nobody asks for yet. */
	enum residence room = room_make(next, NULL, m->engine != NULL);
	if (room == RESIDENCE_FITS) {
		begin(next);
	} else if (m->engine) {
		next_wait(m, room_make(next, m, false));
	} else {
		next->waits = false;
		next->state = MODEL_CACHED;
		if (room != RESIDENCE_WAIT)
			room_refuse(next, room);
	}
}

void model_settle(struct model *m)
{
	struct model *next = m->next;

	if (!next || next->measuring)
		return;
	if (next->fit.adapter) { /* no engine of its own: lora_settle looks at its state */
		next->waits = false;
		if (next->state == MODEL_READY || next->state == MODEL_CACHED)
			model_succeed(m);
		return;
	}
	if (next->waits && !m->yielding_us)
		next_begin(m);
	if (m->yielding_us && next->waits && m->requests == 0 && now_us(m) - m->yielding_us >= YIELD_HOPS_US)
		model_exchange(m);
	if (next->state == MODEL_FAILED && !m->engine && !next->waits && m->state == MODEL_LOADING)
		model_come_back(m);
	if (next->state == MODEL_CACHED) {
		model_succeed(m);
		return;
	}
	if (next->state != MODEL_READY)
		return;
	if (m->state == MODEL_READY && m->engine && !m->shared_us)
		m->shared_us = now_us(m);
	if (m->state != MODEL_READY || !m->engine || now_us(m) - m->shared_us >= SHARE_US)
		model_succeed(m);
}
