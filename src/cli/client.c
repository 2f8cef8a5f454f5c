/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - runs the loop until the one call is over. */
#include "cli/client.h"

#include "base/clock.h"
#include "base/file.h"
#include "net/tls.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BODY_MAX (UINT64_C(64) << 20)
#define PIECE (256u << 10)
#define HEADERS_KEPT 32
#define CENTERS_BYTES 16384

struct kept_header {
	char *name, *value;
};

struct client {
	struct loop *loop;
	struct tls_context *tls;
	struct http_client *http;
	char *center_url, *center_id;
	struct buf centers; /* "ID URL\n" each, as the last center that answered told; kept in centers_path */
	char *centers_path;
	bool interrupted;
	struct kept_header headers[HEADERS_KEPT];
	size_t header_count;
};

struct running {
	struct client *c;
	const struct client_call *call;
	struct http_call *http;
	struct buf body;
	char piece[PIECE];
	uint64_t sent, received;
	int status;
	bool ended, stopped;
	struct error error;
};

/* ---- identity ------------------------------------------------------------------------------------- */

const char *client_operator_dir_default(char *buffer, size_t size)
{
	const char *env = getenv("MDN_OPERATOR"), *home = getenv("HOME");
	if (env)
		snprintf(buffer, size, "%s", env);
	else
		snprintf(buffer, size, "%s/.mdn/operator", home ? home : ".");
	return buffer;
}

static int read_part(const char *dir, const char *name, struct buf *out, struct error *err)
{
	assert(dir);
	char *path = file_join(str_from(dir), name);
	int rc = file_read(path, 1 << 20, out, err);
	free(path);
	if (rc == E_NOTFOUND)
		return error_set(
		    err, E_NOTFOUND,
		    "no operator identity in %s (%s is missing): run this on the machine of `mdn init`, or copy "
		    "its operator folder here and name it with --operator or MDN_OPERATOR",
		    dir, name);
	return rc;
}

static char *first_line(const struct buf *text)
{
	struct str rest;
	return str_dup(str_trim(str_cut(buf_str(text), '\n', &rest)));
}

static int identity_load(struct client *c, const char *dir, struct error *err)
{
	struct buf part[5] = {0};
	static const char *const names[5] = {"cert.pem", "key.pem", "ca.pem", "center.url", "center.id"};
	int rc = 0;
	for (int i = 0; i < 5 && rc == 0; i++)
		rc = read_part(dir, names[i], &part[i], err);
	if (rc == 0) {
		struct tls_options o = {
		    .cert_pem = buf_str(&part[0]),
		    .key_pem = buf_str(&part[1]),
		    .ca_pem = buf_str(&part[2]),
		    .peer = TLS_PEER_REQUIRED,
		    .skew_us = 600 * US_PER_S,
		};
		rc = tls_context_new(&o, &c->tls, err);
		c->center_url = first_line(&part[3]);
		c->center_id = first_line(&part[4]); /* the whole identity: spiffe://DOMAIN/node/ID */
		c->centers_path = file_join(str_from(dir), "centers");
		file_read(c->centers_path, CENTERS_BYTES, &c->centers, NULL); /* none: there is one center */
	}
	for (int i = 0; i < 5; i++)
		buf_fini(&part[i]);
	return rc;
}

static void on_interrupt(void *arg)
{
	struct client *c = arg;
	c->interrupted = true;
	loop_stop(c->loop);
}

static struct client *client_make(void)
{
	struct client *c = NEW(struct client);
	struct sigaction hangup;
	int rc = loop_new(&c->loop);
	assert(rc == 0);
	loop_on_signal(c->loop, SIGINT, on_interrupt, c);
	loop_on_signal(c->loop, SIGTERM, on_interrupt, c);
	if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) /* else: nohup */
		loop_on_signal(c->loop, SIGHUP, on_interrupt, c);
	return c;
}

int client_open(const char *operator_dir, struct client **ret_client, struct error *err)
{
	char buffer[4096];
	struct client *c = client_make();
	int rc =
	    identity_load(c, operator_dir ? operator_dir : client_operator_dir_default(buffer, sizeof buffer), err);
	if (rc) {
		client_close(c);
		return rc;
	}
	struct http_client_options o = {.tls = c->tls};
	c->http = http_client_new(c->loop, &o);
	*ret_client = c;
	return 0;
}

int client_open_plain(struct client **ret_client, struct error *err)
{
	struct client *c = client_make();
	struct http_client_options o = {0};
	c->http = http_client_new(c->loop, &o);
	*ret_client = c;
	return 0;
}

static void headers_forget(struct client *c)
{
	for (size_t i = 0; i < c->header_count; i++) {
		free(c->headers[i].name);
		free(c->headers[i].value);
	}
	c->header_count = 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	headers_forget(c);
	http_client_free(c->http);
	tls_context_free(c->tls);
	loop_free(c->loop);
	free(c->center_url);
	free(c->center_id);
	free(c->centers_path);
	buf_fini(&c->centers);
	free(c);
}

const char *client_center_url(const struct client *c)
{
	return c->center_url;
}

void client_set_center(struct client *c, const char *url)
{
	free(c->center_url);
	c->center_url = str_dup(str_from(url));
}

bool client_header(const struct client *c, const char *name, struct str *ret_value)
{
	for (size_t i = 0; i < c->header_count; i++) {
		if (str_equal_nocase(str_from(c->headers[i].name), str_from(name))) {
			*ret_value = str_from(c->headers[i].value);
			return true;
		}
	}
	return false;
}

static void on_awake(void *arg)
{
	loop_stop(((struct client *)arg)->loop);
}

int client_sleep(struct client *c, int64_t us, struct error *err)
{
	struct loop_timer *t = loop_timer_new(c->loop, on_awake, c);
	loop_timer_start(t, us, 0);
	if (!c->interrupted)
		loop_run(c->loop);
	loop_timer_free(t);
	return c->interrupted ? error_set(err, E_CANCELED, "interrupted") : 0;
}

/* ---- one call ------------------------------------------------------------------------------------- */

static bool on_head(void *arg, struct http_call *http, int status)
{
	struct running *r = arg;
	const struct http_header *headers;
	size_t count = http_call_headers(http, &headers);
	r->status = status;
	for (size_t i = 0; i < count && r->c->header_count < HEADERS_KEPT; i++)
		r->c->headers[r->c->header_count++] =
		    (struct kept_header){str_dup(headers[i].name), str_dup(headers[i].value)};
	return true;
}

static bool on_data(void *arg, struct str data)
{
	struct running *r = arg;
	r->received += data.len;
	if (r->call->on_data && r->status < 400) {
		if (!r->call->on_data(r->call->arg, r->status, data)) {
			r->stopped = true;
			loop_stop(r->c->loop);
		}
	} else {
		buf_append_str(&r->body, data);
	}
	if (r->call->on_progress && !r->call->fd)
		r->call->on_progress(r->call->arg, r->received);
	return true;
}

static void on_done(void *arg, struct http_call *http, const struct error *err)
{
	struct running *r = arg;
	r->http = NULL;
	r->ended = true;
	if (err)
		r->error = *err;
	loop_stop(r->c->loop);
}

/* The file's next pieces, as long as the connection takes them. */
static void on_writable(void *arg)
{
	struct running *r = arg;
	while (r->http && r->sent < r->call->length) {
		uint64_t left = r->call->length - r->sent;
		ssize_t got = read(r->call->fd, r->piece, left < PIECE ? left : PIECE);
		if (got <= 0) {
			error_set(&r->error, E_IO, "the file became shorter while it was read");
			r->stopped = true;
			loop_stop(r->c->loop);
			return;
		}
		r->sent += (uint64_t)got;
		bool more = http_call_write(r->http, (struct str){r->piece, (size_t)got});
		if (r->call->on_progress)
			r->call->on_progress(r->call->arg, r->sent);
		if (!more)
			return;
	}
	if (r->http && r->sent == r->call->length) {
		r->sent++; /* so that it is ended once */
		http_call_end(r->http);
	}
}

/* {"error":{"message"}} or OCI's {"errors":[{"message"}]}: the words of the other side, else the status. */
static int status_error(const struct running *r, const char *url, struct error *err)
{
	static const struct {
		int status, code;
	} codes[] = {{400, E_INVAL},  {401, E_AUTH},        {403, E_FORBIDDEN}, {404, E_NOTFOUND},
	             {405, E_METHOD}, {409, E_CONFLICT},    {413, E_LIMIT},     {416, E_RANGE},
	             {429, E_BUSY},   {503, E_UNAVAILABLE}, {504, E_TIMEOUT},   {507, E_NOSPACE}};
	int code = r->status >= 500 ? E_PEER : E_INVAL;
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
		if (codes[i].status == r->status)
			code = codes[i].code;
	yyjson_doc *doc = NULL;
	yyjson_val *root, *e;
	struct str message = {0};
	if (json_parse(buf_str(&r->body), &doc, NULL) == 0) {
		root = yyjson_doc_get_root(doc);
		e = yyjson_obj_get(root, "error");
		if (!e)
			e = yyjson_arr_get_first(yyjson_obj_get(root, "errors"));
		json_str(e, "message", &message, NULL);
	}
	if (message.len)
		error_set(err, code, STR_FMT, STR_ARG(message));
	else
		error_set(err, code, "%s answered with status %d", url, r->status);
	yyjson_doc_free(doc);
	return code;
}

static void call_start(struct running *r, const char *url, const char *identity)
{
	const struct client_call *call = r->call;
	struct http_header headers[3];
	size_t count = 0;
	struct buf bearer = {0};
	bool body = call->body.len || call->fd > 0;
	if (body || call->content_type)
		headers[count++] = (struct http_header){
		    STR("content-type"), str_from(call->content_type ? call->content_type : "application/json")};
	if (call->bearer) {
		buf_printf(&bearer, "Bearer %s", call->bearer);
		headers[count++] = (struct http_header){STR("authorization"), buf_str(&bearer)};
	}
	if (call->range)
		headers[count++] = (struct http_header){STR("range"), str_from(call->range)};
	struct http_call_options o = {
	    .method = str_from(call->method ? call->method : "GET"),
	    .url = str_from(url),
	    .peer_identity = str_from(identity),
	    .headers = headers,
	    .header_count = count,
	    .body = call->body,
	    .body_streams = call->fd > 0,
	    .body_length = call->fd > 0 ? (int64_t)call->length : 0,
	    .head_timeout_us = call->timeout_us,
	    .stall_timeout_us = call->endless ? 3600 * US_PER_S : 0,
	    .on_head = on_head,
	    .on_data = on_data,
	    .on_done = on_done,
	    .on_writable = call->fd > 0 ? on_writable : NULL,
	    .arg = r,
	};
	r->http = http_call_start(r->c->http, &o);
	buf_fini(&bearer);
	if (call->fd > 0)
		on_writable(r);
}

static int run_once(struct client *c, const struct client_call *call, const char *url, const char *identity,
                    int *ret_status, struct buf *ret_body, struct error *err)
{
	struct running *r = NEW(struct running);
	headers_forget(c);
	r->c = c;
	r->call = call;
	r->body.max = call->body_max ? call->body_max : BODY_MAX;
	call_start(r, url, identity);
	while (!r->ended && !r->stopped && !c->interrupted)
		loop_run(c->loop);
	if (r->http)
		http_call_cancel(r->http);
	int rc = 0;
	if (c->interrupted)
		rc = error_set(err, E_CANCELED, "interrupted");
	else if (r->error.code)
		rc = error_set(err, r->error.code, "%s", r->error.text); /* names the URL itself */
	else if (r->stopped)
		rc = error_set(err, E_CANCELED, "stopped");
	else if (r->body.failed)
		rc = error_set(err, E_LIMIT, "%s: the answer is longer than %zu bytes", url, r->body.max);
	else if (r->status >= 400)
		rc = status_error(r, url, err);
	*ret_status = r->status;
	if (rc == 0 && ret_body)
		buf_append_str(ret_body, buf_str(&r->body));
	buf_fini(&r->body);
	free(r);
	return rc;
}

/* ---- at a center ------------------------------------------------------------------------------------- */

/* `ID URL, ID URL` of x-mdn-centers; one that stands by names the one that leads. */
static void centers_learn(struct client *c, bool keeps)
{
	struct str list;
	struct buf lines = {0};
	if (!client_header(c, "x-mdn-centers", &list) || list.len > CENTERS_BYTES)
		return;
	while (list.len) {
		struct str one = str_trim(str_cut(list, ',', &list));
		buf_printf(&lines, STR_FMT "\n", STR_ARG(one));
	}
	if (keeps && !str_equal(buf_str(&lines), buf_str(&c->centers)))
		file_write(c->centers_path, 0644, buf_str(&lines), NULL); /* without it the next one asks here first */
	buf_fini(&c->centers);
	c->centers = lines;
}

static void center_is(struct client *c, struct str id, struct str url)
{
	struct buf identity = {0};
	const char *slash = strrchr(c->center_id, '/'); /* same domain, another node */
	buf_printf(&identity, "%.*s" STR_FMT, (int)(slash ? slash + 1 - c->center_id : 0), c->center_id, STR_ARG(id));
	free(c->center_id);
	free(c->center_url);
	c->center_id = identity.base;
	c->center_url = str_dup(url);
}

/* The next that was not tried; each once. */
static bool center_next(struct client *c, struct buf *tried)
{
	struct str lines = buf_str(&c->centers);
	buf_printf(tried, "%s\n", c->center_url);
	while (lines.len) {
		struct str url, id = str_cut(str_cut(lines, '\n', &lines), ' ', &url), rest = buf_str(tried);
		bool known = !str_starts(url, STR("https://"));
		while (rest.len && !known)
			known = str_equal(str_cut(rest, '\n', &rest), url);
		if (known)
			continue;
		center_is(c, id, url);
		return true;
	}
	return false;
}

/* Whoever leads names itself among the centers; one that stands by names others, or nobody. */
static bool center_led(const struct client *c)
{
	struct str list, id, url;
	const char *slash = strrchr(c->center_id, '/');
	bool led = false;
	if (!client_header(c, "x-mdn-centers", &list))
		return false;
	while (list.len && !led) {
		id = str_cut(str_trim(str_cut(list, ',', &list)), ' ', &url);
		led = slash && str_equal(id, str_from(slash + 1));
	}
	return led;
}

/* Of several centers one leads: whoever is not there, or says that it stands by, is followed by the next. What is told
 * is the word of one that answered. A call whose answer was lost may so be carried out twice. */
static int run_at_center(struct client *c, const struct client_call *call, int *ret_status, struct buf *ret_body,
                         struct error *err)
{
	struct buf tried = {0};
	struct error said = {0};
	int rc, status;
	bool next;
	do {
		struct error why = {0};
		char url[4096];
		snprintf(url, sizeof url, "%s%s", c->center_url, call->url);
		rc = run_once(c, call, url, c->center_id ? c->center_id : "", &status, ret_body, &why);
		if (rc < 0 && (!said.code || status))
			said = why;
		if (status && c->centers_path)
			centers_learn(c, rc == 0);
		next = (rc == E_UNAVAILABLE || rc == E_TIMEOUT) && c->center_id && call->fd <= 0 && !center_led(c);
	} while (next && center_next(c, &tried));
	if (rc < 0)
		error_set(err, rc = said.code, "%s", said.text);
	*ret_status = status;
	buf_fini(&tried);
	return rc;
}

int client_run(struct client *c, const struct client_call *call, int *ret_status, struct buf *ret_body,
               struct error *err)
{
	char identity[TLS_IDENTITY_SIZE] = "";
	bool at_center = call->url[0] == '/';
	int status = 0, rc;
	assert(!at_center || c->center_url);
	if (call->node_id && c->center_id && !at_center) {
		/* same domain, another node */
		const char *slash = strrchr(c->center_id, '/');
		snprintf(identity, sizeof identity, "%.*s%s", (int)(slash ? slash + 1 - c->center_id : 0), c->center_id,
		         call->node_id);
	}
	rc = at_center ? run_at_center(c, call, &status, ret_body, err)
	               : run_once(c, call, call->url, identity, &status, ret_body, err);
	if (ret_status)
		*ret_status = status;
	return rc;
}

int client_json(struct client *c, const char *method, const char *path, struct str body, yyjson_doc **ret_doc,
                struct error *err)
{
	struct buf answer = {0};
	struct client_call call = {.method = method, .url = path, .body = body};
	int rc = client_run(c, &call, NULL, &answer, err);
	if (rc == 0 && ret_doc)
		rc = json_parse(buf_str(&answer), ret_doc, err);
	buf_fini(&answer);
	return rc;
}
