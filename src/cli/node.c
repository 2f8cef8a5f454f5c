/* SPDX-License-Identifier: Apache-2.0 */
/* node.c - wires the rooms of one node. Rooms never know each other: here is where a roster becomes sources, a finished
 * file becomes a loaded model, and a removed node loses its connections.
 *
 * Order at start: data folder (locked), member (identity, TLS), rooms, listeners, READY. The stop is the other way
 * round. While draining, the API port still answers, so that late clients are sent elsewhere.
 */
#include "cli/node.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "cli/blob_cache.h"
#include "cli/fetch_limits.h"
#include "cli/held_models.h"
#include "cli/log_ring.h"
#include "cli/machine.h"
#include "cli/model_files.h"
#include "cli/sealed_files.h"
#include "cli/systemd.h"
#include "cli/trust_gate.h"
#include "core/key_ring.h"
#include "serve/center/center.h"
#include "serve/console/console.h"
#include "serve/gateway/gateway.h"
#include "serve/member/member.h"
#include "serve/peer/peer.h"
#include "serve/repository/keeper.h"
#include "serve/repository/repository.h"
#include "serve/scheduler/scheduler.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PEM_MAX (1 << 20)
#define DRAIN_CHECK_US (50 * US_PER_MS)
#define DRAIN_LEAST_US (300 * US_PER_MS) /* so that the others hear of it before the port closes */

struct node {
	struct config *config;  /* as at start: rooms keep views of its texts */
	struct config *current; /* as last reloaded; often the same */
	const struct node_source *source;
	uint32_t roles;
	int lock_fd;
	struct loop *loop;
	struct log_ring *log_ring;
	struct member *member;
	struct blob_store *blobs;
	struct catalog *catalog;
	struct repository *repository;
	struct keeper *keeper;
	struct sealed_files *sealed;
	struct version wanted; /* files a repair asks for */
	struct center *center;
	struct console *console; /* with the center */
	struct peer *peer;
	struct gateway *gateway;
	struct trust_gate *gate; /* with the gateway */
	struct scheduler *scheduler;
	struct key_ring keys; /* for the repository; the gateway has its own */
	struct tls_context *api_tls;
	struct http_server *node_server, *api_server, *repository_server, *scheduler_server, *console_server;
	struct held_models held;
	struct blob_cache *cache; /* edges that are no repository */
	struct fetch_limits limits;
	struct machine machine;
	struct loop_timer *second;
	bool draining, started;
	int64_t drain_from_us;
	struct loop_timer *drain_timer;
};

static bool has(const struct node *n, enum node_role role)
{
	return n->roles & role;
}

/* ---- requests ----------------------------------------------------------------------------------- */

static void not_found(struct http_exchange *x)
{
	struct error err = {0};
	struct str path = http_path(x);
	error_set(&err, E_NOTFOUND, "nothing is served at " STR_FMT " here", STR_ARG(path));
	http_respond_error(x, &err);
}

/* spiffe://DOMAIN/operator/NAME, of this network. */
static bool is_operator(const struct node *n, struct str identity)
{
	struct str domain = member_domain(n->member), name, kind, own;
	if (!str_starts(identity, STR("spiffe://")))
		return false;
	own = str_cut((struct str){identity.base + 9, identity.len - 9}, '/', &kind);
	kind = str_cut(kind, '/', &name);
	return str_equal(own, domain) && str_equal(kind, STR("operator")) && name.len > 0 &&
	       !memchr(name.base, '/', name.len);
}

/* Whatever the rooms think of a request, only operators change things and read logs over the node port. */
static bool forbidden_to_nodes(const struct node *n, struct http_exchange *x)
{
	bool reads = str_equal(http_method(x), STR("GET")) || str_equal(http_method(x), STR("HEAD"));
	bool keeps = str_equal(http_path(x), STR("/mdn/v1/gc")) || str_equal(http_path(x), STR("/mdn/v1/fsck"));
	bool changes = str_starts(http_path(x), STR("/mdn/v1/repository/"));
	bool signs_in = str_starts(http_path(x), STR("/mdn/v1/console/"));
	bool own = keeps || changes || signs_in || (str_starts(http_path(x), STR("/v2/")) && !reads) ||
	           str_equal(http_path(x), STR("/mdn/v1/logs"));
	return own && !is_operator(n, http_peer_identity(x));
}

static void on_node_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	struct error err = {0};
	if (n->center && center_handle(n->center, x))
		return;
	if (member_admit(n->member, http_peer_identity(x), &err)) {
		http_respond_error(x, &err);
		return;
	}
	if (forbidden_to_nodes(n, x)) {
		error_set(&err, E_FORBIDDEN, "only an operator may do that");
		http_respond_error(x, &err);
		return;
	}
	if (str_equal(http_path(x), STR("/mdn/v1/logs"))) {
		log_ring_answer(n->log_ring, x);
		return;
	}
	if ((n->console && console_handle_operator(n->console, x)) ||
	    (n->gateway && gateway_handle_node(n->gateway, x)) || peer_handle(n->peer, x) ||
	    keeper_handle(n->keeper, x) || (n->repository && repository_handle(n->repository, x)) ||
	    (n->scheduler && scheduler_handle(n->scheduler, x)))
		return;
	not_found(x);
}

static void on_api_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	if (!gateway_handle_public(n->gateway, x))
		not_found(x);
}

static void on_repository_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	/* What operators do is done over the node port, where they are known. */
	if (str_starts(http_path(x), STR("/mdn/v1/repository/")) || !repository_handle(n->repository, x))
		not_found(x);
}

static void on_scheduler_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	if (!scheduler_handle_public(n->scheduler, x))
		not_found(x);
}

static void on_console_request(void *arg, struct http_exchange *x)
{
	console_handle(((struct node *)arg)->console, x);
}

static bool read_center(void *arg, struct http_exchange *x)
{
	return center_read(((struct node *)arg)->center, x);
}

/* ---- what the control plane says ------------------------------------------------------------------ */

static void name_tag_of(const struct version *v, char *ret_text, size_t size)
{
	snprintf(ret_text, size, "%s:%s", v->name, v->tag);
}

static void fill_report(void *arg, struct node_report *report)
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

static void on_spread(void *arg, const struct spread_place *places, size_t count)
{
	peer_set_spread(((struct node *)arg)->peer, places, count);
}

static void set_keys(struct node *n, const struct roster *r)
{
	struct key_ring_key *keys = mem_new((r->key_count + 1) * sizeof *keys);
	for (size_t i = 0; i < r->key_count; i++) {
		memcpy(keys[i].id, r->keys[i].id, sizeof keys[i].id);
		memcpy(keys[i].hash, r->keys[i].hash, sizeof keys[i].hash);
	}
	key_ring_set(&n->keys, keys, r->key_count);
	free(keys);
}

static bool check_key(void *arg, struct str key, char ret_tenant[static 32])
{
	return key_ring_find(&((struct node *)arg)->keys, key, ret_tenant);
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
	gateway_set_keys(n->gateway, n->keys.keys, n->keys.count);
	gateway_set_schedulers(n->gateway, (const char(*)[NODE_URL_SIZE])schedulers, count);
	gateway_set_removed(n->gateway, (const char(*)[NODE_ID_SIZE])r->removed, r->removed_count);
	free(schedulers);
}

static void on_roster(void *arg, const struct roster *r)
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

static bool is_needed_blob(void *arg, const struct digest *d)
{
	const struct node *n = arg;
	for (size_t i = 0; i < n->wanted.file_count; i++)
		if (digest_equal(&n->wanted.files[i].digest, d) || digest_equal(&n->wanted.files[i].chunks, d))
			return true;
	return held_models_needs(&n->held, n->gateway, d);
}

/* Where a policy asks for them, signatures come as files do; on_model_here tells when all are there. */
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
static void fetch_assigned(struct node *n)
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
static void on_wanted(void *arg, const struct version_file *files, size_t count)
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
	fetch_assigned(n);
}

/* The stricter of what is configured and what the center's calendars say now. */
static void set_rates(struct node *n, const struct config *c)
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
	peer_set_send_rate(n->peer, sends == CALENDAR_NONE ? 0 : sends ? sends : 1);
}

/* What an engine reads a version by stays as long as one may: it is opened again when a newer version fails. */
static void forget_gone(struct node *n)
{
	struct version gone;
	while (held_models_take_gone(&n->held, n->gateway, &gone)) {
		if (!held_models_lingers(&n->held, &gone.manifest))
			model_files_forget(n->config->data, &gone);
		version_fini(&gone);
		sealed_files_keep(n->sealed, is_needed_blob, n);
	}
}

static void on_second(void *arg)
{
	struct node *n = arg;
	if (n->limits.count)
		set_rates(n, n->current);
	if (n->gateway)
		forget_gone(n);
}

static void on_model_here(void *arg, const struct version *v);

/* Those that were on disk only so far: the peer tells of a version but once. */
static void load_newly_wanted(struct node *n, const struct held_models *before)
{
	for (size_t i = 0; i < n->held.count; i++) {
		const struct held_model *m = &n->held.items[i], *was = held_models_find(before, &m->version);
		if (m->how.load && was && !was->how.load && held_is_on_disk(n->peer, &m->version))
			on_model_here(n, &m->version);
	}
}

static void on_assign(void *arg, const struct assignment *a)
{
	struct node *n = arg;
	struct held_models before = {0};
	fetch_limits_set(&n->limits, a);
	set_rates(n, n->current);
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
	sealed_files_keep(n->sealed, is_needed_blob, n);
	fetch_assigned(n);
	load_newly_wanted(n, &before);
	held_models_fini(&before);
	if (n->cache)
		blob_cache_look(n->cache);
	member_report_soon(n->member);
}

static void load_model(struct node *n, struct held_model *m)
{
	const struct version *v = &m->version;
	struct error err = {0};
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE], *path = NULL;
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	int rc = model_files_path(n->sealed, n->config->data, v, &path, &err);
	if (rc == E_BUSY)
		return; /* on_decrypted comes back */
	if (rc || gateway_model_add(n->gateway, str_from(name), str_from(digest), str_from(path), &err)) {
		log_error("node", "%s cannot be loaded: %s", name, err.text);
		if (!m->unloadable)
			m->unloadable = str_dup(str_from(err.text));
	}
	free(path);
	member_report_soon(n->member);
}

static bool serves(const struct node *n, const struct version *v)
{
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
	struct model_report line;
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	return gateway_model_report(n->gateway, str_from(name), &line) && line.state == MODEL_READY &&
	       strcmp(line.digest, digest) == 0;
}

static bool is_in_engine(const struct node *n, const struct version *v)
{
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&v->manifest, digest);
	return gateway_holds(n->gateway, str_from(digest));
}

static void ask(struct node *n, struct held_model *m)
{
	m->allowed = false;
	trust_gate_ask(n->gate, &m->version, m->how.load, serves(n, &m->version));
}

/* It may be loaded no longer: what answers, what waits, and what is on its way. One of the same name may have been in
 * line behind it, and is asked about again. */
static void unload(struct node *n, const struct version *v)
{
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	if (!gateway_model_drop(n->gateway, str_from(name), str_from(digest)))
		return;
	for (size_t i = 0; i < n->held.count; i++) {
		struct held_model *m = &n->held.items[i];
		if (m->how.load && m->allowed && !digest_equal(&m->version.manifest, &v->manifest) &&
		    strcmp(m->version.name, v->name) == 0 && strcmp(m->version.tag, v->tag) == 0)
			ask(n, m);
	}
	member_report_soon(n->member);
}

static void on_verdict(void *arg, const struct version *v, const struct error *err)
{
	struct node *n = arg;
	char name[2 * NODE_TEXT_SIZE];
	struct held_model *own = held_models_find(&n->held, v);
	name_tag_of(v, name, sizeof name);
	if (!own) { /* another version has the name now, but this one may still answer */
		if (err && is_in_engine(n, v))
			log_error("node", "a version of %s that still answered may not: %s", name, err->text);
		if (err)
			unload(n, v);
		return;
	}
	if (!held_same_files(&own->version, v)) {
		ask(n, own); /* the verdict is not about these */
		return;
	}
	free(own->unloadable);
	own->unloadable = NULL;
	own->allowed = !err;
	if (!err) {
		if (own->how.load)
			load_model(n, own);
		return;
	}
	log_error("node", "%s is not loaded: %s", name, err->text);
	own->unloadable = str_dup(str_from(err->text));
	unload(n, &own->version);
	member_report_soon(n->member);
}

static void on_model_here(void *arg, const struct version *v)
{
	struct node *n = arg;
	struct held_model *own = n->gateway ? held_models_find(&n->held, v) : NULL;
	if (own) /* also of what is not to be loaded yet: then a switch waits for no hashing */
		ask(n, own);
}

/* What is on the disk, and what still answers, is judged by the policy as it is now. */
static void judge_again(struct node *n)
{
	for (size_t i = 0; i < n->held.count; i++)
		if (held_is_on_disk(n->peer, &n->held.items[i].version))
			ask(n, &n->held.items[i]);
	for (size_t i = 0; i < n->held.lingering_count; i++)
		if (is_in_engine(n, &n->held.lingering[i]))
			trust_gate_ask(n->gate, &n->held.lingering[i], false, true);
}

static void on_decrypted(void *arg, const struct digest *d, const struct error *err)
{
	struct node *n = arg;
	for (size_t i = 0; i < n->held.count; i++) {
		struct held_model *m = &n->held.items[i];
		if (!m->how.load || !model_files_has(&m->version, d))
			continue;
		if (!err && m->allowed) { /* the file may also be of one that was refused */
			load_model(n, m);
		} else if (err && !m->unloadable) {
			log_error("node", "%s:%s cannot be loaded: %s", m->version.name, m->version.tag, err->text);
			m->unloadable = str_dup(str_from(err->text));
		}
	}
	member_report_soon(n->member);
}

static void on_change(void *arg)
{
	struct node *n = arg;
	if (n->member)
		member_report_soon(n->member);
}

static void on_removed(void *arg, struct str identity)
{
	struct node *n = arg;
	if (n->node_server)
		http_server_cut(n->node_server, identity);
	http_client_cut(member_client(n->member), identity);
	http_client_cut(member_bulk_client(n->member), identity);
}

/* ---- stopping ------------------------------------------------------------------------------------- */

static void on_drain_check(void *arg)
{
	struct node *n = arg;
	int64_t waited = loop_now_us(n->loop) - n->drain_from_us;
	size_t running = n->gateway ? gateway_running(n->gateway) : 0;
	if (waited < DRAIN_LEAST_US || (running > 0 && waited < n->current->drain_deadline_us))
		return;
	if (running > 0)
		log_warn("node", "%zu streams still run at the deadline and are cut", running);
	loop_stop(n->loop);
}

/* From then on new requests are sent elsewhere; running streams go on. */
static void drain(struct node *n)
{
	if (n->draining)
		return;
	n->draining = true;
	if (n->gateway)
		gateway_drain(n->gateway);
	member_report_soon(n->member);
}

static void on_drain(void *arg)
{
	struct node *n = arg;
	log_info("node", "drained by an operator: new requests go elsewhere; SIGTERM stops the node");
	drain(n);
}

static void on_stop_signal(void *arg)
{
	struct node *n = arg;
	if (n->drain_from_us || !n->gateway) {
		loop_stop(n->loop);
		return;
	}
	n->drain_from_us = loop_now_us(n->loop);
	systemd_notify("STOPPING=1");
	log_info("node", "stopping: %zu requests are running; a second signal stops at once",
	         gateway_running(n->gateway));
	drain(n);
	loop_timer_start(n->drain_timer, DRAIN_CHECK_US, DRAIN_CHECK_US);
}

/* ---- reload --------------------------------------------------------------------------------------- */

static struct scheduler_options scheduler_options_of(const struct config *c, struct str **ret_lists)
{
	struct str *lists = mem_new((c->zones.count + c->distances.count + 1) * sizeof *lists);
	for (unsigned i = 0; i < c->zones.count; i++)
		lists[i] = str_from(c->zones.items[i]);
	for (unsigned i = 0; i < c->distances.count; i++)
		lists[c->zones.count + i] = str_from(c->distances.items[i]);
	*ret_lists = lists;
	return (struct scheduler_options){
	    .dns_listen = str_from(c->dns_listen),
	    .dns_zone = str_from(c->dns_zone),
	    .dns_ttl_us = c->dns_ttl_us,
	    .zones = lists,
	    .zone_count = c->zones.count,
	    .distances = lists + c->zones.count,
	    .distance_count = c->distances.count,
	};
}

static bool is_loopback(const char *address)
{
	return str_starts(str_from(address), STR("127.")) || str_starts(str_from(address), STR("[::1]:")) ||
	       str_starts(str_from(address), STR("localhost:"));
}

/* Over lists, which the caller frees. */
static struct repository_rules repository_rules_of(const struct config *c, struct str **ret_lists)
{
	struct str *lists = mem_new((c->repository_private.count + c->repository_hosts.count + 1) * sizeof *lists);
	for (unsigned i = 0; i < c->repository_private.count; i++)
		lists[i] = str_from(c->repository_private.items[i]);
	for (unsigned i = 0; i < c->repository_hosts.count; i++)
		lists[c->repository_private.count + i] = str_from(c->repository_hosts.items[i]);
	*ret_lists = lists;
	return (struct repository_rules){
	    .access = strcmp(c->repository_access, "open") == 0   ? REPOSITORY_OPEN
	              : strcmp(c->repository_access, "pull") == 0 ? REPOSITORY_PULL
	                                                          : REPOSITORY_KEY,
	    .private_names = lists,
	    .private_count = c->repository_private.count,
	    .hosts = lists + c->repository_private.count,
	    .host_count = c->repository_hosts.count,
	    .loopback = is_loopback(c->repository_listen),
	    .tls = c->repository_tls,
	};
}

static void set_repository_rules(struct node *n, const struct config *c)
{
	struct str *lists;
	struct repository_rules rules = repository_rules_of(c, &lists);
	repository_set_rules(n->repository, &rules);
	free(lists);
}

static int set_ollama_keys(struct node *n, const struct config *c, struct error *err)
{
	struct str *keys = mem_new((c->ollama_keys.count + 1) * sizeof *keys);
	for (unsigned i = 0; i < c->ollama_keys.count; i++)
		keys[i] = str_from(c->ollama_keys.items[i]);
	int rc = repository_set_ollama_keys(n->repository, keys, c->ollama_keys.count, err);
	free(keys);
	return rc;
}

/* The configured certificate's options, over `pem`, which the caller finishes; untouched when none is configured. */
static int api_tls_read(const struct node *n, const struct config *c, struct tls_options *ret_options,
                        struct buf pem[2], struct error *err)
{
	if (!c->api_tls_cert[0] != !c->api_tls_key[0])
		return error_set(err, E_INVAL, "api_tls_cert and api_tls_key belong together: set both or none");
	if (c->repository_tls && !c->api_tls_cert[0])
		return error_set(err, E_INVAL, "repository_tls: set api_tls_cert and api_tls_key, too");
	if (n->started && !c->api_tls_cert[0] != !n->api_tls)
		return error_set(err, E_INVAL, "api_tls_cert: TLS on the API port comes and goes only with a restart");
	if (!c->api_tls_cert[0])
		return 0;
	int rc = file_read(c->api_tls_cert, PEM_MAX, &pem[0], err);
	if (rc == 0)
		rc = file_read(c->api_tls_key, PEM_MAX, &pem[1], err);
	*ret_options =
	    (struct tls_options){.cert_pem = buf_str(&pem[0]), .key_pem = buf_str(&pem[1]), .any_version = true};
	return rc;
}

/* try_only: says whether it would work. */
static int api_tls_load(struct node *n, const struct config *c, bool try_only, struct error *err)
{
	struct buf pem[2] = {0};
	struct tls_options o;
	struct tls_context *fresh = NULL;
	int rc = api_tls_read(n, c, &o, pem, err);
	if (rc == 0 && c->api_tls_cert[0]) {
		if (n->api_tls && !try_only)
			rc = tls_context_replace(n->api_tls, &o, err);
		else
			rc = tls_context_new(&o, &fresh, err);
	}
	if (!try_only && fresh)
		n->api_tls = fresh;
	else
		tls_context_free(fresh);
	buf_fini(&pem[0]);
	buf_fini(&pem[1]);
	return rc;
}

static void on_config_difference(void *arg, const char *key, bool live)
{
	if (live)
		log_info("node", "reloaded: %s", key);
	else
		log_warn("node", "`%s` changed, but only a restart applies it", key);
}

static void set_log_level(const struct config *c)
{
	enum log_level level;
	if (log_level_parse(c->log_level, &level) == 0)
		log_set_level(level);
}

static int apply(struct node *n, const struct config *c, struct error *err)
{
	struct error changed = {0};
	/* What can be wrong is looked at before anything is changed. */
	int rc = api_tls_load(n, c, true, err);
	if (rc == 0 && n->gate)
		rc = trust_gate_try(n->gate, c->trust_policy, err);
	if (rc == 0 && n->repository)
		rc = set_ollama_keys(n, c, err);
	if (rc == 0 && n->scheduler) {
		struct str *lists;
		struct scheduler_options o = scheduler_options_of(c, &lists);
		rc = scheduler_reload(n->scheduler, &o, err);
		free(lists);
	}
	if (rc == 0 && n->catalog)
		rc = catalog_rules_apply(n->catalog, c, err);
	if (rc || (rc = api_tls_load(n, c, false, err)))
		return rc;
	set_log_level(c);
	set_rates(n, c);
	if (n->cache)
		blob_cache_set_max(n->cache, c->cache_max);
	if (n->gateway) {
		gateway_set_open(n->gateway, c->open);
		gateway_set_access_log(n->gateway, c->access_log);
	}
	keeper_set_times(n->keeper, c->gc_every_us, c->gc_lease_us);
	if (n->repository)
		set_repository_rules(n, c);
	if (n->gate && trust_gate_reload(n->gate, c->trust_policy, &changed) == 0) {
		fetch_assigned(n); /* with signatures or without */
		judge_again(n);
	} else if (n->gate) {
		log_error("node", "the trust policy changed while it was read, and the old one stays: %s; reload again",
		          changed.text);
	}
	if (n->center)
		center_set_lives(n->center, c->token_life_us, c->cert_life_us);
	return 0;
}

static void on_reload(void *arg)
{
	struct node *n = arg;
	struct config *now;
	struct error err = {0};
	systemd_notify_reloading();
	int rc = config_load(n->source->path, n->source->overrides, n->source->override_count, &now, &err);
	if (rc == 0 && (rc = apply(n, now, &err)))
		config_free(now);
	if (rc == 0) {
		config_compare(n->current, now, on_config_difference, NULL);
		if (n->current != n->config)
			config_free(n->current);
		n->current = now;
		log_info("node", "configuration read again");
	} else {
		log_error("node", "configuration not reloaded, the old one stays: %s", err.text);
	}
	systemd_notify("READY=1");
}

/* ---- start ---------------------------------------------------------------------------------------- */

static int lock_data(struct node *n, struct error *err)
{
	const char *data = n->config->data;
	char path[4096];
	if (snprintf(path, sizeof path, "%s/lock", data) >= (int)sizeof path)
		return error_set(err, E_INVAL, "data: the path is too long");
	n->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (n->lock_fd < 0)
		return error_errno(err, errno, "cannot open the data folder %s (run `mdn init` or `mdn join` first)",
		                   data);
	if (flock(n->lock_fd, LOCK_EX | LOCK_NB))
		return error_set(err, E_CONFLICT,
		                 "another mdn runs on the data folder %s; stop it or set another `data`", data);
	return 0;
}

static int port_of(const char *key, const char *address, bool *ret_any, struct error *err)
{
	const char *colon = strrchr(address, ':');
	uint64_t port;
	if (!colon || str_to_u64(str_from(colon + 1), &port) || port == 0 || port > 65535)
		return error_set(err, E_INVAL, "%s: `%s` is not ADDRESS:PORT with a port of 1 to 65535", key, address);
	struct str host = {address, (size_t)(colon - address)};
	*ret_any = host.len == 0 || str_equal(host, STR("0.0.0.0")) || str_equal(host, STR("[::]")) ||
	           str_equal(host, STR("*"));
	return 0;
}

/* The URL others use: what is advertised, else the address listened on when it is a definite one. */
static int url_of(const char *key, const char *scheme, const char *advertise, const char *address, char *ret_url,
                  struct error *err)
{
	bool any;
	int rc = port_of(key, address, &any, err);
	if (rc)
		return rc;
	if (any && !advertise[0])
		return error_set(err, E_INVAL,
		                 "%s_listen is any address: say with %s_advertise how others reach this node", key,
		                 key);
	bool whole = strstr(advertise, "://") != NULL;
	int len = snprintf(ret_url, NODE_URL_SIZE, "%s%s", whole ? "" : scheme, advertise[0] ? advertise : address);
	if (len >= NODE_URL_SIZE)
		return error_set(err, E_LIMIT, "%s_advertise is longer than %d bytes", key, NODE_URL_SIZE - 1);
	return 0;
}

static int start_member(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	char node_url[NODE_URL_SIZE], api_url[NODE_URL_SIZE] = "";
	int rc = url_of("node", "https://", c->node_advertise, c->node_listen, node_url, err);
	if (rc == 0 && has(n, ROLE_EDGE))
		rc = url_of("api", c->api_tls_cert[0] ? "https://" : "http://", c->api_advertise, c->api_listen,
		            api_url, err);
	if (rc)
		return rc;
	struct member_options o = {
	    .data = str_from(c->data),
	    .center_url = str_from(c->center),
	    .fill_report = fill_report,
	    .on_roster = on_roster,
	    .on_spread = on_spread,
	    .on_assign = on_assign,
	    .on_drain = on_drain,
	    .arg = n,
	    .name = str_from(c->name),
	    .site = str_from(c->site),
	    .node_url = str_from(node_url),
	    .api_url = str_from(api_url),
	    .roles = n->roles,
	};
	return member_new(n->loop, &o, &n->member, err);
}

static int blob_size_of(void *blobs, const struct digest *d, uint64_t *ret_size)
{
	return blob_stat(blobs, d, ret_size, NULL);
}

/* hosts: the list in one text, which lives as long as it is. */
static struct repository_mirror mirror_of(const struct config *c, const char *folder, struct buf *hosts)
{
	for (unsigned i = 0; i < c->outside_hosts.count; i++)
		buf_printf(hosts, "%s%s", i ? "," : "", c->outside_hosts.items[i]);
	return (struct repository_mirror){
	    .folder = str_from(folder),
	    .allowed = buf_str(hosts),
	    .keys = str_from(c->outside_keys),
	    .proxy = str_from(c->outside_proxy),
	    .ca_file = str_from(c->outside_ca),
	    .hf = str_from(c->mirror_hf),
	    .ollama = str_from(c->mirror_ollama),
	    .oci = str_from(c->mirror_oci),
	    .fresh_us = c->mirror_fresh_us,
	};
}

static int start_stores(struct node *n, struct error *err)
{
	char path[4096], secret[4096], work[4096], outside[4096];
	model_files_sweep(n->config->data);
	struct repository_options o = {.chunk_size = n->config->chunk_size, .check_key = check_key, .arg = n};
	snprintf(path, sizeof path, "%s/blobs", n->config->data);
	int rc = blob_store_open(str_from(path), &n->blobs, err);
	if (rc == 0)
		rc = blob_store_unlock(n->blobs, n->config->site_key, n->config->encrypt_at_rest, err);
	if (rc == 0)
		n->sealed = sealed_files_new(n->loop, n->blobs, on_decrypted, n);
	if (rc || !has(n, ROLE_REPOSITORY))
		return rc;
	snprintf(path, sizeof path, "%s/catalog.db", n->config->data);
	rc = catalog_open(str_from(path), &n->catalog, err);
	o.store = n->blobs;
	o.catalog = n->catalog;
	snprintf(secret, sizeof secret, "%s/repository.secret", n->config->data);
	o.secret_path = str_from(secret);
	snprintf(work, sizeof work, "%s/work", n->config->data);
	o.work = str_from(work);
	snprintf(outside, sizeof outside, "%s/outside", n->config->data);
	struct buf hosts = {0};
	o.mirror = mirror_of(n->config, outside, &hosts);
	if (rc == 0)
		rc = catalog_rules_apply(n->catalog, n->config, err);
	if (rc == 0) {
		catalog_set_size_of(n->catalog, blob_size_of, n->blobs);
		rc = repository_new(n->loop, &o, &n->repository, err);
	}
	buf_fini(&hosts);
	if (rc == 0)
		set_repository_rules(n, n->config);
	if (rc == 0)
		rc = set_ollama_keys(n, n->config, err);
	return rc;
}

static void start_keeper(struct node *n)
{
	char origins[4096];
	snprintf(origins, sizeof origins, "%s/outside/origins.db", n->config->data);
	n->keeper = keeper_new(n->loop, &(struct keeper_options){.store = n->blobs,
	                                                         .catalog = n->catalog,
	                                                         .origins = str_from(origins),
	                                                         .gc_every_us = n->config->gc_every_us,
	                                                         .gc_lease_us = n->config->gc_lease_us,
	                                                         .on_wanted = on_wanted,
	                                                         .arg = n});
}

static int start_peer(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	struct peer_options o = {
	    .store = n->blobs,
	    .client = member_bulk_client(n->member),
	    .self_id = member_id(n->member),
	    .site = str_from(c->site),
	    .domain = member_domain(n->member),
	    .parallel = (int32_t)c->fetch_parallel,
	    .rate_max = c->fetch_rate,
	    .on_ready = on_model_here,
	    .on_progress = on_change,
	    .arg = n,
	};
	start_keeper(n);
	return peer_new(n->loop, &o, &n->peer, err);
}

static int start_gateway(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	if (!has(n, ROLE_EDGE))
		return 0;
	struct gateway_options o = {
	    .client = member_client(n->member),
	    .self_id = member_id(n->member),
	    .self_name = str_from(c->name),
	    .site = str_from(c->site),
	    .domain = member_domain(n->member),
	    .engine =
		{
		    .kind = str_from(c->engine),
		    .remote_url = str_from(c->remote_url),
		    .remote_key = str_from(c->remote_key),
		    .slots = (int32_t)c->slots,
		    .context_tokens = (int32_t)c->context,
		    .batch_tokens = (int32_t)c->batch_tokens,
		    .threads = (int32_t)c->threads,
		},
	    .open = c->open,
	    .access_log = c->access_log,
	    .on_change = on_change,
	    .arg = n,
	};
	int rc = machine_describe(c, &n->machine, err);
	if (rc == 0)
		rc = gateway_new(n->loop, &o, &n->gateway, err);
	if (rc)
		return rc;
	gateway_set_memory(n->gateway, c->memory_max);
	if (!has(n, ROLE_REPOSITORY))
		n->cache = blob_cache_new(n->loop, n->blobs, c->data, c->cache_max, is_needed_blob, n);
	return 0;
}

static int start_gate(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	struct trust_gate_options o = {
	    .loop = n->loop,
	    .blobs = n->blobs,
	    .data = c->data,
	    .self = {.id = member_id(n->member),
	             .name = str_from(c->name),
	             .site = str_from(c->site),
	             .roles = n->roles,
	             .labels = n->machine.labels,
	             .label_count = n->machine.label_count,
	             .memory_bytes = n->machine.memory_bytes,
	             .accelerator = str_from(n->machine.accelerator)},
	    .on_verdict = on_verdict,
	    .arg = n,
	};
	return n->gateway ? trust_gate_new(&o, c->trust_policy, &n->gate, err) : 0;
}

static int start_center(struct node *n, struct error *err)
{
	struct center_options o = {
	    .data = str_from(n->config->data),
	    .domain = member_domain(n->member),
	    .token_life_us = n->config->token_life_us,
	    .cert_life_us = n->config->cert_life_us,
	    .client = member_client(n->member),
	};
	if (!has(n, ROLE_CENTER))
		return 0;
	int rc = center_new(n->loop, &o, &n->center, err);
	if (rc == 0)
		center_on_removed(n->center, on_removed, n);
	return rc;
}

static int start_console(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	char secret[4096];
	if (!n->center)
		return 0;
	snprintf(secret, sizeof secret, "%s/console.secret", c->data);
	struct console_options o = {
	    .secret_path = str_from(secret),
	    .hosts = (const char *const *)c->console_hosts.items,
	    .host_count = c->console_hosts.count,
	    .tls = c->console_tls,
	    .read = read_center,
	    .arg = n,
	};
	return console_new(&o, &n->console, err);
}

static int start_scheduler(struct node *n, struct error *err)
{
	struct str *lists;
	if (!has(n, ROLE_SCHEDULER))
		return 0;
	struct scheduler_options o = scheduler_options_of(n->config, &lists);
	int rc = scheduler_new(n->loop, &o, &n->scheduler, err);
	free(lists);
	return rc;
}

static int listen_on(struct node *n, const char *key, const char *address, struct tls_context *tls,
                     http_handler *handler, struct http_server **ret_server, struct error *err)
{
	struct http_server_options o = {
	    .address = str_from(address),
	    .inherited_fd = systemd_socket(key),
	    .tls = tls,
	    .handler = handler,
	    .handler_arg = n,
	    .room = key,
	};
	int rc = http_server_new(n->loop, &o, ret_server, err);
	if (rc)
		return error_prefix(err, "%s_listen: ", key);
	struct str at = http_server_address(*ret_server);
	log_info("node", "%s port: " STR_FMT, key, STR_ARG(at));
	return 0;
}

/* The first name it goes by, else the address. */
static void set_console_url(struct node *n)
{
	const struct config *c = n->config;
	struct str at = http_server_address(n->console_server), host = at;
	struct buf url = {0};
	while (host.len && host.base[host.len - 1] != ':')
		host.len--;
	struct str port = {at.base + host.len, at.len - host.len};
	host.len -= host.len > 0;
	if (c->console_hosts.count)
		host = str_from(c->console_hosts.items[0]);
	else if (str_equal(host, STR("0.0.0.0")) || str_equal(host, STR("[::]")))
		host = STR("localhost");
	buf_printf(&url, "%s://" STR_FMT, c->console_tls ? "https" : "http", STR_ARG(host));
	if (!c->console_hosts.count || !memchr(host.base, ':', host.len))
		buf_printf(&url, ":" STR_FMT, STR_ARG(port));
	buf_append(&url, "", 1);
	console_set_url(n->console, url.base, NULL);
	buf_fini(&url);
}

/* A network does not stay without its center because the console's port is taken. */
static void listen_console(struct node *n)
{
	const struct config *c = n->config;
	struct error err = {0};
	int rc = 0;
	if (!c->console_listen[0]) {
		console_set_url(n->console, NULL, "the console is off: set console_listen on the center");
		return;
	}
	if (c->console_tls && !n->api_tls)
		rc = error_set(&err, E_INVAL, "console_tls needs api_tls_cert and api_tls_key");
	if (rc == 0)
		rc = listen_on(n, "console", c->console_listen, c->console_tls ? n->api_tls : NULL, on_console_request,
		               &n->console_server, &err);
	if (rc == 0) {
		set_console_url(n);
		return;
	}
	error_prefix(&err, "there is no console: ");
	console_set_url(n->console, NULL, err.text);
	log_warn("node", "%s", err.text);
}

static int start_listeners(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	int rc = listen_on(n, "node", c->node_listen, member_tls(n->member), on_node_request, &n->node_server, err);
	if (rc == 0 && n->gateway)
		rc = listen_on(n, "api", c->api_listen, n->api_tls, on_api_request, &n->api_server, err);
	if (rc == 0 && n->repository && c->repository_listen[0])
		rc = listen_on(n, "repository", c->repository_listen, c->repository_tls ? n->api_tls : NULL,
		               on_repository_request, &n->repository_server, err);
	if (rc == 0 && n->scheduler && c->scheduler_listen[0])
		rc = listen_on(n, "scheduler", c->scheduler_listen, NULL, on_scheduler_request, &n->scheduler_server,
		               err);
	if (rc == 0 && n->console)
		listen_console(n);
	return rc;
}

int node_roles_of(const struct config *config, uint32_t *ret_roles, struct error *err)
{
	struct buf text = {0};
	for (unsigned i = 0; i < config->roles.count; i++)
		buf_printf(&text, "%s%s", i ? "," : "", config->roles.items[i]);
	int rc = node_roles_parse(buf_str(&text), ret_roles, err);
	buf_fini(&text);
	return rc;
}

static int node_start(struct node *n, struct error *err)
{
	int rc = node_roles_of(n->config, &n->roles, err);
	if (rc == 0 && n->roles == 0)
		rc = error_set(err, E_INVAL, "roles: say what this node does: repository, center, edge, scheduler");
	if (rc || (rc = lock_data(n, err)))
		return rc;
	n->log_ring = log_ring_new(n->loop);
	n->drain_timer = loop_timer_new(n->loop, on_drain_check, n);
	n->second = loop_timer_new(n->loop, on_second, n);
	loop_timer_start(n->second, US_PER_S, US_PER_S);
	/* member first: it has the identity; it calls back only from the loop, when the rooms are there */
	if ((rc = api_tls_load(n, n->config, false, err)) || (rc = start_member(n, err)) ||
	    (rc = start_stores(n, err)) || (rc = start_peer(n, err)) || (rc = start_gateway(n, err)) ||
	    (rc = start_gate(n, err)) || (rc = start_center(n, err)) || (rc = start_console(n, err)) ||
	    (rc = start_scheduler(n, err)) || (rc = start_listeners(n, err)))
		return rc;
	n->started = true;
	return 0;
}

static void node_stop(struct node *n)
{
	http_server_free(n->api_server);
	http_server_free(n->repository_server);
	http_server_free(n->scheduler_server);
	http_server_free(n->console_server);
	http_server_free(n->node_server);
	scheduler_free(n->scheduler);
	console_free(n->console);
	center_free(n->center);
	trust_gate_free(n->gate);
	gateway_free(n->gateway);
	peer_free(n->peer);
	keeper_free(n->keeper);
	sealed_files_free(n->sealed);
	version_fini(&n->wanted);
	repository_free(n->repository);
	member_free(n->member);
	key_ring_fini(&n->keys);
	tls_context_free(n->api_tls);
	blob_cache_free(n->cache);
	held_models_fini(&n->held);
	fetch_limits_fini(&n->limits);
	loop_timer_free(n->second);
	if (n->current != n->config)
		config_free(n->current);
	loop_timer_free(n->drain_timer);
	log_ring_free(n->log_ring);
	loop_free(n->loop);
	catalog_close(n->catalog); /* jobs use them until the loop is gone */
	blob_store_close(n->blobs);
	if (n->lock_fd >= 0)
		close(n->lock_fd);
}

/* Bodies of some hundred KB come and go with every request. By default each is a mapping of its own, or the heap's end
 * is given back after it, and a third of a gateway's time goes into page faults. */
static void keep_pages(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

int node_run(struct config *config, const struct node_source *source, struct error *err)
{
	struct node n = {.config = config, .current = config, .source = source, .lock_fd = -1};
	int rc = loop_new(&n.loop);
	if (rc)
		return error_set(err, rc, "cannot make an event loop");
	keep_pages();
	loop_on_signal(n.loop, SIGTERM, on_stop_signal, &n);
	loop_on_signal(n.loop, SIGINT, on_stop_signal, &n);
	loop_on_signal(n.loop, SIGHUP, on_reload, &n);
	rc = node_start(&n, err);
	if (rc == 0) {
		log_info("node", "%s is up: mdn " MDN_VERSION, config->name);
		systemd_notify("READY=1");
		loop_run(n.loop);
		log_info("node", "stopped");
	}
	node_stop(&n);
	return rc;
}
