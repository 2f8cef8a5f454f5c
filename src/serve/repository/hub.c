/* SPDX-License-Identifier: Apache-2.0 */
/* A call is one outside call, or three when a token is wanted: the first answer's 401 says where to get one, the
 * second brings it, the third asks again. Tokens are kept as long as they say they are good for. */
#include "serve/repository/hub.h"

#include "base/clock.h"
#include "base/json.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#define TOKEN_MAX 16384
#define TOKENS_MAX 256
#define TOKEN_LIFE_S 60 /* what the token service does not say */

struct host_key {
	char *host, *authorization;
};

struct token {
	char *host, *scope, *authorization;
	int64_t until_us;
};

struct hub {
	struct outside *outside;
	struct host_key *keys;
	size_t key_count;
	struct token tokens[TOKENS_MAX];
	size_t token_next;
	struct hub_call *calls;
};

struct hub_call {
	struct hub *h;
	struct hub_call *prev, *next;
	struct hub_request r;
	char *url, *scope;
	struct http_header *headers; /* texts below it */
	char **texts;
	struct outside_call *call;
	bool asked_token; /* a token was fetched for this call already */
	bool wants_token; /* the answer under way is a 401 that leads to one */
	bool in_token;    /* the call is the one to the token service */
	char *realm;
	struct buf token;
};

/* ---- keys --------------------------------------------------------------------------------------- */

/* "host" or "host:port", as it stands in the URL. */
static char *host_of(const char *url)
{
	const char *start = strstr(url, "://");
	start = start ? start + 3 : url;
	return str_dup((struct str){start, strcspn(start, "/?#")});
}

static char *authorization_of(struct str key)
{
	struct buf text = {0};
	if (!memchr(key.base, ':', key.len)) {
		buf_printf(&text, "Bearer " STR_FMT, STR_ARG(key));
	} else {
		unsigned char *base64 = mem_new(key.len * 2 + 8);
		EVP_EncodeBlock(base64, (const unsigned char *)key.base, (int)key.len);
		buf_printf(&text, "Basic %s", base64);
		free(base64);
	}
	char *result = str_dup(buf_str(&text));
	buf_fini(&text);
	return result;
}

int hub_new(struct outside *outside, struct str keys, struct hub **ret_hub, struct error *err)
{
	struct hub *h = NEW(struct hub);
	struct str rest = keys;
	h->outside = outside;
	while (rest.len) {
		struct str key, entry = str_trim(str_cut(rest, ',', &rest)), host = str_cut(entry, '=', &key);
		if (!entry.len)
			continue;
		if (!host.len || !key.len || key.len > 4096) {
			h->outside = NULL; /* stays the caller's */
			hub_free(h);
			return error_set(err, E_INVAL, "keys of other hosts are written HOST=KEY");
		}
		h->keys = mem_resize(h->keys, h->key_count + 1, sizeof *h->keys);
		h->keys[h->key_count++] = (struct host_key){str_dup(host), authorization_of(key)};
	}
	*ret_hub = h;
	return 0;
}

static void token_fini(struct token *t)
{
	free(t->host);
	free(t->scope);
	free(t->authorization);
	*t = (struct token){0};
}

void hub_free(struct hub *h)
{
	if (!h)
		return;
	outside_free(h->outside); /* ends the calls */
	for (size_t i = 0; i < h->key_count; i++) {
		free(h->keys[i].host);
		free(h->keys[i].authorization);
	}
	for (size_t i = 0; i < TOKENS_MAX; i++)
		token_fini(&h->tokens[i]);
	free(h->keys);
	free(h);
}

int hub_allows(const struct hub *h, struct str url, struct error *err)
{
	return outside_allows(h->outside, url, err);
}

static const char *key_for(const struct hub *h, const char *host)
{
	for (size_t i = 0; i < h->key_count; i++)
		if (strcmp(h->keys[i].host, host) == 0)
			return h->keys[i].authorization;
	return NULL;
}

static const char *authorization_for(const struct hub *h, const char *host, const char *scope)
{
	int64_t now = clock_mono_us();
	for (size_t i = 0; i < TOKENS_MAX; i++) {
		const struct token *t = &h->tokens[i];
		if (t->host && t->until_us > now && strcmp(t->host, host) == 0 && strcmp(t->scope, scope) == 0)
			return t->authorization;
	}
	return key_for(h, host);
}

/* ---- calls ---------------------------------------------------------------------------------------- */

static void call_free(struct hub_call *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		c->h->calls = c->next;
	if (c->next)
		c->next->prev = c->prev;
	for (size_t i = 0; i < 2 * c->r.header_count; i++)
		free(c->texts[i]);
	free(c->texts);
	free(c->headers);
	buf_fini(&c->token);
	free(c->realm);
	free(c->url);
	free(c->scope);
	free(c);
}

static void call_end(struct hub_call *c, const struct error *err)
{
	c->r.on_done(c->r.arg, c, err);
	call_free(c);
}

/* A parameter of a challenge: name="value". */
static bool challenge_value(struct str challenge, const char *name, char *ret, size_t size)
{
	size_t n = strlen(name);
	for (const char *at = challenge.base, *end = at + challenge.len; at + n + 2 < end; at++) {
		bool starts = at == challenge.base || at[-1] == ' ' || at[-1] == ',';
		if (!starts || strncasecmp(at, name, n) || at[n] != '=' || at[n + 1] != '"')
			continue;
		const char *from = at + n + 2, *to = memchr(from, '"', (size_t)(end - from));
		return to && str_copy((struct str){from, (size_t)(to - from)}, ret, size);
	}
	return false;
}

/* The URL of the token service, when this 401 names one. */
static char *realm_of(const struct hub_call *c)
{
	struct str challenge;
	char realm[1024], service[512] = "", scope[512] = "";
	if (!outside_header(c->call, "www-authenticate", &challenge) ||
	    strncasecmp(challenge.base, "Bearer ", challenge.len < 7 ? challenge.len : 7) ||
	    !challenge_value(challenge, "realm", realm, sizeof realm))
		return NULL;
	challenge_value(challenge, "service", service, sizeof service);
	if (c->scope[0])
		snprintf(scope, sizeof scope, "%s", c->scope);
	else
		challenge_value(challenge, "scope", scope, sizeof scope);
	struct buf url = {0};
	buf_printf(&url, "%s%cservice=", realm, strchr(realm, '?') ? '&' : '?');
	buf_append_escaped(&url, str_from(service), URL_PATH ":");
	buf_append_str(&url, STR("&scope="));
	buf_append_escaped(&url, str_from(scope), URL_PATH ":");
	char *text = str_dup(buf_str(&url));
	buf_fini(&url);
	return text;
}

static bool on_head(void *arg, struct outside_call *call, int status)
{
	struct hub_call *c = arg;
	if (status == 401 && !c->asked_token) {
		c->realm = realm_of(c);
		c->wants_token = c->realm != NULL;
	}
	return c->wants_token || !c->r.on_head || c->r.on_head(c->r.arg, c, status);
}

static bool on_data(void *arg, struct str data)
{
	struct hub_call *c = arg;
	return c->wants_token || !c->r.on_data || c->r.on_data(c->r.arg, data);
}

static void go(struct hub_call *c);

static void keep_token(struct hub_call *c)
{
	struct str token = {0};
	uint64_t life = TOKEN_LIFE_S;
	yyjson_doc *doc = NULL;
	if (!json_parse(buf_str(&c->token), &doc, NULL)) {
		yyjson_val *root = yyjson_doc_get_root(doc), *text = yyjson_obj_get(root, "token");
		if (!yyjson_is_str(text))
			text = yyjson_obj_get(root, "access_token");
		token = (struct str){yyjson_get_str(text), yyjson_get_len(text)};
		if (yyjson_is_uint(yyjson_obj_get(root, "expires_in")))
			life = yyjson_get_uint(yyjson_obj_get(root, "expires_in"));
	}
	if (token.base && token.len && !memchr(token.base, '\n', token.len) && !memchr(token.base, '\r', token.len)) {
		struct token *t = &c->h->tokens[c->h->token_next++ % TOKENS_MAX];
		struct buf text = {0};
		buf_printf(&text, "Bearer " STR_FMT, STR_ARG(token));
		token_fini(t);
		*t = (struct token){host_of(c->url), str_dup(str_from(c->scope)), str_dup(buf_str(&text)),
		                    clock_mono_us() + (int64_t)(life > 10 && life < 86400 ? life - 5 : 5) * US_PER_S};
		buf_fini(&text);
	}
	yyjson_doc_free(doc);
}

static bool on_token_data(void *arg, struct str data)
{
	buf_append_str(&((struct hub_call *)arg)->token, data);
	return true;
}

static void on_token_done(void *arg, struct outside_call *call, const struct error *err)
{
	struct hub_call *c = arg;
	c->call = NULL;
	c->in_token = false;
	if (err) {
		call_end(c, err);
		return;
	}
	keep_token(c);
	buf_clear(&c->token);
	go(c); /* a refusal now is the answer */
}

static void ask_token(struct hub_call *c)
{
	char *host = host_of(c->url), *realm_host = host_of(c->realm);
	const char *key = key_for(c->h, host);
	/* A key for the registry is also for its token service, where that is on the same host or has the key itself.
	 */
	const char *own = key_for(c->h, realm_host);
	bool same = strcmp(host, realm_host) == 0;
	struct outside_request o = {.url = str_from(c->realm),
	                            .authorization = str_from(own    ? own
	                                                      : same ? key
	                                                             : NULL),
	                            .bytes_max = TOKEN_MAX,
	                            .on_data = on_token_data,
	                            .on_done = on_token_done,
	                            .arg = c};
	c->asked_token = c->in_token = true;
	c->wants_token = false;
	c->call = outside_start(c->h->outside, &o);
	free(host);
	free(realm_host);
}

static void on_done(void *arg, struct outside_call *call, const struct error *err)
{
	struct hub_call *c = arg;
	if (!err && c->wants_token) {
		c->call = NULL;
		ask_token(c);
		return;
	}
	call_end(c, err);
}

static void go(struct hub_call *c)
{
	char *host = host_of(c->url);
	struct outside_request o = {.method = c->r.head ? STR("HEAD") : STR("GET"),
	                            .url = str_from(c->url),
	                            .headers = c->headers,
	                            .header_count = c->r.header_count,
	                            .authorization = str_from(authorization_for(c->h, host, c->scope)),
	                            .bytes_max = c->r.bytes_max,
	                            .on_head = on_head,
	                            .on_data = on_data,
	                            .on_done = on_done,
	                            .arg = c};
	c->call = outside_start(c->h->outside, &o);
	free(host);
}

struct hub_call *hub_start(struct hub *h, const struct hub_request *request)
{
	struct hub_call *c = NEW(struct hub_call);
	c->h = h;
	c->r = *request;
	c->url = str_dup(request->url);
	c->scope = str_dup(request->scope);
	c->headers = mem_new((request->header_count + 1) * sizeof *c->headers);
	c->texts = mem_new((2 * request->header_count + 1) * sizeof *c->texts);
	for (size_t i = 0; i < request->header_count; i++) {
		c->texts[2 * i] = str_dup(request->headers[i].name);
		c->texts[2 * i + 1] = str_dup(request->headers[i].value);
		c->headers[i] = (struct http_header){str_from(c->texts[2 * i]), str_from(c->texts[2 * i + 1])};
	}
	c->next = h->calls;
	if (c->next)
		c->next->prev = c;
	h->calls = c;
	go(c);
	return c;
}

void hub_cancel(struct hub_call *call)
{
	outside_cancel(call->call);
	call_free(call);
}

void hub_resume(struct hub_call *call)
{
	if (!call->in_token)
		outside_resume(call->call);
}

int hub_status(const struct hub_call *call)
{
	return outside_status(call->call);
}

bool hub_header(const struct hub_call *call, const char *name, struct str *ret_value)
{
	return outside_header(call->call, name, ret_value);
}

/* ---- whole answers --------------------------------------------------------------------------------- */

struct hub_get {
	struct hub_call *call;
	struct buf body;
	hub_got *got;
	void *arg;
};

static bool get_data(void *arg, struct str data)
{
	buf_append_str(&((struct hub_get *)arg)->body, data);
	return true;
}

static void get_done(void *arg, struct hub_call *call, const struct error *err)
{
	struct hub_get *g = arg;
	struct str digest = {0}, link = {0};
	if (!err) {
		hub_header(call, "docker-content-digest", &digest);
		hub_header(call, "link", &link);
	}
	g->got(g->arg, err ? 0 : hub_status(call), buf_str(&g->body), digest, link, err);
	buf_fini(&g->body);
	free(g);
}

struct hub_get *hub_get(struct hub *h, struct str url, struct str scope, struct str accept, size_t bytes_max,
                        hub_got *got, void *arg)
{
	struct hub_get *g = NEW(struct hub_get);
	struct http_header header = {STR("Accept"), accept};
	struct hub_request r = {.url = url,
	                        .scope = scope,
	                        .headers = &header,
	                        .header_count = accept.len > 0,
	                        .bytes_max = bytes_max,
	                        .on_data = get_data,
	                        .on_done = get_done,
	                        .arg = g};
	g->got = got;
	g->arg = arg;
	g->call = hub_start(h, &r);
	return g;
}

void hub_get_cancel(struct hub_get *g)
{
	hub_cancel(g->call);
	buf_fini(&g->body);
	free(g);
}

int hub_refused(struct str url, int status, struct error *err)
{
	int code = status == 404                    ? E_NOTFOUND
	           : status == 401 || status == 403 ? E_FORBIDDEN
	           : status == 429                  ? E_BUSY
	                                            : E_PEER;
	return error_set(err, code, "%.*s answers %d%s", (int)(url.len < 300 ? url.len : 300), url.base, status,
	                 code == E_FORBIDDEN  ? ": it wants a key; give one with outside_keys"
	                 : code == E_NOTFOUND ? ": are its name and tag right?"
	                                      : "");
}
