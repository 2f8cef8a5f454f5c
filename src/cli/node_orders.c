/* SPDX-License-Identifier: Apache-2.0 */
/* A roster becomes sources, keys and schedulers; an assignment becomes what is fetched, kept and let go; calendars
 * become rates.
 */
#include "cli/node_room.h"

#include "base/clock.h"
#include "base/log.h"
#include "cli/model_files.h"

#include <stdio.h>
#include <stdlib.h>

#define DEMAND_EVERY_S 5

void node_fill_report(void *arg, struct node_report *report)
{
	struct node *n = arg;
	report->state = n->draining ? NODE_DRAINING : n->started ? NODE_READY : NODE_STARTING;
	if (!n->gateway)
		return;
	held_models_report(&n->held, n->peer, n->gateway, report);
	machine_report(&n->machine, report);
	size_t count = gateway_seen(n->gateway, NULL, 0);
	report->seen = mem_new((count + 1) * sizeof *report->seen);
	report->seen_count = gateway_seen(n->gateway, report->seen, count);
}

static void cut_removed(struct node *n, const struct roster *r)
{
	for (size_t i = 0; i < r->removed_count; i++) {
		char identity[TLS_IDENTITY_SIZE];
		struct str domain = member_domain(n->member);
		snprintf(identity, sizeof identity, "spiffe://" STR_FMT "/node/%s", STR_ARG(domain), r->removed[i]);
		if (n->node_server)
			http_server_cut(n->node_server, str_from(identity));
		http_client_cut(member_client(n->member), str_from(identity));
		http_client_cut(member_bulk_client(n->member), str_from(identity));
	}
}

static void set_sources(struct node *n, const struct roster *r)
{
	struct peer_source *sources = mem_new((r->node_count + 1) * sizeof *sources);
	size_t count = 0;
	for (size_t i = 0; i < r->node_count; i++) {
		const struct roster_node *from = &r->nodes[i];
		if (str_equal(str_from(from->id), member_id(n->member)) || !from->node_url[0] ||
		    !(from->roles & (ROLE_REPOSITORY | ROLE_EDGE | ROLE_CENTER)))
			continue;
		struct peer_source *s = &sources[count++];
		memcpy(s->id, from->id, sizeof s->id);
		memcpy(s->site, from->site, sizeof s->site);
		memcpy(s->url, from->node_url, sizeof s->url);
		s->origin = from->roles & ROLE_REPOSITORY;
		s->receiver = from->roles & ROLE_EDGE;
	}
	peer_set_sources(n->peer, sources, count);
	free(sources);
}

void node_on_spread(void *arg, const struct spread_place *places, size_t count)
{
	peer_set_spread(((struct node *)arg)->peer, places, count);
}

static void set_keys(struct node *n, const struct roster *r)
{
	struct key_ring_key *keys = mem_new((r->key_count + 1) * sizeof *keys);
	for (size_t i = 0; i < r->key_count; i++) {
		memcpy(keys[i].id, r->keys[i].id, sizeof keys[i].id);
		memcpy(keys[i].hash, r->keys[i].hash, sizeof keys[i].hash);
		memcpy(keys[i].team, r->keys[i].team, sizeof keys[i].team);
		keys[i].limits = r->keys[i].limits;
	}
	key_ring_set(&n->keys, keys, r->key_count);
	free(keys);
}

bool node_check_key(void *arg, struct str key, char ret_tenant[static 32])
{
	return key_ring_find(&((struct node *)arg)->keys, key, ret_tenant);
}

static void set_budgets(struct node *n, const struct roster *r)
{
	struct gateway_team *teams = mem_new((r->team_count + 1) * sizeof *teams);
	for (size_t i = 0; i < r->team_count; i++) {
		memcpy(teams[i].name, r->teams[i].name, sizeof teams[i].name);
		teams[i].limits = r->teams[i].limits;
	}
	gateway_set_teams(n->gateway, teams, r->team_count);
	gateway_set_keys(n->gateway, n->keys.keys, n->keys.count);
	free(teams);
}

/* Of several centers the one that leads, which can be another any time. */
static void set_center(struct node *n)
{
	const struct roster *r = member_roster(n->member);
	struct str url, id;
	size_t edges = 0;
	for (size_t i = 0; i < r->node_count; i++)
		edges += (r->nodes[i].roles & ROLE_EDGE) != 0;
	member_center_now(n->member, &url, &id);
	gateway_set_center(n->gateway, id.len ? url : STR(""), id, edges);
}

static void set_gateway(struct node *n, const struct roster *r)
{
	char(*schedulers)[NODE_URL_SIZE] = mem_new((r->node_count + 1) * sizeof *schedulers);
	size_t count = 0;
	for (size_t i = 0; i < r->node_count; i++) {
		if (!(r->nodes[i].roles & ROLE_SCHEDULER) || !r->nodes[i].node_url[0])
			continue;
		int len = snprintf(schedulers[count], NODE_URL_SIZE, "%s#%s", r->nodes[i].node_url, r->nodes[i].id);
		count += len < NODE_URL_SIZE;
	}
	set_budgets(n, r);
	if (n->member) /* not yet while it reads its saved roster */
		set_center(n);
	gateway_set_schedulers(n->gateway, (const char(*)[NODE_URL_SIZE])schedulers, count);
	gateway_set_removed(n->gateway, (const char(*)[NODE_ID_SIZE])r->removed, r->removed_count);
	free(schedulers);
}

void node_on_roster(void *arg, const struct roster *r)
{
	struct node *n = arg;
	set_sources(n, r);
	set_keys(n, r);
	if (n->gateway)
		set_gateway(n, r);
	if (n->scheduler)
		scheduler_set_removed(n->scheduler, (const char(*)[NODE_ID_SIZE])r->removed, r->removed_count);
	cut_removed(n, r);
}

static bool is_assigned_file(void *arg, const struct digest *d)
{
	return held_models_has_file(&((const struct node *)arg)->held, d);
}

bool node_needs_blob(void *arg, const struct digest *d)
{
	const struct node *n = arg;
	for (size_t i = 0; i < n->wanted.file_count; i++)
		if (digest_equal(&n->wanted.files[i].digest, d) || digest_equal(&n->wanted.files[i].chunks, d))
			return true;
	return held_models_needs(&n->held, n->gateway, d);
}

/* Where a policy asks for them, signatures come as files do; node_on_model_here tells when all are there. */
static void add_signatures(struct version *v)
{
	v->files = mem_resize(v->files, v->file_count + v->signature_count + 1, sizeof *v->files);
	for (size_t i = 0; i < v->signature_count; i++) {
		struct version_file f = {.digest = v->signatures[i].digest, .size = v->signatures[i].size};
		snprintf(f.path, sizeof f.path, ".signature-%zu", i);
		v->files[v->file_count++] = f;
	}
}

/* What is assigned, and what a repair wants. What is paused and not whole yet is left as it is. */
void node_fetch_assigned(struct node *n)
{
	struct version *all = mem_new((n->held.count + 1) * sizeof *all);
	size_t count = 0;
	for (size_t i = 0; i < n->held.count; i++) {
		const struct held_model *m = &n->held.items[i];
		if (m->how.paused && !held_is_on_disk(n->peer, &m->version))
			continue;
		version_copy(&m->version, &all[count]);
		if (n->gate && trust_gate_has_policy(n->gate))
			add_signatures(&all[count]);
		count++;
	}
	if (n->wanted.file_count)
		version_copy(&n->wanted, &all[count++]);
	peer_set_assigned(n->peer, all, count);
	for (size_t i = 0; i < count; i++)
		version_fini(&all[i]);
	free(all);
}

/* A check found these missing, or put them aside: fetched from whoever has them. What is assigned here is looked for
 * on the disk again. */
void node_on_wanted(void *arg, const struct version_file *files, size_t count)
{
	struct node *n = arg;
	version_fini(&n->wanted);
	n->wanted = (struct version){.name = "repair", .tag = "wanted"};
	n->wanted.files = mem_new((count + 1) * sizeof *n->wanted.files);
	for (size_t i = 0; i < count && n->wanted.file_count < VERSION_FILES_MAX; i++)
		if (files[i].size && !is_assigned_file(n, &files[i].digest))
			n->wanted.files[n->wanted.file_count++] = files[i];
	log_info("node", "%zu blobs are missing; fetching what other nodes have", count);
	peer_set_assigned(n->peer, NULL, 0);
	node_fetch_assigned(n);
}

/* The stricter of what is configured and what the center's calendars say now. */
void node_set_rates(struct node *n, const struct config *c)
{
	int64_t now = clock_wall_us();
	struct peer_class classes[PEER_CLASSES_MAX];
	uint64_t rate = fetch_limits_receive(&n->limits, now);
	if (rate == CALENDAR_NONE || (c->fetch_rate && c->fetch_rate < rate))
		rate = c->fetch_rate;
	else if (rate == 0)
		rate = 1; /* stopped: for the peer 0 is no limit */
	peer_set_limits(n->peer, (int32_t)c->fetch_parallel, rate);
	peer_set_classes(n->peer, classes, fetch_limits_classes(&n->limits, now, classes, PEER_CLASSES_MAX));
	uint64_t sends = fetch_limits_send(&n->limits, now);
	peer_set_send_rates(n->peer,
	                    sends == CALENDAR_NONE ? 0
	                    : sends                ? sends
	                                           : 1,
	                    classes, fetch_limits_send_classes(&n->limits, now, classes, PEER_CLASSES_MAX));
}

/* What an engine reads a version by stays as long as one may: it is opened again when a newer version fails. */
static void forget_gone(struct node *n)
{
	struct version gone;
	while (held_models_take_gone(&n->held, n->gateway, &gone)) {
		if (!held_models_lingers(&n->held, &gone.manifest))
			model_files_forget(n->config->data, &gone);
		version_fini(&gone);
		sealed_files_keep(n->sealed, node_needs_blob, n);
	}
}

/* Which clients ask how much, for the schedulers' map. */
static void tell_demand(struct node *n)
{
	struct buf body = {0};
	gateway_take_demand(n->gateway, &body);
	member_tell_schedulers(n->member, "/mdn/v1/demand", buf_str(&body));
	buf_fini(&body);
}

void node_on_second(void *arg)
{
	struct node *n = arg;
	if (n->limits.count)
		node_set_rates(n, n->current);
	if (!n->gateway)
		return;
	forget_gone(n);
	set_center(n);
	if (++n->seconds % DEMAND_EVERY_S == 0)
		tell_demand(n);
}

/* Those that were on disk only so far: the peer tells of a version but once. */
static void load_newly_wanted(struct node *n, const struct held_models *before)
{
	for (size_t i = 0; i < n->held.count; i++) {
		const struct held_model *m = &n->held.items[i], *was = held_models_find(before, &m->version);
		if (m->how.load && was && !was->how.load && held_is_on_disk(n->peer, &m->version))
			node_on_model_here(n, &m->version);
	}
}

void node_on_assign(void *arg, const struct assignment *a)
{
	struct node *n = arg;
	struct held_models before = {0};
	fetch_limits_set(&n->limits, a);
	node_set_rates(n, n->current);
	if (!n->gateway)
		return;
	for (size_t i = 0; i < n->held.count; i++) {
		before.items = mem_resize(before.items, i + 1, sizeof *before.items);
		before.items[i] = (struct held_model){.how = n->held.items[i].how};
		version_copy(&n->held.items[i].version, &before.items[i].version);
		before.count++;
	}
	held_models_assign(&n->held, a, n->peer, n->gateway);
	for (size_t i = 0; i < before.count; i++) {
		const struct version *v = &before.items[i].version;
		char name[NODE_TEXT_SIZE];
		held_name(v, name);
		if (!held_models_loads(&n->held, v))
			gateway_model_remove(n->gateway, str_from(name));
		if (!held_models_has_manifest(&n->held, &v->manifest) && !held_models_lingers(&n->held, &v->manifest))
			model_files_forget(n->config->data, v);
	}
	sealed_files_keep(n->sealed, node_needs_blob, n);
	node_fetch_assigned(n);
	load_newly_wanted(n, &before);
	held_models_fini(&before);
	if (n->cache)
		blob_cache_look(n->cache);
	member_report_soon(n->member);
}
