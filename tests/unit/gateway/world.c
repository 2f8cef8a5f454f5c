/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>

static void too_long(void *arg)
{
	(void)arg;
	fail_msg("nothing happened for 20 s");
}

static void stop(void *arg)
{
	loop_stop(arg);
}

void world_init(struct world *w)
{
	const struct http_client_options options = {.connect_timeout_us = US_PER_S};

	memset(w, 0, sizeof(*w));
	assert_int_equal(loop_new(&w->loop), 0);
	w->client = http_client_new(w->loop, &options);
	w->between = http_client_new(w->loop, &options);
	w->watchdog = loop_timer_new(w->loop, too_long, NULL);
	w->pause = loop_timer_new(w->loop, stop, w->loop);
}

void world_fini(struct world *w)
{
	http_client_free(w->client);
	http_client_free(w->between);
	loop_timer_free(w->watchdog);
	loop_timer_free(w->pause);
	loop_free(w->loop);
}

void world_run(struct world *w)
{
	loop_timer_start(w->watchdog, 20 * US_PER_S, 0);
	loop_run(w->loop);
	loop_timer_stop(w->watchdog);
}

void world_wait(struct world *w, int64_t us)
{
	loop_timer_start(w->pause, us, 0);
	world_run(w);
}

/* ---- nodes -------------------------------------------------------------------------------------------------- */

static void on_public(void *arg, struct http_exchange *x)
{
	struct place *p = arg;

	if (!gateway_handle_public(p->g, x))
		http_respond(x, 404, "text/plain", STR("not the gateway's"));
}

static void on_node(void *arg, struct http_exchange *x)
{
	struct place *p = arg;

	if (!gateway_handle_node(p->g, x))
		http_respond(x, 404, "text/plain", STR("not the gateway's"));
}

static struct http_server *listen_on(struct world *w, http_handler *handler, void *arg, char *to, size_t size)
{
	const struct http_server_options options = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = handler, .handler_arg = arg, .room = "test"};
	struct http_server *server;
	struct error err;

	assert_int_equal(http_server_new(w->loop, &options, &server, &err), 0);
	snprintf(to, size, "http://" STR_FMT, STR_ARG(http_server_address(server)));
	return server;
}

struct gateway_options place_options(const char *id, const char *site)
{
	return (struct gateway_options){
	    .self_id = str_from(id),
	    .self_name = str_from(id),
	    .site = str_from(site),
	    .domain = STR("mdn.test"),
	    .engine = {.kind = STR("synthetic"), .prefill_us_per_token = -1, .itl_base_us = -1, .itl_slope_us = -1},
	    .open = true,
	    .plain_hops = true,
	};
}

void place_start(struct world *w, struct place *p, const struct gateway_options *options)
{
	struct gateway_options own = *options;
	struct error err;

	memset(p, 0, sizeof(*p));
	own.client = w->between;
	assert_int_equal(gateway_new(w->loop, &own, &p->g, &err), 0);
	p->public_port = listen_on(w, on_public, p, p->api, sizeof(p->api));
	p->node_port = listen_on(w, on_node, p, p->url, sizeof(p->url));
}

void place_stop(struct place *p)
{
	gateway_free(p->g);
	http_server_free(p->public_port);
	http_server_free(p->node_port);
}

void place_model(struct world *w, struct place *p, const char *name)
{
	struct model_report r;
	struct error err;

	assert_int_equal(gateway_model_add(p->g, str_from(name), STR("sha256:0123456789abcdef"), STR("/nowhere"), &err),
	                 0);
	for (int i = 0; i < 100; i++) {
		assert_true(gateway_model_report(p->g, str_from(name), &r));
		if (r.state == MODEL_READY)
			return;
		world_wait(w, 2000);
	}
	fail_msg("%s did not become ready", name);
}

/* ---- the scheduler -------------------------------------------------------------------------------------------- */

static void watcher_gone(void *arg)
{
	struct watcher *v = arg;

	v->x = NULL;
}

static void on_map(void *arg, struct http_exchange *x)
{
	struct scheduler_double *s = arg;

	assert_true(s->watcher_count < 8);
	struct watcher *v = &s->watchers[s->watcher_count++];
	v->x = x;
	http_watch(x, NULL, watcher_gone, v);
	http_respond_begin(x, 200, "text/event-stream", -1);
	scheduler_double_publish(s);
}

void scheduler_double_publish(struct scheduler_double *s)
{
	struct buf map = {0}, event = {0};

	node_map_format(s->map, loop_now_us(s->w->loop), &map);
	if (s->down) {
		struct buf edited = {0};
		char id[64];

		buf_append(&map, "", 1);
		snprintf(id, sizeof(id), "\"id\":\"%s\"", s->down);
		char *health = strstr(strstr(map.base, id), "\"health\":\"");
		buf_append(&edited, map.base, (size_t)(health - map.base));
		buf_printf(&edited, "\"health\":\"down\"%s", strchr(health + 11, '"') + 1);
		buf_fini(&map);
		map = edited;
	}
	sse_append(&event, STR("map"), buf_str(&map));
	for (size_t i = 0; i < s->watcher_count; i++)
		if (s->watchers[i].x)
			http_write(s->watchers[i].x, buf_str(&event));
	buf_fini(&map);
	buf_fini(&event);
}

void scheduler_double_start(struct world *w, struct scheduler_double *s)
{
	memset(s, 0, sizeof(*s));
	s->w = w;
	s->map = node_map_new();
	s->server = listen_on(w, on_map, s, s->url, sizeof(s->url));
}

void scheduler_double_stop(struct scheduler_double *s)
{
	http_server_free(s->server);
	s->server = NULL;
	s->watcher_count = 0;
	node_map_free(s->map);
	s->map = NULL;
}

void scheduler_double_report(struct scheduler_double *s, const char *id, const char *site, const char *url,
                             const char *api, const char *model, enum node_state state)
{
	static uint64_t seq;
	struct model_report m = {.state = MODEL_READY, .slots = 8, .context_tokens = 4096};
	struct node_report r = {.roles = ROLE_EDGE, .state = state, .boot = 1, .seq = ++seq};
	struct error err = {0};

	snprintf(m.name, sizeof(m.name), "%s", model);
	snprintf(r.id, sizeof(r.id), "%s", id);
	snprintf(r.name, sizeof(r.name), "%s", id);
	snprintf(r.site, sizeof(r.site), "%s", site);
	snprintf(r.node_url, sizeof(r.node_url), "%s", url);
	snprintf(r.api_url, sizeof(r.api_url), "%s", api);
	r.models = &m;
	r.model_count = 1;
	assert_int_equal(node_map_report(s->map, &r, loop_now_us(s->w->loop), &err), 0);
}

void follow(struct place *p, struct scheduler_double *s)
{
	char urls[1][NODE_URL_SIZE] = {{0}};
	size_t before = s->watcher_count;

	snprintf(urls[0], sizeof(urls[0]), "%s", s->url);
	gateway_set_schedulers(p->g, urls, 1);
	for (int i = 0; i < 200 && s->watcher_count == before; i++)
		world_wait(s->w, 2000);
	assert_true(s->watcher_count > before);
	world_wait(s->w, 20 * US_PER_MS);
}

/* ---- peers ------------------------------------------------------------------------------------------------------- */

static void on_peer_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct peer_double *p = arg;

	assert_null(err);
	buf_clear(&p->last_body);
	buf_append_str(&p->last_body, body);
	p->answer(p, x, body, err);
}

static void peer_gone(void *arg)
{
	(void)arg; /* an exchange that is watched ends when its client leaves */
}

static void on_peer(void *arg, struct http_exchange *x)
{
	struct peer_double *p = arg;
	const struct http_header *headers;
	size_t count = http_headers(x, &headers);

	p->requests++;
	http_watch(x, NULL, peer_gone, p);
	buf_clear(&p->last_headers);
	str_copy(http_path(x), p->last_path, sizeof(p->last_path));
	for (size_t i = 0; i < count; i++)
		buf_printf(&p->last_headers, STR_FMT ": " STR_FMT "\n", STR_ARG(headers[i].name),
		           STR_ARG(headers[i].value));
	buf_append(&p->last_headers, "", 1);
	http_body_collect(x, 1 << 24, on_peer_body, p);
}

void peer_double_start(struct world *w, struct peer_double *p, http_on_body *answer)
{
	memset(p, 0, sizeof(*p));
	p->answer = answer;
	p->server = listen_on(w, on_peer, p, p->url, sizeof(p->url));
}

void peer_double_stop(struct peer_double *p)
{
	http_server_free(p->server);
	buf_fini(&p->last_headers);
	buf_fini(&p->last_body);
}

/* ---- the client ----------------------------------------------------------------------------------------------------
 */

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct reply *r = arg;
	const struct http_header *headers;
	size_t count = http_call_headers(call, &headers);

	r->status = status;
	for (size_t i = 0; i < count; i++)
		buf_printf(&r->headers, STR_FMT ": " STR_FMT "\n", STR_ARG(headers[i].name), STR_ARG(headers[i].value));
	return true;
}

static bool on_data(void *arg, struct str data)
{
	struct reply *r = arg;

	r->bytes += data.len;
	buf_append_str(&r->body, data);
	return !r->hold;
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	struct reply *r = arg;

	(void)call;
	r->call = NULL;
	r->done = true;
	r->broken = err != NULL;
	if (err)
		r->err = *err;
	loop_stop(r->w->loop);
}

void reply_start(struct world *w, struct reply *r, const char *method, const char *base, const char *path,
                 const char *body, const char *const *headers)
{
	struct http_header list[8] = {{STR("content-type"), STR("application/json")}};
	bool hold = r->hold;
	char url[512];
	size_t count = 1;

	memset(r, 0, sizeof(*r));
	r->hold = hold;
	r->w = w;
	for (; headers && headers[count - 1]; count++) {
		struct str value, name = str_cut(str_from(headers[count - 1]), ':', &value);
		list[count] = (struct http_header){name, str_trim(value)};
	}
	snprintf(url, sizeof(url), "%s%s", base, path);
	const struct http_call_options options = {
	    .method = str_from(method),
	    .url = str_from(url),
	    .headers = list,
	    .header_count = count,
	    .body = body ? str_from(body) : STR(""),
	    .on_head = on_head,
	    .on_data = on_data,
	    .on_done = on_done,
	    .arg = r,
	};
	r->call = http_call_start(w->client, &options);
}

void reply_wait(struct reply *r)
{
	while (!r->done)
		world_run(r->w);
	buf_append(&r->body, "", 1);
	r->body.len--;
}

void reply_fini(struct reply *r)
{
	buf_fini(&r->body);
	buf_fini(&r->headers);
}

void ask(struct world *w, struct reply *r, const char *method, const char *base, const char *path, const char *body)
{
	r->hold = false;
	reply_start(w, r, method, base, path, body, NULL);
	reply_wait(r);
}

void ask_with(struct world *w, struct reply *r, const char *base, const char *path, const char *body,
              const char *header)
{
	const char *const headers[] = {header, NULL};

	r->hold = false;
	reply_start(w, r, body ? "POST" : "GET", base, path, body, headers);
	reply_wait(r);
}

bool reply_header(const struct reply *r, const char *name, char *to, size_t size)
{
	struct str rest = buf_str(&r->headers);

	while (rest.len) {
		struct str value, line = str_cut(rest, '\n', &rest), key = str_cut(line, ':', &value);
		if (str_equal_nocase(key, str_from(name)))
			return str_copy(str_trim(value), to, size);
	}
	return false;
}

yyjson_doc *reply_doc(const struct reply *r)
{
	yyjson_doc *doc;
	struct error err = {0};

	if (json_parse(buf_str(&r->body), &doc, &err) < 0)
		fail_msg("%s in: %s", err.text, r->body.base);
	return doc;
}

yyjson_val *at(yyjson_doc *doc, const char *path)
{
	yyjson_val *v = yyjson_doc_get_root(doc);
	struct str rest = str_from(path);

	while (rest.len && v) {
		struct str key = str_cut(rest, '.', &rest);
		uint64_t index;

		if (str_to_u64(key, &index) == 0)
			v = yyjson_arr_get(v, index);
		else
			v = yyjson_obj_getn(v, key.base, key.len);
	}
	return v;
}

const char *stream_next(const char *cursor, struct str *ret_data)
{
	const char *end;

	if (strncmp(cursor, "data: ", 6) != 0 || (end = strstr(cursor, "\n\n")) == NULL)
		return NULL;
	*ret_data = (struct str){cursor + 6, (size_t)(end - cursor - 6)};
	return end + 2;
}

size_t stream_count(const struct reply *r, const char *needle)
{
	size_t count = 0;

	for (const char *p = r->body.base; (p = strstr(p, needle)) != NULL; p++)
		count++;
	return count;
}
