/* SPDX-License-Identifier: Apache-2.0 */
/* What is most likely wrong, files of keys and policies, is tried before anything changes. */
#include "cli/node_room.h"

#include "base/file.h"
#include "base/log.h"
#include "cli/model_files.h"
#include "cli/systemd.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PEM_MAX (1 << 20)

struct scheduler_options node_scheduler_options(const struct config *c, struct str **ret_lists)
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
	    .dns_threads = c->dns_threads,
	    .dns_rate_limit = c->dns_rate_limit,
	    .dns_cookie_secret = str_from(c->dns_cookie_secret),
	    .dns_why = c->dns_why,
	    .young_us = SCHEDULER_YOUNG_US,
	    .zones = lists,
	    .zone_count = c->zones.count,
	    .distances = lists + c->zones.count,
	    .distance_count = c->distances.count,
	    .coverage_file = c->coverage_file,
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

void node_set_repository_rules(struct node *n, const struct config *c)
{
	struct str *lists;
	struct repository_rules rules = repository_rules_of(c, &lists);
	repository_set_rules(n->repository, &rules);
	free(lists);
}

struct gateway_tokens node_gateway_tokens(const struct config *c)
{
	return (struct gateway_tokens){
	    .keys = str_from(c->jwt_keys),
	    .issuer = str_from(c->jwt_issuer),
	    .audience = str_from(c->jwt_audience),
	    .claim = str_from(c->jwt_tenant),
	    .team = str_from(c->jwt_team),
	    .folder = str_from(c->data),
	    .ca_file = str_from(c->outside_ca),
	    .proxy = str_from(c->outside_proxy),
	};
}

void node_set_residence(struct node *n, const struct config *c)
{
	int rc = gateway_set_policy(n->gateway, str_from(c->route_policy), NULL);
	assert(rc == 0); /* the configuration takes no other names */
	struct str *pins = mem_new((c->pin.count + 1) * sizeof *pins);
	for (unsigned i = 0; i < c->pin.count; i++)
		pins[i] = str_from(c->pin.items[i]);
	gateway_set_residence(n->gateway, pins, c->pin.count, c->model_idle_unload_us);
	free(pins);
}

int node_set_ollama_keys(struct node *n, const struct config *c, struct error *err)
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
int node_load_api_tls(struct node *n, const struct config *c, bool try_only, struct error *err)
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
		if (rc < 0)
			error_prefix(err, "api_tls_cert %s, api_tls_key %s: ", c->api_tls_cert, c->api_tls_key);
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
	int rc = node_load_api_tls(n, c, true, err);
	if (rc == 0 && n->gate)
		rc = trust_gate_try(n->gate, c->trust_policy, err);
	struct gateway_tokens tokens = node_gateway_tokens(c);
	if (rc == 0 && n->gateway && (rc = gateway_try_services(c->service_classes, err)) == 0)
		rc = gateway_try_tokens(n->gateway, &tokens, err);
	if (rc == 0 && n->repository)
		rc = node_set_ollama_keys(n, c, err);
	if (rc == 0 && n->scheduler) {
		struct str *lists;
		struct scheduler_options o = node_scheduler_options(c, &lists);
		rc = scheduler_reload(n->scheduler, &o, err);
		free(lists);
	}
	if (rc == 0 && n->catalog)
		rc = catalog_rules_apply(n->catalog, c, err);
	if (rc || (rc = node_load_api_tls(n, c, false, err)))
		return rc;
	set_log_level(c);
	node_set_rates(n, c);
	if (n->cache)
		blob_cache_set_max(n->cache, c->cache_max);
	if (n->gateway) {
		gateway_set_open(n->gateway, c->open);
		gateway_set_access_log(n->gateway, c->access_log);
		node_set_residence(n, c);
		if (gateway_set_services(n->gateway, c->service_classes, &changed) < 0)
			log_error("node", "the old service classes stay: %s", changed.text);
		if (gateway_set_tokens(n->gateway, &tokens, &changed) < 0)
			log_error("node", "the old keys of tokens stay: %s", changed.text);
	}
	keeper_set_times(n->keeper, c->gc_every_us, c->gc_lease_us);
	if (n->repository)
		node_set_repository_rules(n, c);
	if (n->gate && trust_gate_reload(n->gate, c->trust_policy, &changed) == 0) {
		node_fetch_assigned(n); /* with signatures or without */
		node_judge_again(n);
	} else if (n->gate) {
		log_error("node", "the trust policy changed while it was read, and the old one stays: %s; reload again",
		          changed.text);
	}
	if (n->center)
		center_set_lives(n->center, c->token_life_us, c->cert_life_us);
	return 0;
}

void node_on_reload(void *arg)
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
