/* SPDX-License-Identifier: Apache-2.0 */
/* node.c - starts and stops the rooms of one node, and wires them: rooms never know each other. What passes between
 * them while they run is in the files that node_room.h lists.
 *
 * Order at start: data folder (locked), member (identity, TLS), rooms, listeners, READY. The stop is the other way
 * round. Drained, the API port still answers, so that late clients are sent elsewhere; told to stop, it refuses new
 * ones.
 */
#include "cli/node_room.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "cli/model_files.h"
#include "cli/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#define DRAIN_CHECK_US (50 * US_PER_MS)
#define DRAIN_LEAST_US (300 * US_PER_MS) /* so that the others hear of it before the port closes */

static bool read_center(void *arg, struct http_exchange *x)
{
	return center_read(((struct node *)arg)->center, x);
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
	/* Reset at once, a new client tries the next address; one that waits here would wait for nothing. */
	if (n->api_server)
		http_server_refuse_new(n->api_server);
	loop_timer_start(n->drain_timer, DRAIN_CHECK_US, DRAIN_CHECK_US);
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
	if (rc == 0 && node_has(n, ROLE_EDGE))
		rc = url_of("api", c->api_tls_cert[0] ? "https://" : "http://", c->api_advertise, c->api_listen,
		            api_url, err);
	if (rc)
		return rc;
	struct member_options o = {
	    .data = str_from(c->data),
	    .center_url = str_from(c->center),
	    .fill_report = node_fill_report,
	    .on_roster = node_on_roster,
	    .on_spread = node_on_spread,
	    .on_assign = node_on_assign,
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
	struct repository_options o = {.chunk_size = n->config->chunk_size, .check_key = node_check_key, .arg = n};
	snprintf(path, sizeof path, "%s/blobs", n->config->data);
	int rc = blob_store_open(str_from(path), &n->blobs, err);
	if (rc == 0)
		rc = blob_store_unlock(n->blobs, n->config->site_key, n->config->encrypt_at_rest, err);
	if (rc == 0)
		n->sealed = sealed_files_new(n->loop, n->blobs, node_on_decrypted, n);
	if (rc || !node_has(n, ROLE_REPOSITORY))
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
		node_set_repository_rules(n, n->config);
	if (rc == 0)
		rc = node_set_ollama_keys(n, n->config, err);
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
	                                                         .on_wanted = node_on_wanted,
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
	    .on_ready = node_on_model_here,
	    .on_progress = on_change,
	    .arg = n,
	};
	start_keeper(n);
	return peer_new(n->loop, &o, &n->peer, err);
}

static int start_gateway(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	if (!node_has(n, ROLE_EDGE))
		return 0;
	char *cache_folder = file_join(str_from(c->data), "prefix"),
	     *offline_folder = file_join(str_from(c->data), "batches"),
	     *usage_outbox = file_join(str_from(c->data), "usage-outbox.db");
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
		    .itl_target_us = c->itl_target_us,
		    .queue_us = c->queue_wait_us,
		    .swap_bytes = c->swap_max,
		    .threads = (int32_t)c->threads,
		    .in_process = strcmp(c->engine_isolation, "none") == 0,
		    .user = str_from(c->engine_user),
		    .cache_folder = str_from(cache_folder),
		    .cache_memory_bytes = c->prefix_cache_memory ? c->prefix_cache_memory : 1, /* room for nothing */
		    .cache_disk_bytes = c->prefix_cache_disk,
		    .pooling = str_from(c->pooling),
		    .mlock = c->mlock,
		    .deterministic = c->deterministic,
		    .speculate = str_from(c->speculate),
		},
	    .open = c->open,
	    .access_log = c->access_log,
	    .offline_folder = c->files_max ? str_from(offline_folder) : STR(""),
	    .files_max = c->files_max,
	    .usage_outbox = str_from(usage_outbox),
	    .on_change = on_change,
	    .arg = n,
	};
	int rc = machine_describe(c, &n->machine, err);
	if (rc == 0)
		rc = gateway_new(n->loop, &o, &n->gateway, err);
	free(cache_folder);
	free(offline_folder);
	free(usage_outbox);
	if (rc)
		return rc;
	struct gateway_tokens tokens = node_gateway_tokens(c);
	if ((rc = gateway_set_services(n->gateway, c->service_classes, err)) < 0 ||
	    (rc = gateway_set_tokens(n->gateway, &tokens, err)) < 0)
		return rc;
	gateway_set_memory(n->gateway, c->memory_max);
	node_set_residence(n, c);
	if (!node_has(n, ROLE_REPOSITORY))
		n->cache = blob_cache_new(n->loop, n->blobs, c->data, c->cache_max, node_needs_blob, n);
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
	    .on_verdict = node_on_verdict,
	    .arg = n,
	};
	return n->gateway ? trust_gate_new(&o, c->trust_policy, &n->gate, err) : 0;
}

static int start_center(struct node *n, struct error *err)
{
	const struct config *config = n->config;
	char node_url[NODE_URL_SIZE] = "";
	const struct etcd_options etcd = {
	    .endpoints = (const char *const *)config->etcd_endpoints.items,
	    .endpoint_count = config->etcd_endpoints.count,
	    .ca_file = str_from(config->etcd_ca),
	    .cert_file = str_from(config->etcd_cert),
	    .key_file = str_from(config->etcd_key),
	};
	struct center_options o = {
	    .data = str_from(n->config->data),
	    .domain = member_domain(n->member),
	    .token_life_us = n->config->token_life_us,
	    .cert_life_us = n->config->cert_life_us,
	    .client = member_client(n->member),
	    .etcd = strcmp(config->state, "etcd") == 0 ? &etcd : NULL,
	};
	if (!node_has(n, ROLE_CENTER))
		return 0;
	int rc = url_of("node", "https://", config->node_advertise, config->node_listen, node_url, err);
	if (rc)
		return rc;
	o.node_url = str_from(node_url);
	rc = center_new(n->loop, &o, &n->center, err);
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
	if (!node_has(n, ROLE_SCHEDULER))
		return 0;
	struct scheduler_options o = node_scheduler_options(n->config, &lists);
	char *folder = file_join(str_from(n->config->data), "scheduler");
	o.folder = str_from(folder);
	int rc = scheduler_new(n->loop, &o, &n->scheduler, err);
	free(folder);
	free(lists);
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
	n->second = loop_timer_new(n->loop, node_on_second, n);
	loop_timer_start(n->second, US_PER_S, US_PER_S);
	/* member first: it has the identity; it calls back only from the loop, when the rooms are there */
	if ((rc = node_load_api_tls(n, n->config, false, err)) || (rc = start_member(n, err)) ||
	    (rc = start_stores(n, err)) || (rc = start_peer(n, err)) || (rc = start_gateway(n, err)) ||
	    (rc = start_gate(n, err)) || (rc = start_center(n, err)) || (rc = start_console(n, err)) ||
	    (rc = start_scheduler(n, err)) || (rc = node_listen(n, err)))
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

/* A connection is a file: as many as we may have, not as many as shells hand out. */
static void raise_files(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		return;
	rlim_t was = files.rlim_cur, wanted = 2 * (rlim_t)LIMIT_CONNS;
	files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
	if (files.rlim_cur <= was || setrlimit(RLIMIT_NOFILE, &files) != 0)
		files.rlim_cur = was;
	if (files.rlim_cur < 16384)
		log_warn("node",
		         "only %llu files may be open, so that many clients at once are refused; raise the hard "
		         "limit (ulimit -Hn, or LimitNOFILE= of systemd)",
		         (unsigned long long)files.rlim_cur);
}

int node_run(struct config *config, const struct node_source *source, struct error *err)
{
	struct node n = {.config = config, .current = config, .source = source, .lock_fd = -1};
	int rc = loop_new(&n.loop);
	if (rc)
		return error_set(err, rc, "cannot make an event loop");
	keep_pages();
	raise_files();
	loop_on_signal(n.loop, SIGTERM, on_stop_signal, &n);
	loop_on_signal(n.loop, SIGINT, on_stop_signal, &n);
	loop_on_signal(n.loop, SIGHUP, node_on_reload, &n);
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
