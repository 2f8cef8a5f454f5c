/* SPDX-License-Identifier: Apache-2.0 */
/* Keys, names, and two traps that browsers bring (OWASP: DNS rebinding; CSRF). A page from anywhere may make a browser
 * on this machine talk to 127.0.0.1. It can read an answer only when the name it used resolves here, so Host tells;
 * it can send POST and PUT without reading, and then says so in Origin. Tools send no Origin.
 *
 * Basic with an empty user and password is how skopeo spells "nobody", so it is no key.
 */
#include "serve/repository/access.h"

#include "serve/repository/ollama.h"

#include <fnmatch.h>
#include <stdlib.h>

#define NOBODY "anonymous" /* the token of who has no key */
#define KEY_MAX 512        /* of what stands in Authorization; ours are 72 */

/* ---- rules ----------------------------------------------------------------------------------- */

static void names_fini(struct names *n)
{
	for (size_t i = 0; i < n->count; i++)
		free(n->items[i]);
	free(n->items);
	*n = (struct names){0};
}

static void names_set(struct names *n, const struct str *items, size_t count)
{
	names_fini(n);
	n->items = mem_new((count + 1) * sizeof *n->items);
	for (size_t i = 0; i < count; i++)
		n->items[n->count++] = str_dup(items[i]);
}

static bool names_match(const struct names *n, struct str text)
{
	char name[256];
	if (!str_copy(text, name, sizeof name))
		return false;
	for (size_t i = 0; i < n->count; i++)
		if (!fnmatch(n->items[i], name, FNM_CASEFOLD))
			return true;
	return false;
}

void repository_set_rules(struct repository *r, const struct repository_rules *rules)
{
	r->access.need = rules->access;
	r->access.loopback = rules->loopback;
	r->access.tls = rules->tls;
	names_set(&r->access.private_names, rules->private_names, rules->private_count);
	names_set(&r->access.hosts, rules->hosts, rules->host_count);
}

void access_init(struct repository *r, const struct repository_options *options)
{
	r->access.check_key = options->check_key;
	r->access.arg = options->arg;
	repository_set_rules(r, &options->rules);
}

void access_fini(struct repository *r)
{
	names_fini(&r->access.private_names);
	names_fini(&r->access.hosts);
}

/* ---- keys ------------------------------------------------------------------------------------ */

static bool after_word(struct str text, struct str word, struct str *ret_rest)
{
	if (text.len <= word.len || text.base[word.len] != ' ' ||
	    !str_equal_nocase((struct str){text.base, word.len}, word))
		return false;
	*ret_rest = str_trim((struct str){text.base + word.len, text.len - word.len});
	return true;
}

/* "user:password" (RFC 7617) -> the password. */
static bool basic_password(struct str text, char ret_key[static KEY_MAX])
{
	char url[KEY_MAX];
	uint8_t plain[KEY_MAX];
	size_t len;
	struct str password;
	while (text.len && text.base[text.len - 1] == '=')
		text.len--;
	if (!str_copy(text, url, sizeof url))
		return false;
	for (char *c = url; *c; c++)
		*c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
	if (base64url_decode(str_from(url), plain, sizeof plain, &len))
		return false;
	str_cut((struct str){(const char *)plain, len}, ':', &password);
	return password.len && str_copy(password, ret_key, KEY_MAX);
}

/* The key as the client gave it; false: none, or nothing that could be one. */
static bool given_key(const struct http_exchange *x, char ret_key[static KEY_MAX])
{
	struct str header, text;
	if (!http_header(x, "authorization", &header))
		return false;
	if (after_word(header, STR("Basic"), &text))
		return basic_password(text, ret_key);
	return after_word(header, STR("Bearer"), &text) && text.len && str_copy(text, ret_key, KEY_MAX);
}

bool access_has_key(const struct http_exchange *x)
{
	char key[KEY_MAX];
	return given_key(x, key) && strcmp(key, NOBODY) != 0;
}

static bool find_tenant(struct repository *r, struct http_exchange *x, char ret_tenant[static 32])
{
	char key[KEY_MAX];
	if (!given_key(x, key))
		return false;
	return ollama_tenant(r, str_from(key), ret_tenant) ||
	       (r->access.check_key && r->access.check_key(r->access.arg, str_from(key), ret_tenant));
}

void access_tenant(struct repository *r, struct http_exchange *x, char ret_tenant[static 32])
{
	if (!find_tenant(r, x, ret_tenant))
		ret_tenant[0] = 0;
}

static int unknown_key(const struct http_exchange *x, struct error *err)
{
	return error_set(err, E_AUTH, "%s",
	                 access_has_key(x) ? "this API key is not known here (any more); ask whoever runs this network"
	                                   : "an API key of this network is needed: log in with it as the password");
}

void access_who(struct repository *r, struct http_exchange *x, char ret_who[static 64])
{
	char tenant[32];
	struct str uri = http_peer_identity(x), who = uri;
	for (int slash = 0; uri.len && slash < 3; slash++) /* spiffe://DOMAIN/ */
		str_cut(who, '/', &who);
	access_tenant(r, x, tenant);
	if (!str_copy(uri.len ? who : str_from(tenant), ret_who, 64))
		ret_who[0] = 0;
}

/* ---- browsers -------------------------------------------------------------------------------- */

/* "name:port", "[::1]:port" -> the name. */
static struct str host_name(struct str authority)
{
	struct str rest;
	if (authority.len && authority.base[0] == '[') {
		const char *end = memchr(authority.base, ']', authority.len);
		return end ? (struct str){authority.base, (size_t)(end - authority.base) + 1} : authority;
	}
	return str_cut(authority, ':', &rest);
}

/* An address of the 127/8 kind, not a name that begins like one (127.0.0.1.example.com). */
static bool is_loopback(struct str name)
{
	if (str_equal_nocase(name, STR("localhost")) || str_equal(name, STR("[::1]")))
		return true;
	for (size_t i = 0; i < name.len; i++)
		if ((name.base[i] < '0' || name.base[i] > '9') && name.base[i] != '.')
			return false;
	return str_starts(name, STR("127."));
}

static int check_host(struct repository *r, struct str host, struct error *err)
{
	struct str name = host_name(host);
	if ((!r->access.loopback && !r->access.hosts.count) || is_loopback(name) || names_match(&r->access.hosts, name))
		return 0;
	return error_set(err, E_FORBIDDEN,
	                 "this repository does not go by that name; call it by its address, or add the name to "
	                 "repository_hosts");
}

bool access_host_is_ours(struct repository *r, struct http_exchange *x)
{
	struct str host = STR("");
	http_header(x, "host", &host);
	struct str name = host_name(host);
	return names_match(&r->access.hosts, name) ||
	       (is_loopback(name) && (r->access.loopback || is_loopback(http_peer_address(x)) ||
	                              str_equal(http_peer_address(x), STR("::1"))));
}

static int check_origin(struct http_exchange *x, struct str host, struct error *err)
{
	struct str origin;
	if (!http_header(x, "origin", &origin))
		return 0;
	const char *at = memmem(origin.base, origin.len, "://", 3);
	struct str from = at ? (struct str){at + 3, origin.len - (size_t)(at + 3 - origin.base)} : STR("");
	return str_equal_nocase(from, host)
	           ? 0
	           : error_set(err, E_FORBIDDEN, "pages of other sites do not write to this repository");
}

/* ---- the decision ---------------------------------------------------------------------------- */

static bool needs_key(const struct repository *r, struct str repo, enum access_need need)
{
	if (r->access.need == REPOSITORY_KEY || (r->access.need == REPOSITORY_PULL && need == ACCESS_PUSH))
		return true;
	return repo.len ? names_match(&r->access.private_names, repo) : r->access.private_names.count > 0;
}

/* A key that opens one private name opens all of them. */
bool access_shares(const struct repository *r, struct str repo, struct str other)
{
	return needs_key(r, repo, ACCESS_PULL) || !needs_key(r, other, ACCESS_PULL);
}

int access_check(struct repository *r, struct http_exchange *x, struct str repo, enum access_need need,
                 struct error *err)
{
	char tenant[32];
	struct str host = STR("");
	if (http_peer_identity(x).len)
		return 0;
	http_header(x, "host", &host);
	int rc = check_host(r, host, err);
	if (!rc && need == ACCESS_PUSH)
		rc = check_origin(x, host, err);
	if (rc || !needs_key(r, repo, need) || find_tenant(r, x, tenant))
		return rc;
	return unknown_key(x, err);
}

/* ---- logging in ------------------------------------------------------------------------------ */

int access_ping(struct repository *r, struct http_exchange *x, struct error *err)
{
	struct str given;
	int rc = access_check(r, x, STR(""), ACCESS_PUSH, err);
	/* Where somebody may read without a key, who did not even say "nobody" is still asked to log in. */
	if (rc == E_AUTH && r->access.need != REPOSITORY_KEY && http_header(x, "authorization", &given) &&
	    !access_has_key(x)) {
		*err = (struct error){0};
		return 0;
	}
	return rc;
}

void access_challenge(struct repository *r, struct http_exchange *x, struct buf *out)
{
	struct str host = STR(""), proto = STR("");
	if (r->access.need == REPOSITORY_KEY || !http_header(x, "host", &host) || memchr(host.base, '"', host.len)) {
		buf_append_str(out, STR("Basic realm=\"mdn: any user, an API key as the password\""));
		return;
	}
	http_header(x, "x-forwarded-proto", &proto);
	buf_printf(out, "Bearer realm=\"%s://" STR_FMT "/v2/token\",service=\"" STR_FMT "\"",
	           r->access.tls || str_equal(proto, STR("https")) ? "https" : "http", STR_ARG(host), STR_ARG(host));
}

int access_token(struct repository *r, struct http_exchange *x, struct buf *out, struct error *err)
{
	char key[KEY_MAX] = NOBODY, tenant[32];
	if (access_has_key(x)) {
		if (!find_tenant(r, x, tenant))
			return unknown_key(x, err);
		given_key(x, key);
	}
	buf_append_str(out, STR("{\"token\":"));
	buf_append_json(out, str_from(key));
	buf_append_str(out, STR(",\"access_token\":"));
	buf_append_json(out, str_from(key));
	buf_append_str(out, STR(",\"expires_in\":3600}\n"));
	return 0;
}
