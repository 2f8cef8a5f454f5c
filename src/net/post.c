/* SPDX-License-Identifier: Apache-2.0 */
/* One easy handle, used again and again: libcurl keeps the connections. */
#include "net/post.h"

#include <curl/curl.h>
#include <stdlib.h>

struct poster {
	CURL *easy;
	struct curl_slist *headers;
	size_t answer_max;
	char error[CURL_ERROR_SIZE];
};

static size_t on_bytes(char *bytes, size_t size, size_t count, void *arg)
{
	struct buf *out = arg;
	buf_append(out, bytes, size * count);
	return out->failed ? CURL_WRITEFUNC_ERROR : size * count;
}

static CURLcode set_text(CURL *easy, CURLoption option, struct str text)
{
	if (!text.len)
		return CURLE_OK;
	char *copy = str_dup(text);
	CURLcode rc = curl_easy_setopt(easy, option, copy); /* copies */
	free(copy);
	return rc;
}

int poster_new(const struct post_options *o, struct poster **ret_poster, struct error *err)
{
	struct poster *p = NEW(struct poster);
	curl_global_init(CURL_GLOBAL_DEFAULT); /* counts itself */
	p->answer_max = o->answer_max;
	p->easy = curl_easy_init();
	p->headers = curl_slist_append(NULL, "Content-Type: application/json");
	if (p->headers)
		p->headers = curl_slist_append(p->headers, "Expect:"); /* no waiting for 100 */
	if (!p->easy || !p->headers || curl_easy_setopt(p->easy, CURLOPT_NOSIGNAL, 1L) ||
	    curl_easy_setopt(p->easy, CURLOPT_PROXY, "") ||
	    curl_easy_setopt(p->easy, CURLOPT_PROTOCOLS_STR, "http,https") ||
	    curl_easy_setopt(p->easy, CURLOPT_HTTPHEADER, p->headers) ||
	    curl_easy_setopt(p->easy, CURLOPT_ERRORBUFFER, p->error) ||
	    curl_easy_setopt(p->easy, CURLOPT_WRITEFUNCTION, on_bytes) ||
	    set_text(p->easy, CURLOPT_CAINFO, o->ca_file) || set_text(p->easy, CURLOPT_SSLCERT, o->cert_file) ||
	    set_text(p->easy, CURLOPT_SSLKEY, o->key_file)) {
		poster_free(p);
		return error_set(err, E_INTERNAL, "libcurl cannot be set up");
	}
	*ret_poster = p;
	return 0;
}

void poster_free(struct poster *p)
{
	if (!p)
		return;
	curl_easy_cleanup(p->easy);
	curl_slist_free_all(p->headers);
	curl_global_cleanup();
	free(p);
}

static int failure(const struct poster *p, CURLcode code, const char *url, struct error *err)
{
	int ours = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ? E_UNAVAILABLE
	           : code == CURLE_OPERATION_TIMEDOUT                                  ? E_TIMEOUT
	           : code == CURLE_WRITE_ERROR                                         ? E_LIMIT
	                                                                               : E_PEER;
	return error_set(err, ours, "%s: %s", url, p->error[0] ? p->error : curl_easy_strerror(code));
}

int poster_post(struct poster *p, const char *url, struct str body, int64_t within_us, struct buf *out, int *ret_status,
                struct error *err)
{
	long status = 0;
	CURLcode rc;
	p->error[0] = '\0';
	out->max = p->answer_max;
	if ((rc = curl_easy_setopt(p->easy, CURLOPT_URL, url)) == CURLE_OK &&
	    (rc = curl_easy_setopt(p->easy, CURLOPT_POSTFIELDS, body.base)) == CURLE_OK &&
	    (rc = curl_easy_setopt(p->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len)) == CURLE_OK &&
	    (rc = curl_easy_setopt(p->easy, CURLOPT_TIMEOUT_MS, (long)(within_us / 1000 + 1))) == CURLE_OK &&
	    (rc = curl_easy_setopt(p->easy, CURLOPT_WRITEDATA, out)) == CURLE_OK &&
	    (rc = curl_easy_perform(p->easy)) == CURLE_OK)
		rc = curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &status);
	if (rc != CURLE_OK)
		return failure(p, rc, url, err);
	*ret_status = (int)status;
	return 0;
}
