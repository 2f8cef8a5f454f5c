/* SPDX-License-Identifier: Apache-2.0 */
/* One curl multi handle, told of sockets by uv_poll and of time by a loop timer, as libcurl's manual describes for
 * event loops. Redirects are followed here, not by libcurl, since each hop must be looked up in the list. Addresses
 * are looked at when a socket is about to be opened: after the name was resolved, so a name that changes its address
 * in between gains nothing. It does not speak HTTP/2 and keeps no cookies.
 */
#include "net/outside.h"

#include "net/loop_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <uv.h>

#define REDIRECTS_MAX 5
#define HEADERS_MAX 32768
#define CONNECT_TIMEOUT_S 10L
#define STALL_S 30
#define AGENT "mdn/" MDN_VERSION

struct allowed {
	char *host; /* lower case; with "*." cut off when any_sub */
	bool any_sub, private;
	uint16_t port; /* 0: what the scheme says */
};

struct outside {
	struct loop *loop;
	CURLM *multi;
	struct loop_timer *timer;
	struct allowed *allowed;
	size_t allowed_count;
	char *proxy, *ca_file;
	long stall_s;
	struct outside_call *calls; /* list */
	bool freed;
	size_t polls; /* handles that libuv has not closed yet */
	struct loop_task reap;
};

struct outside_call {
	struct outside *o;
	struct outside_call *prev, *next;
	CURL *easy;
	struct curl_slist *headers;
	struct outside_request r; /* its texts are not kept but for those below */
	char *url, *method, *body, *authorization;
	char error[CURL_ERROR_SIZE];
	struct error failed; /* what ended it, when that was us */
	struct buf head;     /* of the last answer */
	int status, redirects;
	bool private_ok, told_head, ended, follows;
	bool calling, canceled; /* inside a callback of libcurl, where nothing can be taken away */
	uint64_t got;
	struct loop_task task; /* ends a call that never started */
};

struct poll { /* of one socket */
	uv_poll_t handle;
	struct outside *o;
	curl_socket_t socket;
};

/* ---- who may be spoken to --------------------------------------------------------------------- */

static bool v4_private(uint32_t a) /* host order */
{
	static const struct {
		uint32_t net;
		int bits;
	} nets[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
	            {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
	            {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 4},  {0xf0000000, 4}};
	for (size_t i = 0; i < sizeof nets / sizeof *nets; i++)
		if ((a ^ nets[i].net) >> (32 - nets[i].bits) == 0)
			return true;
	return false;
}

bool outside_address_private(const void *sockaddr)
{
	const struct sockaddr *sa = sockaddr;
	if (sa->sa_family == AF_INET)
		return v4_private(ntohl(((const struct sockaddr_in *)sockaddr)->sin_addr.s_addr));
	if (sa->sa_family != AF_INET6)
		return true;
	const struct in6_addr *a = &((const struct sockaddr_in6 *)sockaddr)->sin6_addr;
	const uint8_t *b = a->s6_addr;
	uint32_t last = (uint32_t)b[12] << 24 | (uint32_t)b[13] << 16 | (uint32_t)b[14] << 8 | b[15];
	static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};
	if (IN6_IS_ADDR_V4MAPPED(a) || memcmp(b, nat64, 12) == 0)
		return v4_private(last);
	if (b[0] == 0x20 && b[1] == 0x02) /* 6to4: the address is inside */
		return v4_private((uint32_t)b[2] << 24 | (uint32_t)b[3] << 16 | (uint32_t)b[4] << 8 | b[5]);
	return (b[0] & 0xe0) != 0x20 || (b[0] == 0x20 && b[1] == 0x01 && b[2] < 2) ||
	       (b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d &&
	        b[3] == 0xb8); /* all but global unicast, and its holes */
}

static bool is_address(const char *host)
{
	uint8_t out[16];
	return inet_pton(AF_INET, host, out) == 1 || inet_pton(AF_INET6, host, out) == 1;
}

static char *lower(struct str s)
{
	char *text = str_dup(s);
	for (char *p = text; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p + 32);
	return text;
}

/* HOST[:PORT] or [ADDRESS][:PORT] */
static bool host_port(struct str text, char **ret_host, uint16_t *ret_port)
{
	struct str host, port = {0};
	if (str_starts(text, STR("["))) {
		host = str_cut((struct str){text.base + 1, text.len - 1}, ']', &port);
		if (host.len + 1 == text.len || (port.len && *port.base != ':'))
			return false;
		port = port.len ? (struct str){port.base + 1, port.len - 1} : port;
	} else {
		host = str_cut(text, ':', &port);
	}
	uint64_t number = 0;
	if (!host.len || (port.len && (str_to_u64(port, &number) || !number || number > 65535)))
		return false;
	for (size_t i = 0; i < host.len; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:_", host.base[i]))
			return false;
	*ret_host = lower(host);
	*ret_port = (uint16_t)number;
	return true;
}

static int add_allowed(struct outside *o, struct str entry, struct error *err)
{
	struct allowed a = {0};
	struct str text = entry;
	if (str_starts(text, STR("private:"))) {
		a.private = true;
		text = (struct str){text.base + 8, text.len - 8};
	}
	if (str_starts(text, STR("*."))) {
		a.any_sub = true;
		text = (struct str){text.base + 2, text.len - 2};
	}
	if (!host_port(text, &a.host, &a.port))
		return error_set(err, E_INVAL, "\"" STR_FMT "\" is no host: write HOST, HOST:PORT or *.HOST",
		                 STR_ARG(entry));
	a.private = a.private || is_address(a.host);
	o->allowed = mem_resize(o->allowed, o->allowed_count + 1, sizeof *o->allowed);
	o->allowed[o->allowed_count++] = a;
	return 0;
}

static bool host_matches(const struct allowed *a, const char *host)
{
	if (!a->any_sub)
		return strcmp(a->host, host) == 0;
	size_t n = strlen(host), m = strlen(a->host);
	return n > m + 1 && host[n - m - 1] == '.' && strcmp(host + n - m, a->host) == 0;
}

/* A URL in its parts, as libcurl itself will read it; the caller frees. */
static int url_parts(const char *url, char **ret_host, uint16_t *ret_port, bool *ret_default_port, struct error *err)
{
	CURLU *u = curl_url();
	char *host = NULL, *port = NULL, *scheme = NULL, *user = NULL;
	bool good = u && !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
	            (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) &&
	            !curl_url_get(u, CURLUPART_HOST, &host, 0) && curl_url_get(u, CURLUPART_USER, &user, 0);
	if (good) {
		*ret_default_port = curl_url_get(u, CURLUPART_PORT, &port, 0) != 0;
		if (*ret_default_port)
			good = !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
	}
	if (good) {
		size_t n = strlen(host);
		bool bracket = n > 1 && host[0] == '[';
		*ret_host = lower((struct str){host + bracket, n - 2 * bracket});
		*ret_port = (uint16_t)atoi(port);
	}
	curl_free(host);
	curl_free(port);
	curl_free(scheme);
	curl_free(user);
	curl_url_cleanup(u);
	return good ? 0
	            : error_set(err, E_INVAL, "\"%.200s\" is no http:// or https:// address without a user in it", url);
}

static int check_url(const struct outside *o, const char *url, bool *ret_private_ok, struct error *err)
{
	char *host;
	uint16_t port;
	bool plain; /* the scheme's own port */
	int rc = url_parts(url, &host, &port, &plain, err);
	if (rc)
		return rc;
	bool allowed = false;
	*ret_private_ok = false;
	for (size_t i = 0; i < o->allowed_count; i++) {
		const struct allowed *a = &o->allowed[i];
		if (!host_matches(a, host) || (a->port ? a->port != port : !plain && port != 443 && port != 80))
			continue;
		allowed = true;
		*ret_private_ok |= a->private;
	}
	if (!allowed)
		rc = error_set(err, E_FORBIDDEN,
		               "%s:%u is not on the list of hosts that may be asked: see outside_hosts", host, port);
	free(host);
	return rc;
}

int outside_allows(const struct outside *o, struct str url, struct error *err)
{
	char *text = str_dup(url);
	bool private_ok;
	int rc = check_url(o, text, &private_ok, err);
	free(text);
	return rc;
}

/* ---- sockets and time ------------------------------------------------------------------------- */

static void reap(void *arg);

static void on_poll_closed(uv_handle_t *handle)
{
	struct poll *p = handle->data;
	struct outside *o = p->o;
	free(p);
	if (!--o->polls && o->freed)
		free(o);
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
	struct poll *p = handle->data;
	struct outside *o = p->o;
	int running, flags = 0;
	if (status < 0)
		flags = CURL_CSELECT_ERR;
	else
		flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0);
	curl_multi_socket_action(o->multi, p->socket, flags, &running);
	loop_task_add(o->loop, &o->reap);
}

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *arg, void *socket_arg)
{
	struct outside *o = arg;
	struct poll *p = socket_arg;
	if (what == CURL_POLL_REMOVE) {
		if (p) {
			uv_poll_stop(&p->handle);
			uv_close((uv_handle_t *)&p->handle, on_poll_closed);
			curl_multi_assign(o->multi, socket, NULL);
		}
		return 0;
	}
	if (!p) {
		p = NEW(struct poll);
		p->o = o;
		p->socket = socket;
		p->handle.data = p;
		if (uv_poll_init_socket(loop_uv(o->loop), &p->handle, socket)) {
			free(p);
			return -1;
		}
		o->polls++;
		curl_multi_assign(o->multi, socket, p);
	}
	uv_poll_start(&p->handle, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0),
	              on_poll);
	return 0;
}

static void on_time(void *arg)
{
	struct outside *o = arg;
	int running;
	curl_multi_socket_action(o->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	loop_task_add(o->loop, &o->reap);
}

static int on_timer(CURLM *multi, long after_ms, void *arg)
{
	struct outside *o = arg;
	if (after_ms < 0)
		loop_timer_stop(o->timer);
	else
		loop_timer_start(o->timer, after_ms * INT64_C(1000), 0);
	return 0;
}

static curl_socket_t on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct outside_call *c = arg;
	if (!c->private_ok && !c->o->proxy && outside_address_private(&address->addr)) {
		error_set(&c->failed, E_FORBIDDEN,
		          "%.200s is at an address of a private network; allow it as private:HOST", c->url);
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->protocol);
}

/* ---- an answer -------------------------------------------------------------------------------- */

static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
	struct outside_call *c = arg;
	size_t n = size * count;
	if (n > 5 && memcmp(data, "HTTP/", 5) == 0) { /* also after 100 Continue */
		buf_clear(&c->head);
		c->head.failed = false;
	}
	buf_append(&c->head, data, n);
	if (c->head.failed) {
		error_set(&c->failed, E_LIMIT, "the head of the answer of %.200s is over 32 KiB", c->url);
		return 0;
	}
	return n;
}

bool outside_header(const struct outside_call *call, const char *name, struct str *ret_value)
{
	struct str rest = buf_str(&call->head), line;
	while (rest.len) {
		struct str value;
		line = str_cut(rest, '\n', &rest);
		if (line.len && line.base[line.len - 1] == '\r')
			line.len--;
		struct str key = str_cut(line, ':', &value);
		if (key.len < line.len && str_equal_nocase(key, str_from(name))) {
			*ret_value = str_trim(value);
			return true;
		}
	}
	return false;
}

int outside_status(const struct outside_call *call)
{
	return call->status;
}

static bool redirects(const struct outside_call *c)
{
	struct str to;
	return !c->r.keep_redirect && c->status >= 300 && c->status < 400 && c->status != 304 &&
	       outside_header(c, "location", &to);
}

/* Before the first byte of a body, or at the end when there is none. */
static bool tell_head(struct outside_call *c)
{
	if (c->told_head)
		return true;
	long status = 0;
	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	c->status = (int)status;
	c->told_head = true;
	c->follows = redirects(c);
	c->calling = true;
	bool wanted = c->follows || !c->r.on_head || c->r.on_head(c->r.arg, c, c->status);
	c->calling = false;
	if (wanted && !c->canceled)
		return true;
	error_set(&c->failed, E_CANCELED, "not wanted any more");
	return false;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
	struct outside_call *c = arg;
	size_t n = size * count;
	if (c->canceled || !tell_head(c)) /* canceled: its owner is gone, and libcurl has bytes left */
		return 0;
	if (c->follows)
		return n;
	c->got += n;
	if (c->r.bytes_max && c->got > c->r.bytes_max) {
		error_set(&c->failed, E_LIMIT, "the answer of %.200s is over %llu bytes", c->url,
		          (unsigned long long)c->r.bytes_max);
		return 0;
	}
	c->calling = true;
	bool more = !c->r.on_data || c->r.on_data(c->r.arg, (struct str){data, n});
	c->calling = false;
	if (c->canceled)
		return 0;
	if (!more)
		curl_easy_pause(c->easy, CURLPAUSE_RECV);
	return n;
}

/* ---- the life of a call ------------------------------------------------------------------------ */

static void call_free(struct outside_call *c)
{
	struct outside *o = c->o;
	loop_task_cancel(&c->task);
	if (c->prev)
		c->prev->next = c->next;
	else
		o->calls = c->next;
	if (c->next)
		c->next->prev = c->prev;
	if (c->easy) {
		curl_multi_remove_handle(o->multi, c->easy);
		curl_easy_cleanup(c->easy);
	}
	curl_slist_free_all(c->headers);
	buf_fini(&c->head);
	free(c->url);
	free(c->method);
	free(c->body);
	free(c->authorization);
	free(c);
}

static void call_end(struct outside_call *c, const struct error *err)
{
	c->ended = true;
	c->r.on_done(c->r.arg, c, err);
	call_free(c);
}

static void set_options(struct outside_call *c)
{
	CURL *e = c->easy;
	struct outside *o = c->o;
	bool post = c->method && strcmp(c->method, "POST") == 0;
	curl_easy_setopt(e, CURLOPT_URL, c->url);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_USERAGENT, AGENT);
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, o->stall_s);
	curl_easy_setopt(e, CURLOPT_PROXY, o->proxy ? o->proxy : "");
	if (o->ca_file)
		curl_easy_setopt(e, CURLOPT_CAINFO, o->ca_file);
	curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, c);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(e, CURLOPT_BUFFERSIZE, 262144L);
	curl_easy_setopt(e, CURLOPT_PRIVATE, c);
	if (c->method && strcmp(c->method, "HEAD") == 0)
		curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
	if (post) {
		curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(c->body));
		curl_easy_setopt(e, CURLOPT_POSTFIELDS, c->body);
	}
}

static void add_header(struct curl_slist **list, struct str name, struct str value)
{
	struct buf line = {0};
	buf_printf(&line, STR_FMT ": " STR_FMT, STR_ARG(name), STR_ARG(value));
	buf_append(&line, "", 1);
	*list = curl_slist_append(*list, line.base);
	buf_fini(&line);
}

/* To c->url, which is checked. */
static int call_go(struct outside_call *c, struct error *err)
{
	int rc = check_url(c->o, c->url, &c->private_ok, err);
	if (rc)
		return rc;
	c->easy = curl_easy_init();
	buf_clear(&c->head);
	c->head.max = HEADERS_MAX;
	c->told_head = c->follows = false;
	c->status = 0;
	struct curl_slist *list = NULL;
	for (struct curl_slist *h = c->headers; h; h = h->next)
		list = curl_slist_append(list, h->data);
	if (c->authorization)
		add_header(&list, STR("Authorization"), str_from(c->authorization));
	list = curl_slist_append(list, "Expect:"); /* no 100-continue: bodies are small */
	curl_slist_free_all(c->headers);
	c->headers = list;
	set_options(c);
	curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
	if (curl_multi_add_handle(c->o->multi, c->easy))
		return error_set(err, E_INTERNAL, "libcurl does not take the request for %.200s", c->url);
	return 0;
}

static bool same_host(const char *a, const char *b)
{
	char *ha = NULL, *hb = NULL;
	uint16_t pa, pb;
	bool plain;
	bool same = !url_parts(a, &ha, &pa, &plain, NULL) && !url_parts(b, &hb, &pb, &plain, NULL) && pa == pb &&
	            strcmp(ha, hb) == 0;
	free(ha);
	free(hb);
	return same;
}

/* Where a Location leads, by the rules of URLs. */
static char *resolve(const char *base, struct str location)
{
	CURLU *u = curl_url();
	char *to = str_dup(location), *whole = NULL, *result = NULL;
	if (u && !curl_url_set(u, CURLUPART_URL, base, 0) && !curl_url_set(u, CURLUPART_URL, to, 0) &&
	    !curl_url_get(u, CURLUPART_URL, &whole, 0))
		result = str_dup(str_from(whole));
	curl_free(whole);
	curl_url_cleanup(u);
	free(to);
	return result;
}

static int redirect(struct outside_call *c, struct error *err)
{
	struct str location;
	if (!outside_header(c, "location", &location))
		return error_set(err, E_PEER, "%.200s answers %d without saying where to go", c->url, c->status);
	if (++c->redirects > REDIRECTS_MAX)
		return error_set(err, E_LOOP, "%.200s: over %d redirects", c->url, REDIRECTS_MAX);
	char *to = resolve(c->url, location);
	if (!to)
		return error_set(err, E_PEER, "%.200s sends us to no address", c->url);
	bool downgrade = strncmp(c->url, "https:", 6) == 0 && strncmp(to, "https:", 6) != 0;
	bool same = same_host(c->url, to);
	char *from = c->url;
	c->url = to;
	int rc = downgrade ? error_set(err, E_PEER, "%.200s sends us from https to %.200s", from, to) : 0;
	free(from);
	if (rc)
		return rc;
	/* c->headers holds the last hop's: the first of them are the caller's, then Authorization and Expect. */
	struct curl_slist *kept = NULL;
	for (struct curl_slist *h = c->headers; h; h = h->next)
		if (strncmp(h->data, "Authorization:", 14) != 0 && strcmp(h->data, "Expect:") != 0)
			kept = curl_slist_append(kept, h->data);
	curl_multi_remove_handle(c->o->multi, c->easy);
	curl_easy_cleanup(c->easy);
	c->easy = NULL;
	curl_slist_free_all(c->headers);
	c->headers = kept;
	if (!same) { /* a key is for the host it was given for */
		free(c->authorization);
		c->authorization = NULL;
	}
	return call_go(c, err);
}

static void call_finished(struct outside_call *c, CURLcode code)
{
	struct error err = c->failed;
	if (!code && !tell_head(c))
		err = c->failed;
	if (c->canceled) {
		call_free(c);
		return;
	}
	if (!code && c->follows && !err.code && !redirect(c, &err))
		return;
	if (code && !err.code)
		error_set(&err, code == CURLE_OPERATION_TIMEDOUT ? E_TIMEOUT : E_PEER, "%.200s: %.200s", c->url,
		          c->error[0] ? c->error : curl_easy_strerror(code));
	call_end(c, err.code ? &err : NULL);
}

static void reap(void *arg)
{
	struct outside *o = arg;
	CURLMsg *m;
	int left;
	while ((m = curl_multi_info_read(o->multi, &left))) {
		struct outside_call *c = NULL;
		CURLcode code = m->data.result;
		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		call_finished(c, code);
	}
}

static void on_refused(void *arg)
{
	struct outside_call *c = arg;
	struct error err = c->failed;
	call_end(c, &err);
}

static char *dup_or_null(struct str s)
{
	return s.len ? str_dup(s) : NULL;
}

struct outside_call *outside_start(struct outside *o, const struct outside_request *request)
{
	struct outside_call *c = NEW(struct outside_call);
	c->o = o;
	c->r = *request;
	c->url = str_dup(request->url);
	c->method = dup_or_null(request->method);
	c->body = str_dup(request->body);
	c->authorization = dup_or_null(request->authorization);
	for (size_t i = 0; i < request->header_count; i++)
		add_header(&c->headers, request->headers[i].name, request->headers[i].value);
	c->next = o->calls;
	if (c->next)
		c->next->prev = c;
	o->calls = c;
	loop_task_init(&c->task, on_refused, c);
	if (call_go(c, &c->failed))
		loop_task_add(o->loop, &c->task);
	return c;
}

void outside_cancel(struct outside_call *call)
{
	assert(!call->ended);
	call->canceled = true;
	if (!call->calling)
		call_free(call);
}

void outside_resume(struct outside_call *call)
{
	curl_easy_pause(call->easy, CURLPAUSE_CONT);
}

/* ---- all of them ------------------------------------------------------------------------------- */

int outside_new(struct loop *loop, const struct outside_options *options, struct outside **ret_outside,
                struct error *err)
{
	struct outside *o = NEW(struct outside);
	struct str rest = options->allowed;
	int rc = 0;
	curl_global_init(CURL_GLOBAL_DEFAULT); /* counts itself */
	o->loop = loop;
	o->proxy = dup_or_null(options->proxy);
	o->ca_file = dup_or_null(options->ca_file);
	o->stall_s = options->stall_timeout_us ? (long)((options->stall_timeout_us + 999999) / 1000000) : STALL_S;
	loop_task_init(&o->reap, reap, o);
	while (rest.len && !rc) {
		struct str entry = str_trim(str_cut(rest, ',', &rest));
		if (entry.len)
			rc = add_allowed(o, entry, err);
	}
	o->timer = loop_timer_new(loop, on_time, o);
	o->multi = curl_multi_init();
	curl_multi_setopt(o->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(o->multi, CURLMOPT_SOCKETDATA, o);
	curl_multi_setopt(o->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(o->multi, CURLMOPT_TIMERDATA, o);
	if (rc) {
		outside_free(o);
		return rc;
	}
	*ret_outside = o;
	return 0;
}

void outside_free(struct outside *o)
{
	if (!o)
		return;
	while (o->calls) {
		struct error err = {0};
		error_set(&err, E_CANCELED, "ended, since this node stops");
		call_end(o->calls, &err);
	}
	curl_multi_cleanup(o->multi); /* closes idle connections: on_socket takes their polls away */
	loop_task_cancel(&o->reap);
	loop_timer_free(o->timer);
	for (size_t i = 0; i < o->allowed_count; i++)
		free(o->allowed[i].host);
	free(o->allowed);
	free(o->proxy);
	free(o->ca_file);
	curl_global_cleanup();
	o->freed = true;
	if (!o->polls)
		free(o);
}
