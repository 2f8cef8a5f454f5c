/* SPDX-License-Identifier: Apache-2.0 */
/* URLs, tokens and keys. Everything that we hand out and take back is text with an HMAC-SHA-256 behind it, each kind
 * under a word of its own so that none passes for another. The signed text of a login holds the address that the client
 * believes in, so a login meant for another registry is worth nothing here, provided that the Host is one of ours. */
#include "serve/repository/ollama.h"
#include "serve/repository/through.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "net/http_range.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#define URL_LIFE_S (24 * 3600)
#define TOKEN_LIFE_S (15 * 60)
#define CLOCKS_APART_S 300 /* between a client's `ts` and ours */
#define MAC_SIZE 65
#define SECRET_SIZE 32

struct ollama_config {
	char repo[REPO_NAME_SIZE];
	struct digest digest;
	struct buf text;
};

static int64_t now_s(void)
{
	return clock_wall_us() / US_PER_S;
}

/* ---- life ------------------------------------------------------------------------------------ */

int ollama_init(struct repository *r, struct str secret_path, struct error *err)
{
	struct buf kept = {0};
	char *path = str_dup(secret_path);
	int rc = secret_path.len ? file_read(path, SECRET_SIZE, &kept, err) : E_NOTFOUND;
	if (!rc && kept.len != SECRET_SIZE)
		rc = error_set(err, E_CORRUPT, "%s is damaged; remove it, and a new one is made", path);
	if (!rc)
		memcpy(r->ollama.secret, kept.base, SECRET_SIZE);
	if (rc == E_NOTFOUND) {
		rng_secret(r->ollama.secret, SECRET_SIZE);
		struct str secret = {(char *)r->ollama.secret, SECRET_SIZE};
		rc = secret_path.len ? file_write(path, 0600, secret, err) : 0;
	}
	buf_fini(&kept);
	free(path);
	return rc;
}

void ollama_fini(struct repository *r)
{
	for (size_t i = 0; r->ollama.configs && i < OLLAMA_CONFIGS; i++)
		buf_fini(&r->ollama.configs[i].text);
	free(r->ollama.configs);
	free(r->ollama.keys);
	r->ollama.configs = NULL;
	r->ollama.keys = NULL;
	r->ollama.key_count = 0;
}

int repository_set_ollama_keys(struct repository *r, const struct str *keys, size_t count, struct error *err)
{
	uint8_t(*parsed)[32] = mem_new((count + 1) * sizeof *parsed);
	for (size_t i = 0; i < count; i++) {
		int rc = ollama_key_parse(keys[i], parsed[i], err);
		if (rc) {
			free(parsed);
			return error_prefix(err, "ollama_keys, number %zu: ", i + 1);
		}
	}
	free(r->ollama.keys);
	r->ollama.keys = parsed;
	r->ollama.key_count = count;
	return 0;
}

struct str ollama_name(struct str repo)
{
	struct str library = STR("library/");
	if (!str_starts(repo, library) || repo.len == library.len)
		return repo;
	return (struct str){repo.base + library.len, repo.len - library.len};
}

static bool is_ollama(struct http_exchange *x)
{
	struct str agent;
	return http_header(x, "user-agent", &agent) && str_starts(agent, STR("ollama/"));
}

/* As the client sees us; it compares hosts, and signs the whole. */
static void append_base(struct buf *out, const struct repository *r, struct http_exchange *x)
{
	struct str host = STR("localhost"), scheme = STR("http");
	http_header(x, "host", &host);
	http_header(x, "x-forwarded-proto", &scheme); /* of a proxy that ends TLS in front of us */
	buf_printf(out, "http%s://" STR_FMT, r->access.tls || str_equal(scheme, STR("https")) ? "s" : "",
	           STR_ARG(host));
}

void ollama_add_upload(struct repository *r, struct http_exchange *x, struct str location)
{
	struct buf url = {0};
	if (!is_ollama(x))
		return;
	append_base(&url, r, x);
	buf_append_str(&url, location);
	http_add_header(x, "Docker-Upload-Location", buf_str(&url));
	buf_fini(&url);
}

/* ---- configs ---------------------------------------------------------------------------------- */

static const struct ollama_config *find_config(const struct repository *r, struct str repo, const struct digest *d)
{
	for (size_t i = 0; r->ollama.configs && i < OLLAMA_CONFIGS; i++) {
		const struct ollama_config *c = &r->ollama.configs[i];
		if (c->text.len && digest_equal(&c->digest, d) && str_equal(str_from(c->repo), repo))
			return c;
	}
	return NULL;
}

void ollama_keep_config(struct repository *r, struct str repo, struct str config)
{
	struct digest d = digest_of(config.base, config.len);
	if (r->freed || find_config(r, repo, &d))
		return;
	if (!r->ollama.configs)
		r->ollama.configs = mem_new(OLLAMA_CONFIGS * sizeof *r->ollama.configs);
	struct ollama_config *c = &r->ollama.configs[r->ollama.config_next++ % OLLAMA_CONFIGS];
	buf_clear(&c->text);
	buf_append_str(&c->text, config);
	str_copy(repo, c->repo, sizeof c->repo);
	c->digest = d;
}

bool ollama_config(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	struct digest d;
	struct str method = http_method(x);
	if ((!str_equal(method, STR("GET")) && !str_equal(method, STR("HEAD"))) || digest_parse(digest, &d))
		return false;
	const struct ollama_config *c = find_config(r, repo, &d);
	if (!c || catalog_has_blob(r->catalog, repo, &d))
		return false;
	uint64_t size = c->text.len, from = 0, length = size;
	enum http_range range = http_range(x, size, &from, &length);
	http_add_header(x, "Docker-Content-Digest", digest);
	http_add_header(x, "Accept-Ranges", STR("bytes"));
	if (range == HTTP_RANGE_BAD) {
		oci_error(x, 416, "RANGE_INVALID", "the blob has no such bytes");
		return true;
	}
	if (range == HTTP_RANGE_PART)
		http_add_content_range(x, from, length, size);
	http_respond(x, range == HTTP_RANGE_PART ? 206 : 200, "application/octet-stream",
	             (struct str){c->text.base + from, (size_t)length});
	return true;
}

/* ---- what we sign ---------------------------------------------------------------------------- */

static void sign(const struct repository *r, struct str text, char ret_mac[static MAC_SIZE])
{
	uint8_t mac[32];
	unsigned len = sizeof mac;
	if (!HMAC(EVP_sha256(), r->ollama.secret, SECRET_SIZE, (const unsigned char *)text.base, text.len, mac, &len))
		abort();
	hex_encode(mac, sizeof mac, ret_mac);
}

static bool sign_is(const struct repository *r, struct str text, struct str mac)
{
	char right[MAC_SIZE];
	sign(r, text, right);
	return mac.len == MAC_SIZE - 1 && !CRYPTO_memcmp(mac.base, right, MAC_SIZE - 1);
}

static void url_text(struct buf *out, struct str repo, struct str digest, uint64_t until)
{
	buf_printf(out, "blob\n" STR_FMT "\n" STR_FMT "\n%llu", STR_ARG(repo), STR_ARG(digest),
	           (unsigned long long)until);
}

void ollama_add_location(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	struct buf text = {0}, location = {0};
	struct digest d;
	struct str ignored;
	char mac[MAC_SIZE];
	uint64_t until = (uint64_t)now_s() + URL_LIFE_S;
	if (!str_equal(http_method(x), STR("GET")) || http_header(x, "range", &ignored) || digest_parse(digest, &d) ||
	    !(catalog_has_blob(r->catalog, repo, &d) || find_config(r, repo, &d) || through_knows(r->mirror, repo, &d)))
		return;
	url_text(&text, repo, digest, until);
	sign(r, buf_str(&text), mac);
	buf_printf(&location, "/v2/" STR_FMT "/blobs/" STR_FMT "?until=%llu&signature=%s", STR_ARG(repo),
	           STR_ARG(digest), (unsigned long long)until, mac);
	http_add_header(x, "Location", buf_str(&location));
	buf_fini(&location);
	buf_fini(&text);
}

bool ollama_is_signed(struct repository *r, struct http_exchange *x, struct str repo, struct str digest)
{
	struct str until_text, mac, method = http_method(x);
	struct buf text = {0};
	uint64_t until;
	if ((!str_equal(method, STR("GET")) && !str_equal(method, STR("HEAD"))) || !http_query(x, "signature", &mac) ||
	    !http_query(x, "until", &until_text) || str_to_u64(until_text, &until) || until < (uint64_t)now_s())
		return false;
	url_text(&text, repo, digest, until);
	bool is = sign_is(r, buf_str(&text), mac);
	buf_fini(&text);
	return is;
}

/* What a key's owner is called here. */
static void tenant_of(const uint8_t key[static 32], char ret_tenant[static 13])
{
	struct digest d = digest_of(key, 32);
	hex_encode(d.bytes, 6, ret_tenant);
}

static bool tenant_is_known(const struct repository *r, struct str tenant)
{
	char name[13];
	for (size_t i = 0; i < r->ollama.key_count; i++) {
		tenant_of(r->ollama.keys[i], name);
		if (str_equal(str_from(name), tenant))
			return true;
	}
	return false;
}

/* A token: "ollama-TENANT-UNTIL-MAC". Worth something as long as the key is on the list. */
static void token_text(struct buf *out, struct str tenant, uint64_t until)
{
	buf_printf(out, "ollama-" STR_FMT "-%llu", STR_ARG(tenant), (unsigned long long)until);
}

bool ollama_tenant(struct repository *r, struct str token, char ret_tenant[static 32])
{
	struct str rest, kind = str_cut(token, '-', &rest), tenant = str_cut(rest, '-', &rest);
	struct str until_text = str_cut(rest, '-', &rest);
	struct buf text = {0};
	uint64_t until;
	if (!str_equal(kind, STR("ollama")) || str_to_u64(until_text, &until) || until < (uint64_t)now_s())
		return false;
	token_text(&text, tenant, until);
	bool is = sign_is(r, buf_str(&text), rest) && tenant_is_known(r, tenant) && str_copy(tenant, ret_tenant, 32);
	buf_fini(&text);
	return is;
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* Standard alphabet, padding or none. */
static int base64_decode(struct str text, uint8_t *ret_out, size_t size, size_t *ret_len)
{
	char url[512];
	while (text.len && text.base[text.len - 1] == '=')
		text.len--;
	if (!str_copy(text, url, sizeof url))
		return E_INVAL;
	for (char *c = url; *c; c++)
		*c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
	return base64url_decode(str_from(url), ret_out, size, ret_len);
}

/* RFC 8709 section 4: string "ssh-ed25519", string of 32 bytes. */
static bool key_of_blob(struct str base64, uint8_t ret_key[static 32])
{
	static const uint8_t head[19] = "\0\0\0\x0bssh-ed25519\0\0\0\x20";
	uint8_t blob[sizeof head + 32];
	size_t len = 0;
	if (base64_decode(base64, blob, sizeof blob, &len) || len != sizeof blob || memcmp(blob, head, sizeof head))
		return false;
	memcpy(ret_key, blob + sizeof head, 32);
	return true;
}

int ollama_key_parse(struct str text, uint8_t ret_key[static 32], struct error *err)
{
	struct str rest, type = str_cut(str_trim(text), ' ', &rest), base64 = type;
	if (str_equal(type, STR("ssh-ed25519")))
		base64 = str_cut(str_trim(rest), ' ', &rest);
	if (key_of_blob(base64, ret_key))
		return 0;
	return error_set(err, E_INVAL,
	                 "that is not a line of the form `ssh-ed25519 AAAA...`, as in a client's id_ed25519.pub");
}

int ollama_signature_check(struct str authorization, struct str signed_text, uint8_t ret_key[static 32],
                           struct error *err)
{
	struct str signature_text, key_text = str_cut(authorization, ':', &signature_text);
	uint8_t key[32], signature[64];
	size_t len = 0;
	if (!key_of_blob(key_text, key) || base64_decode(signature_text, signature, sizeof signature, &len) ||
	    len != sizeof signature)
		return error_set(err, E_AUTH, "Authorization is not an ed25519 key and a signature in base64");
	EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, sizeof key);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool right = pkey && md && EVP_DigestVerifyInit(md, NULL, NULL, NULL, pkey) == 1 &&
	             EVP_DigestVerify(md, signature, sizeof signature, (const unsigned char *)signed_text.base,
	                              signed_text.len) == 1;
	EVP_MD_CTX_free(md);
	EVP_PKEY_free(pkey);
	if (!right)
		return error_set(err, E_AUTH, "the signature is not of that key over this request");
	memcpy(ret_key, key, sizeof key);
	return 0;
}

/* ---- logging in ------------------------------------------------------------------------------ */

bool ollama_challenge(struct repository *r, struct http_exchange *x, struct buf *out)
{
	struct str host;
	if (!is_ollama(x) || !http_header(x, "host", &host) || memchr(host.base, '"', host.len))
		return false;
	buf_append_str(out, STR("Bearer realm=\""));
	append_base(out, r, x);
	buf_append_str(out, STR(OLLAMA_TOKEN_PATH "\",service=\"mdn\",scope=\"models\""));
	return true;
}

static bool is_known(const struct repository *r, const uint8_t key[static 32])
{
	for (size_t i = 0; i < r->ollama.key_count; i++)
		if (!memcmp(r->ollama.keys[i], key, 32))
			return true;
	return false;
}

static int check_login(struct repository *r, struct http_exchange *x, uint8_t ret_key[static 32], struct error *err)
{
	static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	char base64[sizeof empty * 2];
	struct buf text = {0};
	struct str authorization, ts_text;
	uint64_t ts;
	if (!http_header(x, "authorization", &authorization))
		return error_set(err, E_AUTH, "a token is given for an ed25519 signature in Authorization");
	if (!http_query(x, "ts", &ts_text) || str_to_u64(ts_text, &ts) || ts > INT64_MAX ||
	    llabs((long long)ts - (long long)now_s()) > CLOCKS_APART_S)
		return error_set(err, E_AUTH, "the time of the request (ts) is minutes off: are both clocks right?");
	EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)empty, sizeof empty - 1);
	buf_append_str(&text, STR("GET,"));
	append_base(&text, r, x);
	buf_printf(&text, STR_FMT ",%s", STR_ARG(http_target(x)), base64);
	int rc = ollama_signature_check(authorization, buf_str(&text), ret_key, err);
	buf_fini(&text);
	if (!rc && !is_known(r, ret_key))
		rc = error_set(err, E_AUTH,
		               "this key is not known here; whoever runs this network adds the client's "
		               "~/.ollama/id_ed25519.pub to ollama_keys");
	return rc;
}

void ollama_token(struct repository *r, struct http_exchange *x)
{
	struct error err = {0};
	struct buf token = {0}, body = {0};
	uint8_t key[32];
	char tenant[13], mac[MAC_SIZE];
	if (!str_equal(http_method(x), STR("GET"))) {
		oci_method(x, "GET");
		return;
	}
	int rc = access_host_is_ours(r, x)
	             ? check_login(r, x, key, &err)
	             : error_set(&err, E_FORBIDDEN,
	                         "logins are taken under known names only; add the one you call this repository by to "
	                         "repository_hosts");
	if (rc) {
		oci_fail(x, rc == E_AUTH ? "UNAUTHORIZED" : "DENIED", &err);
		return;
	}
	tenant_of(key, tenant);
	token_text(&token, str_from(tenant), (uint64_t)now_s() + TOKEN_LIFE_S);
	sign(r, buf_str(&token), mac);
	buf_printf(&body, "{\"token\":\"" STR_FMT "-%s\",\"expires_in\":%d}\n", STR_ARG(buf_str(&token)), mac,
	           TOKEN_LIFE_S);
	http_add_header(x, "Cache-Control", STR("no-store"));
	http_respond(x, 200, "application/json", buf_str(&body));
	buf_fini(&token);
	buf_fini(&body);
}
