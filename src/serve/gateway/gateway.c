/* SPDX-License-Identifier: Apache-2.0 */
/* How: one table of routes. Everything under /v1 needs a key unless the gateway is open; health, metrics and the page
 * at the root do not. On the node port only the two answering routes exist, and only for nodes. Headers that nodes use
 * among themselves mean nothing on the public port; one that claims to be a hop is refused, because somebody believes
 * to be talking to another port.
 */
#include "serve/gateway/internal.h"
#include "serve/gateway/offline.h"
#include "serve/gateway/openapi.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define TICK_US NODE_ESTIMATE_US

/* ---- answers without an engine --------------------------------------------------------------------------------- */

static void get_root(struct gateway *g, struct http_exchange *x)
{
	struct buf out = {0};

	buf_printf(
	    &out,
	    "MDN node %s, site %s\n\n"
	    "This is an OpenAI API. Point a client at /v1 of this address:\n\n"
	    "  GET  /v1/models            what can be asked\n"
	    "  POST /v1/chat/completions  ask; also /v1/responses, /v1/messages (Anthropic), /api/chat (Ollama)\n"
	    "  POST /v1/completions       continue a text\n"
	    "  GET  /health /ready /metrics\n",
	    g->name, g->site);
	http_respond(x, 200, "text/plain; charset=utf-8", buf_str(&out));
	buf_fini(&out);
}

static void get_health(struct gateway *g, struct http_exchange *x)
{
	(void)g;
	http_respond(x, 200, "application/json", STR("{\"status\":\"ok\"}"));
}

static void get_ready(struct gateway *g, struct http_exchange *x)
{
	bool ready = !g->draining && models_any_ready(g);

	http_respond(x, ready ? 200 : 503, "application/json",
	             ready         ? STR("{\"status\":\"ready\"}")
	             : g->draining ? STR("{\"status\":\"draining\"}")
	                           : STR("{\"status\":\"no model is ready\"}"));
}

/* Where vLLM tells its own: by it routers know what to look for in /metrics. */
static void get_version(struct gateway *g, struct http_exchange *x)
{
	(void)g;
	http_respond(x, 200, "application/json", STR("{\"version\":\"" MDN_VERSION "\",\"server\":\"mdn\"}"));
}

static void get_metrics(struct gateway *g, struct http_exchange *x)
{
	struct buf out = {0};

	metrics_format(g, &out);
	http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&out));
	buf_fini(&out);
}

static void get_openapi(struct gateway *g, struct http_exchange *x)
{
	(void)g;
	http_respond(x, 200, "application/json", (struct str){(const char *)openapi_json, openapi_json_size});
}

static void get_models(struct gateway *g, struct http_exchange *x)
{
	struct buf out = {0};

	models_list(g, &out);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static void get_model(struct gateway *g, struct http_exchange *x)
{
	struct str path = http_path(x), name = {path.base + 11, path.len - 11}; /* after /v1/models/ */
	struct fault fault = {.code = "model_not_found", .param = "model"};
	struct buf out = {0};

	if (models_one(g, name, &out)) {
		http_respond(x, 200, "application/json", buf_str(&out));
	} else {
		error_set(&fault.err, E_NOTFOUND, "The model '%.*s' does not exist",
		          (int)(name.len < 128 ? name.len : 128), name.base);
		respond_fault(x, NULL, &fault);
	}
	buf_fini(&out);
}

/* ---- routes ----------------------------------------------------------------------------------------------------- */

enum { GET = 1, POST = 2, DELETE = 4 };

/* {name} stands for a segment of the path, {name...} for the rest of it. */
static const struct route_line {
	const char *path;
	unsigned methods;
	bool key;
	void (*answer)(struct gateway *g, struct http_exchange *x); /* NULL: a request to engines, or `offline` */
	const struct dialect *dialect;                              /* it, or the shape of errors; NULL: OpenAI's */
	/* Files and batches; id: what {name} stands for. */
	void (*offline)(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);
} routes[] = {
    {"/v1/chat/completions", POST, .key = true, .dialect = &dialect_chat},
    {"/v1/chat/completions/render", POST, .key = true, .dialect = &dialect_render},
    {"/v1/completions", POST, .key = true, .dialect = &dialect_completion},
    {"/v1/embeddings", POST, .key = true, .dialect = &dialect_embeddings},
    {"/v1/rerank", POST, .key = true, .dialect = &dialect_rerank},
    {"/rerank", POST, .key = true, .dialect = &dialect_rerank},
    {"/tokenize", POST, .key = true, .dialect = &dialect_tokenize},
    {"/detokenize", POST, .key = true, .dialect = &dialect_detokenize},
    {"/v1/responses", POST, .key = true, .dialect = &dialect_responses},
    {"/v1/messages", POST, .key = true, .dialect = &dialect_messages},
    {"/v1/messages/count_tokens", POST, .key = true, .dialect = &dialect_count_tokens},
    {"/api/chat", POST, .key = true, .dialect = &dialect_ollama_chat},
    {"/api/generate", POST, .key = true, .dialect = &dialect_ollama_generate},
    {"/api/tags", GET, .key = true, .answer = ollama_tags, .dialect = &dialect_ollama},
    {"/api/ps", GET, .key = true, .answer = ollama_ps, .dialect = &dialect_ollama},
    {"/api/show", POST, .key = true, .answer = ollama_show, .dialect = &dialect_ollama},
    {"/api/version", GET, .answer = ollama_version, .dialect = &dialect_ollama},
    {"/v1/models", GET, .key = true, .answer = get_models},
    {"/v1/models/{model...}", GET, .key = true, .answer = get_model},
    {"/v1/files", GET | POST, .key = true, .offline = files_collection},
    {"/v1/files/{file_id}", GET | DELETE, .key = true, .offline = files_one},
    {"/v1/files/{file_id}/content", GET, .key = true, .offline = files_content},
    {"/v1/batches", GET | POST, .key = true, .offline = batches_collection},
    {"/v1/batches/{batch_id}", GET, .key = true, .offline = batches_one},
    {"/v1/batches/{batch_id}/cancel", POST, .key = true, .offline = batches_cancel},
    {"/health", GET, .answer = get_health},
    {"/ready", GET, .answer = get_ready},
    {"/metrics", GET, .answer = get_metrics},
    {"/version", GET, .answer = get_version},
    {"/openapi.json", GET, .answer = get_openapi},
    {"/", GET, .answer = get_root},
};

bool gateway_route(size_t number, const char **ret_path, const char **ret_methods)
{
	static const char *const methods[] = {"",       "GET, HEAD",        "POST", "GET, HEAD, POST",
	                                      "DELETE", "GET, HEAD, DELETE"};

	if (number >= sizeof(routes) / sizeof(routes[0]))
		return false;
	*ret_path = routes[number].path;
	*ret_methods = methods[routes[number].methods];
	return true;
}

static bool path_fits(const char *pattern, struct str path, struct str *ret_id)
{
	size_t at = 0;

	for (; *pattern; pattern++) {
		if (*pattern != '{') {
			if (at == path.len || path.base[at++] != *pattern)
				return false;
			continue;
		}
		const char *end = strchr(pattern, '}');
		bool rest = end[-1] == '.';
		size_t from = at;
		while (at < path.len && (rest || path.base[at] != '/'))
			at++;
		if (at == from)
			return false;
		*ret_id = (struct str){path.base + from, at - from};
		pattern = end;
	}
	return at == path.len;
}

static const struct route_line *route_find(struct str path, struct str *ret_id)
{
	*ret_id = (struct str){0};
	for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++)
		if (path_fits(routes[i].path, path, ret_id))
			return &routes[i];
	return NULL;
}

const struct dialect *gateway_dialect(struct str path)
{
	struct str id;
	const struct route_line *line = route_find(path, &id);

	return line && !line->answer && !line->offline ? line->dialect : NULL;
}

static bool method_fits(const struct route_line *line, struct http_exchange *x)
{
	struct str method = http_method(x);
	struct fault fault = {0};
	unsigned asked = str_equal(method, STR("GET")) || str_equal(method, STR("HEAD")) ? GET
	                 : str_equal(method, STR("POST"))                                ? POST
	                 : str_equal(method, STR("DELETE"))                              ? DELETE
	                                                                                 : 0;
	const char *path, *methods;

	if (asked & line->methods)
		return true;
	gateway_route((size_t)(line - routes), &path, &methods);
	http_add_header(x, "allow", str_from(methods));
	error_set(&fault.err, E_METHOD, "%s takes %s", path, methods);
	respond_fault(x, line->dialect, &fault);
	return false;
}

static void answer_offline(struct gateway *g, struct http_exchange *x, const struct route_line *line, struct str tenant,
                           struct str id)
{
	struct fault fault = {0};

	if (g->offline) {
		line->offline(g, x, tenant, id);
		return;
	}
	error_set(&fault.err, E_NOTFOUND, "this node takes neither files nor batches (files_max is 0)");
	respond_fault(x, line->dialect, &fault);
}

bool gateway_handle_public(struct gateway *g, struct http_exchange *x)
{
	struct str ignored, id;
	const struct route_line *line = route_find(http_path(x), &id);
	struct fault fault = {0};
	char tenant[TOKEN_TENANT_SIZE] = "";

	if (!line)
		return false;
	if (!method_fits(line, x))
		return true;
	if (http_header(x, "x-mdn-hop", &ignored)) {
		error_set(&fault.err, E_INVAL, "x-mdn-hop belongs to the node port; this is the public one");
		respond_fault(x, line->dialect, &fault);
	} else if (line->key && keys_check(g, x, tenant, &fault) < 0) {
		g->metrics.errors[-E_AUTH]++;
		respond_fault(x, line->dialect, &fault);
	} else if (line->answer) {
		line->answer(g, x);
	} else if (line->offline) {
		answer_offline(g, x, line, str_from(tenant), id);
	} else {
		request_open(g, x, line->dialect, false, STR(""), str_from(tenant));
	}
	return true;
}

bool gateway_handle_node(struct gateway *g, struct http_exchange *x)
{
	struct str sender, id;
	const struct route_line *line = route_find(http_path(x), &id);
	struct fault fault = {0};

	if (!line || line->answer || line->offline)
		return false;
	if (!method_fits(line, x))
		return true;
	if (keys_check_node(g, x, &sender, &fault.err) < 0)
		respond_fault(x, line->dialect, &fault);
	else
		request_open(g, x, line->dialect, true, sender, STR("anonymous"));
	return true;
}

/* ---- senders ------------------------------------------------------------------------------------------------------
 */

static size_t sender_place(const struct gateway *g, struct str id, bool *ret_found)
{
	size_t low = 0, high = g->sender_count;

	*ret_found = false;
	while (low < high) {
		size_t middle = (low + high) / 2;
		int order = strncmp(g->senders[middle].id, id.base, id.len);

		if (order == 0 && g->senders[middle].id[id.len] == '\0') {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void sender_evict(struct gateway *g)
{
	size_t oldest = 0;

	for (size_t i = 1; i < g->sender_count; i++)
		if (g->senders[i].last_us < g->senders[oldest].last_us)
			oldest = i;
	memmove(&g->senders[oldest], &g->senders[oldest + 1], (--g->sender_count - oldest) * sizeof(*g->senders));
}

void gateway_saw(struct gateway *g, struct str sender, uint64_t dispatched)
{
	bool found;

	if (g->sender_count == REPORT_PEERS_MAX && (sender_place(g, sender, &found), !found))
		sender_evict(g);
	size_t at = sender_place(g, sender, &found);
	if (!found) {
		if (g->sender_count == g->sender_cap) {
			g->sender_cap = g->sender_cap ? g->sender_cap * 2 : 16;
			g->senders = mem_resize(g->senders, g->sender_cap, sizeof(*g->senders));
		}
		memmove(&g->senders[at + 1], &g->senders[at], (g->sender_count++ - at) * sizeof(*g->senders));
		g->senders[at] = (struct sender){0};
		str_copy(sender, g->senders[at].id, sizeof(g->senders[at].id));
	}
	struct sender *s = &g->senders[at];
	s->last_us = loop_now_us(g->loop);
	if (dispatched > s->dispatched)
		s->dispatched = dispatched;
}

size_t gateway_seen(const struct gateway *g, struct node_seen *out, size_t max)
{
	for (size_t i = 0; i < g->sender_count && i < max; i++) {
		memcpy(out[i].id, g->senders[i].id, sizeof(out[i].id));
		out[i].dispatched = g->senders[i].dispatched;
	}
	return g->sender_count;
}

void gateway_take_demand(struct gateway *g, struct buf *out)
{
	int64_t now = loop_now_us(g->loop), window_us = now - g->demand_from_us;
	demand_format(&g->demand, g->id, window_us > 0 ? window_us : 1, out);
	demand_clear(&g->demand);
	g->demand_from_us = now;
}

/* ---- life -----------------------------------------------------------------------------------------------------------
 */

static void on_tick(void *arg)
{
	struct gateway *g = arg;
	int64_t now = loop_now_us(g->loop);

	for (struct request *r = g->requests, *next; r; r = next) {
		next = r->next; /* a check may end r, and only r */
		if (r->forward)
			forward_check(r->forward, now);
	}
	node_map_estimate(g->map.map, ledger_count(g->ledger), now);
	models_tick(g);
	offline_tick(g);
	tokens_tick(&g->tokens);
}

static void on_settle(void *arg)
{
	models_settle(arg);
}

static void copy_engine_options(struct gateway *g, const struct engine_options *from)
{
	struct str *texts[] = {&g->engine.kind,         &g->engine.remote_url, &g->engine.remote_key,
	                       &g->engine.remote_model, &g->engine.pooling,    &g->engine.cache_folder,
	                       &g->engine.speculate};

	g->engine = *from;
	g->engine.model_path = g->engine.model_name = STR("");
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		g->engine_texts[i] = str_dup(*texts[i]);
		*texts[i] = str_from(g->engine_texts[i]);
	}
}

int gateway_new(struct loop *loop, const struct gateway_options *options, struct gateway **ret_gateway,
                struct error *err)
{
	struct gateway *g = NEW(struct gateway);

	if (!str_copy(options->self_id, g->id, sizeof(g->id)) ||
	    !str_copy(options->self_name, g->name, sizeof(g->name)) ||
	    !str_copy(options->site, g->site, sizeof(g->site)) ||
	    !str_copy(options->domain, g->domain, sizeof(g->domain))) {
		free(g);
		return error_set(err, E_LIMIT, "the name of the node, its site or its domain is longer than %d bytes",
		                 LIMIT_NAME);
	}
	g->loop = loop;
	g->demand_from_us = loop_now_us(loop);
	g->client = options->client;
	g->open = options->open;
	g->access_log = options->access_log;
	g->plain_hops = options->plain_hops;
	g->first_token_timeout_us = options->first_token_timeout_us;
	g->on_change = options->on_change;
	g->arg = options->arg;
	g->begun_wall_s = clock_wall_us() / US_PER_S;
	rng_init(&g->rng, rng_seed());
	copy_engine_options(g, &options->engine);
	g->ledger = ledger_new((uint64_t)clock_wall_us());
	g->affinity = affinity_new(rng_seed());
	g->policy = route_policies;
	map_init(g);
	g->tick = loop_timer_new(loop, on_tick, g);
	loop_timer_start(g->tick, TICK_US, TICK_US);
	g->settle = loop_timer_new(loop, on_settle, g);
	if (quotas_new(g, options->usage_outbox, &g->quotas, err) < 0) {
		gateway_free(g);
		return err->code;
	}
	if (options->offline_folder.len) {
		int rc = offline_open(g, options->offline_folder, options->files_max, err);

		if (rc < 0) {
			gateway_free(g);
			return rc;
		}
	}
	*ret_gateway = g;
	return 0;
}

void gateway_free(struct gateway *g)
{
	if (!g)
		return;
	g->on_change = NULL;
	offline_close(g);
	request_free_all(g);
	quotas_free(g->quotas);
	free(g->teams);
	map_fini(g);
	models_free(g);
	room_fini(g);
	assert(ledger_count(g->ledger) == 0);
	ledger_free(g->ledger);
	affinity_free(g->affinity);
	demand_fini(&g->demand);
	loop_timer_free(g->tick);
	loop_timer_free(g->settle);
	for (size_t i = 0; i < sizeof(g->engine_texts) / sizeof(g->engine_texts[0]); i++)
		free(g->engine_texts[i]);
	key_ring_fini(&g->keys);
	services_fini(&g->services);
	tokens_fini(&g->tokens);
	free(g->senders);
	buf_fini(&g->scratch);
	buf_fini(&g->frame);
	free(g);
}

void gateway_set_open(struct gateway *g, bool open)
{
	g->open = open;
}

int gateway_set_tokens(struct gateway *g, const struct gateway_tokens *options, struct error *err)
{
	return tokens_set(&g->tokens, g->loop, options, err);
}

int gateway_try_tokens(struct gateway *g, const struct gateway_tokens *options, struct error *err)
{
	struct tokens t = {0};
	int rc = tokens_set(&t, g->loop, options, err);

	tokens_fini(&t);
	return rc;
}

int gateway_set_policy(struct gateway *g, struct str name, struct error *err)
{
	const struct route_policy *policy = route_policy_find(name);

	if (!policy)
		return error_set(err, E_INVAL,
		                 "no policy is called \"" STR_FMT "\"; see `mdn config explain route_policy`",
		                 STR_ARG(name));
	g->policy = policy;
	return 0;
}

void gateway_set_access_log(struct gateway *g, bool on)
{
	g->access_log = on;
}

void gateway_drain(struct gateway *g)
{
	g->draining = true;
	gateway_changed(g);
}

size_t gateway_running(const struct gateway *g)
{
	return g->request_count;
}
