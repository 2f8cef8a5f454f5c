/* SPDX-License-Identifier: Apache-2.0 */
/* What stands between a browser and the network's state, in this order: the Host it asked for (a page of somebody else
 * whose name points here gets nothing), security headers on every answer, a session for everything but the page itself.
 *
 * A name can be made to point at this machine by its owner; an address cannot. So addresses and localhost are always
 * fine as a Host, and names only when the operator listed them.
 */
#include "serve/console/console.h"

#include "base/clock.h"
#include "serve/console/files.h"
#include "serve/console/session.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TICKET_BODY_MAX 256

struct console {
	struct console_options o;
	struct sessions sessions;
	char *url, *why_not;
};

/* ---- the caller ------------------------------------------------------------------------------------ */

/* "name:port", "[::1]:port" -> the name, without brackets. */
static struct str host_name(struct str authority)
{
	struct str rest;
	if (authority.len && authority.base[0] == '[') {
		const char *end = memchr(authority.base, ']', authority.len);
		return end ? (struct str){authority.base + 1, (size_t)(end - authority.base) - 1} : authority;
	}
	return str_cut(authority, ':', &rest);
}

static bool is_address(struct str name)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char bits[16];
	return str_copy(name, text, sizeof text) &&
	       (inet_pton(AF_INET, text, bits) == 1 || inet_pton(AF_INET6, text, bits) == 1);
}

static int check_host(const struct console *c, struct str authority, struct error *err)
{
	struct str name = host_name(authority);
	if (is_address(name) || str_equal_nocase(name, STR("localhost")))
		return 0;
	for (size_t i = 0; i < c->o.host_count; i++) {
		struct str own = host_name(str_from(c->o.hosts[i]));
		if (own.len && str_equal_nocase(name, own))
			return 0;
	}
	return error_set(err, E_FORBIDDEN,
	                 "the console does not go by that name; open it by its address, or add the name to "
	                 "console_hosts");
}

/* Browsers say which page a POST comes from. */
static int check_origin(struct http_exchange *x, struct str authority, struct error *err)
{
	struct str origin;
	if (!http_header(x, "origin", &origin))
		return 0;
	const char *at = memmem(origin.base, origin.len, "://", 3);
	struct str from = at ? (struct str){at + 3, origin.len - (size_t)(at + 3 - origin.base)} : STR("");
	return str_equal_nocase(from, authority) ? 0 : error_set(err, E_FORBIDDEN, "only the console itself signs in");
}

static void add_security(struct http_exchange *x)
{
	http_add_header(x, "content-security-policy",
	                STR("default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
	                    "object-src 'none'"));
	http_add_header(x, "x-content-type-options", STR("nosniff"));
	http_add_header(x, "referrer-policy", STR("no-referrer"));
	http_add_header(x, "cross-origin-resource-policy", STR("same-origin"));
	http_add_header(x, "cross-origin-opener-policy", STR("same-origin"));
}

static void set_cookie(struct console *c, struct http_exchange *x)
{
	char value[COOKIE_SIZE];
	struct buf cookie = {0};
	sessions_cookie(&c->sessions, clock_wall_us(), value);
	buf_printf(&cookie, "%s=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=%d%s", c->sessions.name, value,
	           SESSION_LIFE_S, c->o.tls ? "; Secure" : "");
	http_add_header(x, "set-cookie", buf_str(&cookie));
	buf_fini(&cookie);
}

/* A session that is used goes on. */
static int check_session(struct console *c, struct http_exchange *x, struct error *err)
{
	struct str cookies = STR("");
	http_header(x, "cookie", &cookies);
	int64_t left = sessions_left_s(&c->sessions, cookies, clock_wall_us());
	if (left == 0)
		return error_set(err, E_AUTH, "you are not signed in: run `mdn console` and open the URL it prints");
	if (left < SESSION_LIFE_S / 2)
		set_cookie(c, x);
	return 0;
}

/* ---- the page --------------------------------------------------------------------------------------- */

static const struct console_file *find_file(struct str path)
{
	struct str name = {path.base + 1, path.len - 1};
	if (path.len == 1)
		name = STR("index.html");
	for (const struct console_file *f = console_files; f->name; f++)
		if (str_equal(name, str_from(f->name)))
			return f;
	return NULL;
}

static void answer_file(struct http_exchange *x, const struct console_file *f)
{
	struct str known;
	http_add_header(x, "etag", str_from(f->etag));
	http_add_header(x, "cache-control", STR("no-cache"));
	if (http_header(x, "if-none-match", &known) && str_equal(known, str_from(f->etag)))
		http_respond(x, 304, NULL, (struct str){0});
	else
		http_respond(x, 200, f->type, (struct str){(const char *)f->data, f->size});
}

/* ---- signing in --------------------------------------------------------------------------------------- */

static void on_ticket(void *arg, struct http_exchange *x, struct str body, const struct error *failure)
{
	struct console *c = arg;
	struct error err = {0};
	if (failure) {
		http_respond_error(x, failure);
	} else if (!sessions_ticket_take(&c->sessions, str_trim(body), clock_wall_us())) {
		error_set(&err, E_AUTH,
		          "this URL was used already, or is older than 5 minutes: run `mdn console` for a new one");
		http_respond_error(x, &err);
	} else {
		set_cookie(c, x);
		http_respond(x, 204, NULL, (struct str){0});
	}
}

void console_handle(struct console *c, struct http_exchange *x)
{
	struct str path = http_path(x), method = http_method(x), authority = STR("");
	bool reads = str_equal(method, STR("GET")) || str_equal(method, STR("HEAD"));
	const struct console_file *file = find_file(path);
	struct error err = {0};
	add_security(x);
	http_header(x, "host", &authority);
	if (check_host(c, authority, &err) == 0) {
		if (file && reads) {
			answer_file(x, file);
			return;
		}
		http_add_header(x, "cache-control", STR("no-store"));
		if (str_equal(path, STR("/mdn/v1/console/login")) && str_equal(method, STR("POST"))) {
			if (check_origin(x, authority, &err) == 0) {
				http_body_collect(x, TICKET_BODY_MAX, on_ticket, c);
				return;
			}
		} else if (!reads) {
			error_set(&err, E_METHOD, "the console only reads");
		} else if (check_session(c, x, &err) == 0) {
			if (c->o.read(c->o.arg, x))
				return;
			error_set(&err, E_NOTFOUND, "there is nothing at " STR_FMT, STR_ARG(path));
		}
	}
	http_respond_error(x, &err);
}

/* ---- the operator ---------------------------------------------------------------------------------------- */

static int answer_ticket(struct console *c, struct http_exchange *x, struct error *err)
{
	struct buf url = {0}, out = {0};
	int64_t now = clock_wall_us();
	if (!c->url)
		return error_set(err, E_UNAVAILABLE, "%s",
		                 c->why_not ? c->why_not : "the console is not up yet: try again");
	buf_printf(&url, "%s/#ticket=%s", c->url, sessions_ticket_new(&c->sessions, now));
	buf_append_str(&out, STR("{\"url\":"));
	buf_append_json(&out, buf_str(&url));
	buf_printf(&out, ",\"expires_us\":%" PRId64 "}", now + TICKET_LIFE_US);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&url);
	buf_fini(&out);
	return 0;
}

bool console_handle_operator(struct console *c, struct http_exchange *x)
{
	struct error err = {0};
	int rc;
	if (!str_equal(http_path(x), STR("/mdn/v1/console/session")))
		return false;
	if (str_equal(http_method(x), STR("POST"))) {
		rc = answer_ticket(c, x, &err);
	} else if (str_equal(http_method(x), STR("DELETE"))) {
		rc = sessions_end_all(&c->sessions, &err);
		if (rc == 0)
			http_respond(x, 204, NULL, (struct str){0});
	} else {
		rc = error_set(&err, E_METHOD, "POST makes a URL, DELETE ends all sessions");
	}
	if (rc)
		http_respond_error(x, &err);
	return true;
}

/* ---- life ------------------------------------------------------------------------------------------------- */

int console_new(const struct console_options *options, struct console **ret_console, struct error *err)
{
	struct console *c = NEW(struct console);
	c->o = *options;
	int rc = sessions_init(&c->sessions, options->secret_path, err);
	if (rc) {
		console_free(c);
		return rc;
	}
	*ret_console = c;
	return 0;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	sessions_fini(&c->sessions);
	free(c->url);
	free(c->why_not);
	free(c);
}

void console_set_url(struct console *c, const char *url, const char *why_not)
{
	free(c->url);
	free(c->why_not);
	c->url = url ? str_dup(str_from(url)) : NULL;
	c->why_not = why_not ? str_dup(str_from(why_not)) : NULL;
}
