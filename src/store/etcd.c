/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever member answered last is asked first. 5xx of the gateway are all of one kind here: "no leader", "request
 * timed out", "too many requests" (503, 504, 500): another member, or another moment, may do. */
#include "store/etcd.h"

#include "base/clock.h"
#include "net/post.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define EACH_US (700 * US_PER_MS)
#define ANSWER_MAX (64u << 20)

struct etcd {
	struct poster *poster;
	char *endpoints[ETCD_ENDPOINTS_MAX];
	size_t count, at;
};

static bool endpoint_fine(struct str url)
{
	return (str_starts(url, STR("http://")) && url.len > 7) || (str_starts(url, STR("https://")) && url.len > 8);
}

int etcd_new(const struct etcd_options *o, struct etcd **ret_etcd, struct error *err)
{
	const struct post_options post = {o->ca_file, o->cert_file, o->key_file, ANSWER_MAX};
	if (o->endpoint_count == 0 || o->endpoint_count > ETCD_ENDPOINTS_MAX)
		return error_set(err, E_INVAL, "etcd_endpoints: give 1 to %d URLs of etcd members", ETCD_ENDPOINTS_MAX);
	for (size_t i = 0; i < o->endpoint_count; i++)
		if (!endpoint_fine(str_from(o->endpoints[i])))
			return error_set(err, E_INVAL,
			                 "etcd_endpoints: \"%s\" is not http://HOST:PORT or https://HOST:PORT",
			                 o->endpoints[i]);
	struct etcd *e = NEW(struct etcd);
	int rc = poster_new(&post, &e->poster, err);
	for (size_t i = 0; i < o->endpoint_count; i++) {
		struct str url = str_from(o->endpoints[i]);
		while (url.base[url.len - 1] == '/')
			url.len--;
		e->endpoints[e->count++] = str_dup(url);
	}
	if (rc < 0)
		etcd_free(e);
	else
		*ret_etcd = e;
	return rc;
}

void etcd_free(struct etcd *e)
{
	if (!e)
		return;
	poster_free(e->poster);
	for (size_t i = 0; i < e->count; i++)
		free(e->endpoints[i]);
	free(e);
}

/* {"error":"...","message":"...","code":14}: its words. */
static void refusal(const char *endpoint, int status, struct str body, struct error *err)
{
	yyjson_doc *doc = NULL;
	struct str words = {0};
	if (json_parse(body, &doc, NULL) == 0)
		json_str(yyjson_doc_get_root(doc), "error", &words, NULL);
	error_set(err, status >= 500 ? E_UNAVAILABLE : E_PEER, "%s: status %d%s" STR_FMT, endpoint, status,
	          words.len ? ": " : "", STR_ARG(words));
	yyjson_doc_free(doc);
}

static int ask(struct etcd *e, const char *path, struct str body, int64_t within_us, yyjson_doc **ret_doc,
               struct error *err)
{
	struct buf url = {0}, answer = {0};
	int status = 0;
	buf_printf(&url, "%s%s", e->endpoints[e->at], path);
	int rc = poster_post(e->poster, url.base, body, within_us, &answer, &status, err);
	if (rc == 0 && status != 200) {
		refusal(e->endpoints[e->at], status, buf_str(&answer), err);
		rc = err->code;
	} else if (rc == 0) {
		rc = json_parse(buf_str(&answer), ret_doc, err);
	} else {
		rc = err->code = E_UNAVAILABLE;
	}
	buf_fini(&url);
	buf_fini(&answer);
	return rc;
}

int etcd_call(struct etcd *e, const char *path, struct str body, int64_t within_us, yyjson_doc **ret_doc,
              struct error *err)
{
	int64_t until = clock_mono_us() + within_us, left = within_us;
	struct error why = {0};
	int rc = E_UNAVAILABLE;
	for (size_t tries = 0; tries < e->count && left > 0; tries++, left = until - clock_mono_us()) {
		rc = ask(e, path, body, left < EACH_US ? left : EACH_US, ret_doc, &why);
		if (rc != E_UNAVAILABLE)
			break;
		e->at = (e->at + 1) % e->count;
	}
	if (rc < 0)
		error_set(err, rc, "etcd: %s", why.text);
	return rc;
}

void etcd_append_bytes(struct buf *out, struct str bytes)
{
	char *to = buf_reserve(out, (bytes.len + 2) / 3 * 4 + 3);
	*to = '"';
	int len = EVP_EncodeBlock((unsigned char *)to + 1, (const unsigned char *)bytes.base, (int)bytes.len);
	to[len + 1] = '"';
	out->len += (size_t)len + 2;
}

int etcd_bytes(yyjson_val *o, const char *key, struct buf *out, struct error *err)
{
	struct str text = {0};
	int rc = json_str(o, key, &text, err);
	if (rc < 0 || text.len == 0)
		return rc;
	char *to = buf_reserve(out, text.len / 4 * 3 + 1);
	int len = to && text.len % 4 == 0 && text.len < INT32_MAX
	              ? EVP_DecodeBlock((unsigned char *)to, (const unsigned char *)text.base, (int)text.len)
	              : -1;
	if (len < 0)
		return error_set(err, E_CORRUPT, "\"%s\" of etcd's answer is not base64", key);
	for (size_t i = text.len; len > 0 && i > text.len - 2 && text.base[i - 1] == '='; i--)
		len--;
	out->len += (size_t)len;
	return 0;
}

int64_t etcd_number(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	int64_t number = 0;
	if (yyjson_is_str(v))
		return str_to_i64(str_from(yyjson_get_str(v)), &number) < 0 ? 0 : number;
	return yyjson_get_sint(v);
}
