/* SPDX-License-Identifier: Apache-2.0 */
/* The repository over a real HTTP server and client on loopback: pushing and pulling as OCI clients do, and otherwise.
 */
#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "serve/repository/repository.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "../store/folder.h"
#include "../store/gguf_build.h"

static struct folder folder;
static struct loop *loop;
static struct blob_store *store;
static struct catalog *catalog;
static struct repository *repository;
static struct http_server *server;
static struct http_client *client;

/* ---- a client that waits ---------------------------------------------------------------------- */

struct reply {
	int status;
	bool done;
	struct error err;
	struct buf body;
	char location[512], range[64], digest[DIGEST_NAME_SIZE], link[256], type[128], content_range[64], length[24];
	char subject[DIGEST_NAME_SIZE], filters[64];
};

static void keep(struct http_call *call, const char *name, char *to, size_t size)
{
	struct str value;
	to[0] = 0;
	if (http_call_header(call, name, &value))
		str_copy(value, to, size);
}

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct reply *r = arg;
	r->status = status;
	keep(call, "location", r->location, sizeof r->location);
	keep(call, "range", r->range, sizeof r->range);
	keep(call, "docker-content-digest", r->digest, sizeof r->digest);
	keep(call, "oci-subject", r->subject, sizeof r->subject);
	keep(call, "oci-filters-applied", r->filters, sizeof r->filters);
	keep(call, "link", r->link, sizeof r->link);
	keep(call, "content-type", r->type, sizeof r->type);
	keep(call, "content-range", r->content_range, sizeof r->content_range);
	keep(call, "content-length", r->length, sizeof r->length);
	return true;
}

static bool on_data(void *arg, struct str data)
{
	buf_append_str(&((struct reply *)arg)->body, data);
	return true;
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	struct reply *r = arg;
	if (err)
		r->err = *err;
	r->done = true;
	loop_stop(loop);
}

static struct reply reply;

static struct http_call *start(struct reply *r, const char *method, const char *path, struct str body,
                               const char *header, const char *value)
{
	char url[1024];
	struct http_header headers[1] = {{str_from(header), str_from(value)}};
	struct str address = http_server_address(server);
	snprintf(url, sizeof url, "http://" STR_FMT "%s", STR_ARG(address), path);
	buf_fini(&r->body);
	*r = (struct reply){0};
	return http_call_start(client, &(struct http_call_options){.method = str_from(method),
	                                                           .url = str_from(url),
	                                                           .headers = headers,
	                                                           .header_count = header ? 1 : 0,
	                                                           .body = body,
	                                                           .on_head = on_head,
	                                                           .on_data = on_data,
	                                                           .on_done = on_done,
	                                                           .arg = r});
}

static int call_with(const char *method, const char *path, struct str body, const char *header, const char *value)
{
	start(&reply, method, path, body, header, value);
	while (!reply.done)
		loop_run(loop);
	if (reply.err.code)
		fail_msg("%s %s: %s", method, path, reply.err.text);
	return reply.status;
}

static int call(const char *method, const char *path, struct str body)
{
	return call_with(method, path, body, NULL, NULL);
}

static bool says(const char *words)
{
	return memmem(reply.body.base ? reply.body.base : "", reply.body.len, words, strlen(words)) != NULL;
}

static const char *digest_text(struct str content)
{
	static char texts[4][DIGEST_TEXT_SIZE];
	static unsigned turn;
	struct digest d = digest_of(content.base, content.len);
	char *text = texts[turn++ % 4];
	digest_format(&d, text);
	return text;
}

static const char *path_of(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *path_of(const char *format, ...)
{
	static char paths[4][512];
	static unsigned turn;
	char *path = paths[turn++ % 4];
	va_list args;
	va_start(args, format);
	vsnprintf(path, sizeof paths[0], format, args);
	va_end(args);
	return path;
}

/* ---- the server ------------------------------------------------------------------------------- */

static void handler(void *arg, struct http_exchange *x)
{
	if (!repository_handle(repository, x))
		http_respond(x, 404, "text/plain", STR("not the repository's"));
}

static void start_repository(int64_t upload_idle_us)
{
	struct error err = {0};
	struct repository_options options = {
	    .store = store, .catalog = catalog, .chunk_size = 4096, .upload_idle_us = upload_idle_us};
	assert_int_equal(repository_new(loop, &options, &repository, &err), 0);
}

static int setup(void **state)
{
	struct error err = {0};
	folder_init(&folder);
	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(blob_store_open(str_from(folder.path), &store, &err), 0);
	assert_int_equal(catalog_open(str_from(folder_file(&folder, "catalog.db")), &catalog, &err), 0);
	start_repository(0);
	struct http_server_options options = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .handler = handler, .room = "test"};
	assert_int_equal(http_server_new(loop, &options, &server, &err), 0);
	client = http_client_new(loop, &(struct http_client_options){0});
	return 0;
}

static int teardown(void **state)
{
	http_client_free(client);
	http_server_free(server);
	repository_free(repository);
	loop_free(loop);
	catalog_close(catalog);
	blob_store_close(store);
	buf_fini(&reply.body);
	reply = (struct reply){0};
	folder_fini(&folder);
	return 0;
}

/* ---- pushing in steps ------------------------------------------------------------------------- */

static void push_blob(const char *repo, struct str content)
{
	assert_int_equal(call("POST", path_of("/v2/%s/blobs/uploads/?digest=%s", repo, digest_text(content)), content),
	                 201);
	assert_string_equal(reply.digest, digest_text(content));
}

static void append_descriptor(struct buf *b, const char *type, struct str content, const char *title)
{
	buf_printf(b, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu", type, digest_text(content), content.len);
	if (title) {
		buf_append_str(b, STR(",\"annotations\":{\"org.opencontainers.image.title\":"));
		buf_append_json(b, str_from(title));
		buf_append_str(b, STR("}"));
	}
	buf_append_str(b, STR("}"));
}

#define TYPE "application/vnd.oci.image.manifest.v1+json"

static void make_manifest(struct buf *b, struct str layer, const char *layer_type, const char *title)
{
	buf_clear(b);
	buf_append_str(b, STR("{\"schemaVersion\":2,\"mediaType\":\"" TYPE "\",\"config\":"));
	append_descriptor(b, "application/vnd.oci.empty.v1+json", STR("{}"), NULL);
	buf_append_str(b, STR(",\"layers\":["));
	append_descriptor(b, layer_type, layer, title);
	buf_append_str(b, STR("]}"));
}

static int put_manifest(const char *repo, const char *reference, struct str manifest)
{
	return call_with("PUT", path_of("/v2/%s/manifests/%s", repo, reference), manifest, "content-type", TYPE);
}

/* A model of several chunks. */
static void make_model(struct buf *b, char filler)
{
	gguf_start(b, 3, 1, 3);
	gguf_kv_text(b, "general.architecture", "llama");
	gguf_kv_u32(b, "general.file_type", 0);
	gguf_kv_u32(b, "llama.context_length", 512);
	gguf_tensor(b, "t", 0, 64, 64, 0);
	gguf_pad(b, 32);
	for (int i = 0; i < 64 * 64 * 4; i++)
		buf_append(b, &filler, 1);
}

static void push_model(const char *repo, const char *tag, char filler)
{
	struct buf model = {0}, manifest = {0};
	make_model(&model, filler);
	push_blob(repo, buf_str(&model));
	push_blob(repo, STR("{}"));
	make_manifest(&manifest, buf_str(&model), "application/octet-stream", "tiny.gguf");
	assert_int_equal(put_manifest(repo, tag, buf_str(&manifest)), 201);
	assert_string_equal(reply.digest, digest_text(buf_str(&manifest)));
	buf_fini(&model);
	buf_fini(&manifest);
}

/* ---- tests ------------------------------------------------------------------------------------ */

static void test_ping_and_foreign_paths(void **state)
{
	assert_int_equal(call("GET", "/v2/", STR("")), 200);
	assert_int_equal(call("GET", "/v2", STR("")), 200);
	assert_int_equal(call("POST", "/v2/", STR("")), 405);
	assert_int_equal(call("GET", "/v3/", STR("")), 404);
	assert_true(says("not the repository's"));
	assert_int_equal(call("GET", "/v2/nothing", STR("")), 404);
	assert_int_equal(call("GET", "/v2/UPPER/tags/list", STR("")), 400);
	assert_true(says("NAME_INVALID"));
	assert_int_equal(call("GET", "/v2/a%2F..b/tags/list", STR("")), 400);
	assert_int_equal(call("PUT", "/v2/a/tags/list", STR("")), 405);
}

static void test_a_model_is_pushed_listed_and_pulled(void **state)
{
	struct buf model = {0};
	struct version v;
	struct digest d;
	struct chunk_list list;
	struct buf text = {0};
	push_model("team/tiny", "1.0", 'w');
	make_model(&model, 'w');
	/* pulled as clients do: manifest by tag, layer by digest */
	assert_int_equal(call("GET", "/v2/team/tiny/manifests/1.0", STR("")), 200);
	assert_string_equal(reply.type, TYPE);
	assert_string_equal(reply.digest, digest_text(buf_str(&reply.body)));
	assert_true(says(digest_text(buf_str(&model))));
	assert_int_equal(call("HEAD", path_of("/v2/team/tiny/manifests/%s", reply.digest), STR("")), 200);
	assert_true(atoi(reply.length) > 100 && reply.body.len == 0);
	assert_int_equal(call("GET", path_of("/v2/team/tiny/blobs/%s", digest_text(buf_str(&model))), STR("")), 200);
	assert_true(str_equal(buf_str(&reply.body), buf_str(&model)));
	assert_int_equal(call("HEAD", path_of("/v2/team/tiny/blobs/%s", digest_text(buf_str(&model))), STR("")), 200);
	assert_int_equal(atoi(reply.length), model.len);
	/* the version and its chunk list */
	assert_int_equal(catalog_get_version(catalog, STR("team/tiny"), STR("1.0"), &v, NULL), 0);
	assert_string_equal(v.architecture, "llama");
	assert_string_equal(v.quantization, "F32");
	assert_int_equal(v.parameters, 4096);
	assert_int_equal(v.context_tokens, 512);
	assert_int_equal(v.file_count, 1);
	assert_string_equal(v.files[0].path, "tiny.gguf");
	assert_int_equal(blob_read_all(store, &v.files[0].chunks, 1 << 20, &text, NULL), 0);
	assert_int_equal(chunk_list_parse(buf_str(&text), &list, NULL), 0);
	d = digest_of(model.base, model.len);
	assert_true(digest_equal(&list.file, &d));
	assert_int_equal(list.count, 5);
	chunk_list_fini(&list);
	version_fini(&v);
	buf_fini(&text);
	buf_fini(&model);
}

static void test_chunked_upload_goes_on_where_it_broke_off(void **state)
{
	struct str content = bytes_make(7, 300000);
	char location[256];
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	memcpy(location, reply.location, sizeof location);
	assert_int_equal(call_with("PATCH", location, (struct str){content.base, 100000}, "content-range", "0-99999"),
	                 202);
	assert_string_equal(reply.range, "0-99999");
	assert_string_equal(reply.location, location);
	/* out of order, twice the same, and longer than it says */
	assert_int_equal(call_with("PATCH", location, (struct str){content.base, 10}, "content-range", "200000-200009"),
	                 416);
	assert_string_equal(reply.range, "0-99999");
	assert_int_equal(call_with("PATCH", location, (struct str){content.base, 100000}, "content-range", "0-99999"),
	                 416);
	assert_int_equal(call_with("PATCH", location, (struct str){content.base, 11}, "content-range", "100000-100009"),
	                 416);
	assert_int_equal(call_with("PATCH", location, (struct str){content.base, 10}, "content-range", "x-y"), 416);
	/* a client that dies in the middle of a PATCH */
	struct reply broken = {0};
	char url[512];
	struct str address = http_server_address(server);
	snprintf(url, sizeof url, "http://" STR_FMT "%s", STR_ARG(address), location);
	struct http_call *c = http_call_start(client, &(struct http_call_options){.method = STR("PATCH"),
	                                                                          .url = str_from(url),
	                                                                          .body_streams = true,
	                                                                          .body_length = 200000,
	                                                                          .on_done = on_done,
	                                                                          .arg = &broken});
	http_call_write(c, (struct str){content.base + 100000, 50000});
	int64_t until = clock_mono_us() + 5 * US_PER_S;
	do { /* until its bytes are there */
		assert_int_equal(call("GET", location, STR("")), 204);
	} while (strcmp(reply.range, "0-149999") && clock_mono_us() < until);
	assert_string_equal(reply.range, "0-149999");
	assert_int_equal(call("DELETE", location, STR("")), 409); /* somebody writes */
	http_call_cancel(c);
	do {
		call_with("PATCH", location, (struct str){content.base + 150000, 150000}, "content-range",
		          "150000-299999");
	} while (reply.status == 409 && clock_mono_us() < until);
	assert_int_equal(reply.status, 202);
	assert_int_equal(call("PUT", path_of("%s?digest=%s", location, digest_text(content)), STR("")), 201);
	assert_int_equal(call("GET", location, STR("")), 404);
	assert_int_equal(call("GET", path_of("/v2/r/blobs/%s", digest_text(content)), STR("")), 200);
	assert_true(str_equal(buf_str(&reply.body), content));
	free((char *)content.base);
}

static void test_wrong_digest_leaves_nothing(void **state)
{
	char location[256];
	assert_int_equal(call("POST", path_of("/v2/r/blobs/uploads/?digest=%s", digest_text(STR("a"))), STR("b")), 400);
	assert_true(says("DIGEST_INVALID"));
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/?digest=sha512:00", STR("b")), 400);
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	memcpy(location, reply.location, sizeof location);
	assert_int_equal(call("PUT", location, STR("b")), 400);
	assert_int_equal(call("PUT", path_of("%s?digest=%s", location, digest_text(STR("a"))), STR("b")), 400);
	assert_int_equal(call("GET", path_of("/v2/r/blobs/%s", digest_text(STR("a"))), STR("")), 404);
	assert_true(says("BLOB_UNKNOWN"));
	assert_int_equal(folder_count(folder_file(&folder, "uploads")), 0);
	assert_int_equal(folder_count(folder_file(&folder, "blobs")), 0);
}

static void test_uploads_end_by_delete_and_by_time(void **state)
{
	char location[256];
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	memcpy(location, reply.location, sizeof location);
	assert_int_equal(call("PATCH", location, STR("half")), 202);
	assert_int_equal(call("GET", path_of("/v2/other%s", location + 5), STR("")), 404);
	assert_int_equal(call("DELETE", location, STR("")), 204);
	assert_int_equal(call("PATCH", location, STR("more")), 404);
	repository_free(repository);
	start_repository(100 * US_PER_MS);
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	memcpy(location, reply.location, sizeof location);
	int64_t until = clock_mono_us() + 5 * US_PER_S;
	do /* forgotten first, its file removed by a job soon after */
		call("GET", location, STR(""));
	while ((reply.status != 404 || folder_count(folder_file(&folder, "uploads"))) && clock_mono_us() < until);
	assert_int_equal(reply.status, 404);
	assert_int_equal(folder_count(folder_file(&folder, "uploads")), 0);
}

static void test_open_uploads_are_bounded(void **state)
{
	for (int i = 0; i < LIMIT_UPLOADS; i++)
		assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	char location[256];
	memcpy(location, reply.location, sizeof location);
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 429);
	assert_true(says("TOOMANYREQUESTS"));
	assert_int_equal(call("DELETE", location, STR("")), 204);
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
}

static void test_large_upload_streams(void **state)
{
	struct str content = bytes_make(9, 20 << 20);
	push_blob("r", content);
	assert_int_equal(call("GET", path_of("/v2/r/blobs/%s", digest_text(content)), STR("")), 200);
	assert_true(str_equal(buf_str(&reply.body), content));
	free((char *)content.base);
}

static void test_a_large_file_is_read_once(void **state)
{
	struct str content = bytes_make(7, 20001);
	struct digest d = digest_of(content.base, content.len), kept;
	struct chunk_list list;
	struct buf text = {0}, wanted = {0};
	push_blob("lib/once", content);
	assert_int_equal(catalog_get_chunks(catalog, &d, 4096, &kept, NULL), 0); /* before any manifest */
	assert_int_equal(blob_read_all(store, &kept, 65536, &text, NULL), 0);
	assert_int_equal(chunk_list_build(store, &d, 4096, &list, NULL), 0);
	chunk_list_format(&list, &wanted);
	assert_true(str_equal(buf_str(&text), buf_str(&wanted)));
	chunk_list_fini(&list);
	buf_fini(&text);
	buf_fini(&wanted);
	free((char *)content.base);
}

static void test_more_than_the_disk_holds_is_refused_before_it_is_sent(void **state)
{
	struct reply refused = {0};
	char url[512];
	struct str address = http_server_address(server);
	snprintf(url, sizeof url, "http://" STR_FMT "/v2/r/blobs/uploads/?digest=%s", STR_ARG(address),
	         digest_text(STR("x")));
	struct http_call_options options = {.method = STR("POST"),
	                                    .url = str_from(url),
	                                    .body_streams = true,
	                                    .body_length = INT64_C(1) << 50,
	                                    .on_head = on_head,
	                                    .on_data = on_data,
	                                    .on_done = on_done,
	                                    .arg = &refused};
	http_call_start(client, &options);
	while (!refused.done)
		loop_run(loop);
	assert_int_equal(refused.status, 507);
	assert_non_null(memmem(refused.body.base, refused.body.len, "remove models", 13));
	buf_fini(&refused.body);
}

static void test_ranges_of_a_blob(void **state)
{
	static const struct {
		const char *range;
		int status;
		const char *body, *content_range;
	} table[] = {
	    {"bytes=0-3", 206, "0123", "bytes 0-3/10"},
	    {"bytes=8-", 206, "89", "bytes 8-9/10"},
	    {"bytes=-3", 206, "789", "bytes 7-9/10"},
	    {"bytes=-99", 206, "0123456789", "bytes 0-9/10"},
	    {"bytes=4-99", 206, "456789", "bytes 4-9/10"},
	    {"bytes=10-", 416, NULL, "bytes */10"},
	    {"bytes=5-4", 416, NULL, "bytes */10"},
	    {"bytes=-0", 416, NULL, "bytes */10"},
	    {"bytes=99999999999999999999-", 416, NULL, "bytes */10"},
	    {"bytes=0-1,3-4", 200, "0123456789", ""},
	    {"lines=1-2", 200, "0123456789", ""},
	};
	push_blob("r", STR("0123456789"));
	const char *path = path_of("/v2/r/blobs/%s", digest_text(STR("0123456789")));
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (call_with("GET", path, STR(""), "range", table[i].range) != table[i].status)
			fail_msg("%s: %d", table[i].range, reply.status);
		assert_string_equal(reply.content_range, table[i].content_range);
		if (table[i].body)
			assert_true(str_equal(buf_str(&reply.body), str_from(table[i].body)));
	}
}

static void test_mount_shows_a_blob_elsewhere_without_sending_it(void **state)
{
	struct str content = STR("shared");
	push_blob("a", content);
	assert_int_equal(call("HEAD", path_of("/v2/b/blobs/%s", digest_text(content)), STR("")), 404);
	assert_int_equal(call("POST", path_of("/v2/b/blobs/uploads/?mount=%s&from=a", digest_text(content)), STR("")),
	                 201);
	assert_int_equal(call("HEAD", path_of("/v2/b/blobs/%s", digest_text(content)), STR("")), 200);
	/* from a repository that has it not: an ordinary upload begins */
	assert_int_equal(
	    call("POST", path_of("/v2/c/blobs/uploads/?mount=%s&from=nowhere", digest_text(content)), STR("")), 202);
	assert_int_equal(call("HEAD", path_of("/v2/c/blobs/%s", digest_text(content)), STR("")), 404);
	/* deleting it in one leaves it in the other */
	assert_int_equal(call("DELETE", path_of("/v2/a/blobs/%s", digest_text(content)), STR("")), 202);
	assert_int_equal(call("DELETE", path_of("/v2/a/blobs/%s", digest_text(content)), STR("")), 404);
	assert_int_equal(call("GET", path_of("/v2/b/blobs/%s", digest_text(content)), STR("")), 200);
}

static void test_tags_are_listed_in_pages(void **state)
{
	struct buf manifest = {0};
	assert_int_equal(call("GET", "/v2/r/tags/list", STR("")), 404);
	assert_true(says("NAME_UNKNOWN"));
	push_blob("r", STR("{}"));
	push_blob("r", STR("text"));
	make_manifest(&manifest, STR("text"), "text/plain", "../odd/but/no/model");
	for (int i = 0; i < 5; i++)
		assert_int_equal(put_manifest("r", path_of("t%d", i), buf_str(&manifest)), 201);
	assert_int_equal(call("GET", "/v2/r/tags/list", STR("")), 200);
	assert_true(says("{\"name\":\"r\",\"tags\":[\"t0\",\"t1\",\"t2\",\"t3\",\"t4\"]}"));
	assert_string_equal(reply.link, "");
	assert_int_equal(call("GET", "/v2/r/tags/list?n=2", STR("")), 200);
	assert_true(says("[\"t0\",\"t1\"]"));
	assert_string_equal(reply.link, "</v2/r/tags/list?n=2&last=t1>; rel=\"next\"");
	assert_int_equal(call("GET", "/v2/r/tags/list?n=2&last=t3", STR("")), 200);
	assert_true(says("[\"t4\"]"));
	assert_string_equal(reply.link, "");
	assert_int_equal(call("GET", "/v2/r/tags/list?n=0", STR("")), 200);
	assert_true(says("[]"));
	assert_int_equal(call("GET", "/v2/r/tags/list?n=-1", STR("")), 400);
	assert_int_equal(catalog_serial(catalog), 0); /* nothing of it is a model */
	buf_fini(&manifest);
}

static void test_bad_manifests_are_refused_in_words(void **state)
{
	struct buf m = {0};
	push_blob("r", STR("{}"));
	push_blob("r", STR("text"));
	assert_int_equal(put_manifest("r", "a", STR("{")), 400);
	assert_true(says("MANIFEST_INVALID"));
	assert_int_equal(put_manifest("r", "a", STR("{\"schemaVersion\":1}")), 400);
	make_manifest(&m, STR("absent"), "text/plain", "a");
	assert_int_equal(put_manifest("r", "a", buf_str(&m)), 400);
	assert_true(says("MANIFEST_BLOB_UNKNOWN") && says("push it first"));
	make_manifest(&m, STR("text"), "text/plain", "a");
	assert_int_equal(put_manifest("r", digest_text(STR("another")), buf_str(&m)), 400);
	assert_true(says("DIGEST_INVALID"));
	assert_int_equal(put_manifest("r", "sha256:zz", buf_str(&m)), 400);
	assert_int_equal(put_manifest("r", "-a", buf_str(&m)), 400);
	assert_int_equal(call_with("PUT", "/v2/r/manifests/a", buf_str(&m), "content-type", "application/json"), 400);
	assert_true(says("Content-Type"));
	assert_int_equal(put_manifest("other", "a", buf_str(&m)), 400); /* blobs of another repository do not count */
	assert_int_equal(call("GET", "/v2/r/manifests/a", STR("")), 404);
	assert_true(says("MANIFEST_UNKNOWN"));
	assert_int_equal(put_manifest("r", digest_text(buf_str(&m)), buf_str(&m)), 201);
	assert_int_equal(call("GET", path_of("/v2/r/manifests/%s", digest_text(buf_str(&m))), STR("")), 200);
	struct str large = bytes_make(1, LIMIT_MANIFEST + 1);
	assert_int_equal(put_manifest("r", "a", large), 413);
	free((char *)large.base);
	buf_fini(&m);
}

static void test_bad_models_are_refused_in_words(void **state)
{
	struct buf model = {0}, m = {0};
	push_blob("r", STR("{}"));
	make_model(&model, 'x');
	struct str cut = {model.base, model.len - 1};
	push_blob("r", cut);
	make_manifest(&m, cut, "application/octet-stream", "cut.gguf");
	assert_int_equal(put_manifest("r", "a", buf_str(&m)), 400);
	assert_true(says("MANIFEST_INVALID") && says("cut.gguf") && says("cut short") && says("at byte"));
	push_blob("r", buf_str(&model));
	make_manifest(&m, buf_str(&model), "application/octet-stream", "../../etc/passwd");
	assert_int_equal(put_manifest("r", "a", buf_str(&m)), 400);
	assert_true(says("relative path"));
	/* without a title it has a name all the same */
	make_manifest(&m, buf_str(&model), "application/vnd.ollama.image.model", NULL);
	assert_int_equal(put_manifest("r", "a", buf_str(&m)), 201);
	struct version v;
	assert_int_equal(catalog_get_version(catalog, STR("r"), STR("a"), &v, NULL), 0);
	assert_string_equal(v.files[0].path, "model.gguf");
	version_fini(&v);
	buf_fini(&model);
	buf_fini(&m);
}

static void test_the_feed_wakes_when_a_version_appears_and_goes(void **state)
{
	struct reply waiting = {0};
	assert_int_equal(call("GET", "/mdn/v1/catalog", STR("")), 200);
	assert_true(says("{\"serial\":0,\"versions\":[]}"));
	start(&waiting, "GET", "/mdn/v1/catalog?after=0&wait_ms=20000", STR(""), NULL, NULL);
	push_model("team/tiny", "1.0", 'w');
	while (!waiting.done)
		loop_run(loop);
	assert_int_equal(waiting.status, 200);
	yyjson_doc *doc;
	struct version v;
	assert_int_equal(json_parse(buf_str(&waiting.body), &doc, NULL), 0);
	yyjson_val *versions = yyjson_obj_get(yyjson_doc_get_root(doc), "versions");
	assert_int_equal(yyjson_arr_size(versions), 1);
	assert_int_equal(version_parse(yyjson_arr_get_first(versions), &v, NULL), 0);
	assert_string_equal(v.name, "team/tiny");
	version_fini(&v);
	yyjson_doc_free(doc);
	/* nothing new: answered when the wait is over; a client ahead of us: at once */
	int64_t before = clock_mono_us();
	assert_int_equal(call("GET", "/mdn/v1/catalog?after=1&wait_ms=200", STR("")), 200);
	assert_true(clock_mono_us() - before >= 150 * US_PER_MS);
	before = clock_mono_us();
	assert_int_equal(call("GET", "/mdn/v1/catalog?after=99&wait_ms=9000", STR("")), 200);
	assert_true(clock_mono_us() - before < 2 * US_PER_S);
	assert_int_equal(call("GET", "/mdn/v1/catalog?after=x", STR("")), 400);
	start(&waiting, "GET", "/mdn/v1/catalog?after=1&wait_ms=20000", STR(""), NULL, NULL);
	assert_int_equal(call("DELETE", "/v2/team/tiny/manifests/1.0", STR("")), 202);
	while (!waiting.done)
		loop_run(loop);
	assert_true(str_equal(buf_str(&waiting.body), STR("{\"serial\":2,\"versions\":[]}\n")));
	buf_fini(&waiting.body);
	assert_int_equal(call("GET", "/v2/team/tiny/manifests/1.0", STR("")), 404);
	assert_int_equal(call("DELETE", "/v2/team/tiny/manifests/1.0", STR("")), 404);
}

static void push_referrer(const char *repo, const char *subject, const char *type, int number)
{
	struct buf m = {0};
	buf_append_str(&m, STR("{\"schemaVersion\":2,\"mediaType\":\"" TYPE "\",\"config\":"));
	append_descriptor(&m, "application/vnd.oci.empty.v1+json", STR("{}"), NULL);
	buf_printf(&m,
	           ",\"layers\":[],\"artifactType\":\"%s\",\"annotations\":{\"n\":\"%d\"},"
	           "\"subject\":{\"mediaType\":\"" TYPE "\",\"digest\":\"%s\",\"size\":1}}",
	           type, number, subject);
	assert_int_equal(put_manifest(repo, digest_text(buf_str(&m)), buf_str(&m)), 201);
	assert_string_equal(reply.subject, subject);
	buf_fini(&m);
}

static size_t count_of(const char *words)
{
	size_t n = 0;
	const char *at = reply.body.base, *end = at + reply.body.len;
	while (at && (at = memmem(at, (size_t)(end - at), words, strlen(words))) != NULL) {
		at += strlen(words);
		n++;
	}
	return n;
}

static void test_referrers_are_listed_by_subject_and_type_and_go_with_their_manifest(void **state)
{
	char subject[DIGEST_TEXT_SIZE], list[200];
	snprintf(subject, sizeof subject, "sha256:%064d", 7);
	snprintf(list, sizeof list, "/v2/a/b/referrers/%s", subject);
	assert_int_equal(call("GET", list, STR("")), 200);
	assert_int_equal(count_of("\"digest\""), 0);
	push_blob("a/b", STR("{}"));
	for (int i = 0; i < 3; i++)
		push_referrer("a/b", subject, i ? "text/card" : "text/score+x", i);
	assert_int_equal(call("GET", list, STR("")), 200);
	assert_string_equal(reply.type, "application/vnd.oci.image.index.v1+json");
	assert_int_equal(count_of("\"digest\""), 3);
	assert_true(says("\"annotations\":{\"n\":\"2\"}"));
	assert_int_equal(call("GET", path_of("%s?artifactType=text%%2Fscore%%2Bx", list), STR("")), 200);
	assert_int_equal(count_of("\"digest\""), 1);
	assert_string_equal(reply.filters, "artifactType");
	assert_int_equal(call("GET", path_of("/v2/other/referrers/%s", subject), STR("")), 200);
	assert_int_equal(count_of("\"digest\""), 0);
	assert_int_equal(call("GET", "/v2/a/b/referrers/sha256:12", STR("")), 400);
	/* What is deleted refers to nothing. */
	assert_int_equal(call("GET", path_of("%s?artifactType=text%%2Fscore%%2Bx", list), STR("")), 200);
	const char *at = memmem(reply.body.base, reply.body.len, "sha256:", 7);
	const char *manifest = path_of("/v2/a/b/manifests/%.71s", at);
	assert_int_equal(call("DELETE", manifest, STR("")), 202);
	assert_int_equal(call("GET", list, STR("")), 200);
	assert_int_equal(count_of("\"digest\""), 2);
}

static const char *sha512_text(struct str content)
{
	static char text[DIGEST_NAME_SIZE];
	struct digest_name n = digest_name_sha512(content.base, content.len);
	digest_name_format(&n, text);
	return text;
}

static void test_content_has_a_sha512_name_too(void **state)
{
	struct str content = STR("called by two names");
	char name[DIGEST_NAME_SIZE], put[400];
	strcpy(name, sha512_text(content));
	assert_int_equal(call("GET", path_of("/v2/a/blobs/%s", name), STR("")), 404);
	assert_int_equal(call("POST", path_of("/v2/a/blobs/uploads/?digest=%s", name), STR("something else")), 400);
	assert_true(says("DIGEST_INVALID"));
	assert_int_equal(call("POST", path_of("/v2/a/blobs/uploads/?digest=%s", name), content), 201);
	assert_string_equal(reply.location, path_of("/v2/a/blobs/%s", name));
	assert_int_equal(call("GET", path_of("/v2/a/blobs/%s", name), STR("")), 200);
	assert_int_equal(call("GET", path_of("/v2/a/blobs/%s", digest_text(content)), STR("")), 200);
	assert_string_equal(reply.digest, digest_text(content));
	assert_int_equal(call("POST", path_of("/v2/b/blobs/uploads/?mount=%s", name), STR("")), 201);
	/* A manifest with such a layer, by such a name, with two tags. */
	struct buf m = {0};
	push_blob("a", STR("{}"));
	buf_append_str(&m, STR("{\"schemaVersion\":2,\"config\":"));
	append_descriptor(&m, "application/vnd.oci.empty.v1+json", STR("{}"), NULL);
	buf_printf(&m, ",\"layers\":[{\"mediaType\":\"text/plain\",\"digest\":\"%s\",\"size\":%zu}]}", name,
	           content.len);
	snprintf(put, sizeof put, "/v2/a/manifests/%s?tag=one&tag=two", sha512_text(buf_str(&m)));
	assert_int_equal(call("PUT", put, buf_str(&m)), 201);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(call("HEAD", i ? "/v2/a/manifests/one" : "/v2/a/manifests/two", STR("")), 200);
		assert_string_equal(reply.digest, sha512_text(buf_str(&m)));
	}
	assert_int_equal(call("HEAD", path_of("/v2/a/manifests/%s", digest_text(buf_str(&m))), STR("")), 200);
	assert_int_equal(call("PUT", path_of("%s&tag=-bad", put), buf_str(&m)), 400);
	assert_int_equal(call("DELETE", path_of("/v2/a/manifests/%s", sha512_text(buf_str(&m))), STR("")), 202);
	assert_int_equal(call("HEAD", "/v2/a/manifests/one", STR("")), 404);
	assert_int_equal(call("DELETE", path_of("/v2/a/blobs/%s", name), STR("")), 202);
	assert_int_equal(call("HEAD", path_of("/v2/a/blobs/%s", name), STR("")), 404);
	buf_fini(&m);
}

static bool knows_key(void *arg, struct str key, char ret_tenant[static 32])
{
	strcpy(ret_tenant, "0123");
	return str_equal(key, STR("open sesame"));
}

static int call_as(const char *method, const char *path, const char *authorization)
{
	return call_with(method, path, STR(""), "authorization", authorization);
}

/* "x:open sesame", "x:wrong", ":" */
#define RIGHT "Basic eDpvcGVuIHNlc2FtZQ=="
#define WRONG "Basic eDp3cm9uZw=="
#define NOBODY "Basic Og=="

static void test_who_may_read_and_write(void **state)
{
	static const struct str names[] = {{"secret/*", 8}};
	static const struct {
		enum repository_access access;
		int ping, ping_nobody, read, write, secret; /* without a key */
	} cases[] = {{REPOSITORY_OPEN, 401, 200, 404, 202, 401},
	             {REPOSITORY_PULL, 401, 200, 404, 401, 401},
	             {REPOSITORY_KEY, 401, 401, 401, 401, 401}};
	repository_free(repository);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = {0};
		struct repository_options options = {.store = store, .catalog = catalog, .check_key = knows_key};
		options.rules = (struct repository_rules){
		    .access = cases[i].access, .private_names = names, .private_count = 1, .loopback = true};
		assert_int_equal(repository_new(loop, &options, &repository, &err), 0);
		assert_int_equal(call("GET", "/v2/", STR("")), cases[i].ping);
		assert_int_equal(call_as("GET", "/v2/", NOBODY), cases[i].ping_nobody);
		assert_int_equal(call("GET", "/v2/x/tags/list", STR("")), cases[i].read);
		assert_int_equal(call("POST", "/v2/x/blobs/uploads/", STR("")), cases[i].write);
		assert_int_equal(call("GET", "/v2/secret/x/tags/list", STR("")), cases[i].secret);
		assert_true(says("UNAUTHORIZED"));
		assert_int_equal(call("GET", "/mdn/v1/catalog", STR("")), 401);
		static const char *const good[] = {RIGHT, "bearer open sesame"};
		for (size_t k = 0; k < 2; k++) {
			assert_int_equal(call_as("GET", "/v2/", good[k]), 200);
			assert_int_equal(call_as("GET", "/v2/secret/x/tags/list", good[k]), 404);
			assert_int_equal(call_as("POST", "/v2/secret/x/blobs/uploads/", good[k]), 202);
		}
		static const char *const bad[] = {WRONG, "Basic", "Basic ====", "Bearer ", "Digest open sesame", ""};
		for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
			assert_int_equal(call_as("POST", "/v2/secret/x/blobs/uploads/", bad[k]), 401);
		assert_int_equal(call_as("GET", "/v2/token", WRONG), 401);
		assert_int_equal(call_as("GET", "/v2/token", RIGHT), 200);
		assert_true(says("\"token\":\"open sesame\""));
		assert_int_equal(call("GET", "/v2/token", STR("")), 200);
		assert_true(says("\"token\":\"anonymous\""));
		if (i < 2)
			repository_free(repository);
	}
}

static void test_a_browser_led_astray_is_refused(void **state)
{
	struct repository_rules rules = {.loopback = true};
	struct str address = http_server_address(server);
	static const char *const hosts[] = {"evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "[::2]"};
	repository_set_rules(repository, &rules);
	for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++)
		assert_int_equal(call_with("GET", "/v2/x/tags/list", STR(""), "host", hosts[i]), 403);
	assert_int_equal(call_with("GET", "/v2/x/tags/list", STR(""), "host", "LOCALHOST:1"), 404);
	assert_int_equal(call_with("POST", "/v2/x/blobs/uploads/", STR(""), "origin", "http://evil.example"), 403);
	assert_int_equal(call_with("POST", "/v2/x/blobs/uploads/", STR(""), "origin", "null"), 403);
	assert_int_equal(
	    call_with("POST", "/v2/x/blobs/uploads/", STR(""), "origin", path_of("http://" STR_FMT, STR_ARG(address))),
	    202);
	rules.hosts = (const struct str[]){STR("*.example")};
	rules.host_count = 1;
	repository_set_rules(repository, &rules);
	assert_int_equal(call_with("GET", "/v2/x/tags/list", STR(""), "host", "models.example:443"), 404);
}

static void test_an_upload_goes_on_after_a_restart(void **state)
{
	struct error err = {0};
	char at[300];
	struct str whole = STR("the first half and the second");
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	strcpy(at, reply.location);
	assert_int_equal(call("PATCH", at, (struct str){whole.base, 14}), 202);
	repository_free(repository);
	blob_store_close(store);
	assert_int_equal(blob_store_open(str_from(folder.path), &store, &err), 0);
	start_repository(0);
	assert_int_equal(call("GET", path_of("/v2/other/blobs/uploads/%s", strrchr(at, '/') + 1), STR("")), 404);
	assert_int_equal(call("GET", at, STR("")), 204);
	assert_string_equal(reply.range, "0-13");
	assert_int_equal(
	    call("PUT", path_of("%s?digest=%s", at, digest_text(whole)), (struct str){whole.base + 14, whole.len - 14}),
	    201);
	assert_int_equal(folder_count(folder_file(&folder, "uploads")), 0);
	assert_int_equal(call("GET", path_of("/v2/r/blobs/%s", digest_text(whole)), STR("")), 200);
	/* One that nobody goes on with, and a note without its upload. */
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	strcpy(at, reply.location);
	repository_free(repository);
	assert_int_equal(folder_count(folder_file(&folder, "uploads")), 2);
	start_repository(0);
	assert_int_equal(call("DELETE", at, STR("")), 204);
	assert_int_equal(folder_count(folder_file(&folder, "uploads")), 0);
}

static void test_a_repository_ends_with_all_kinds_of_work_open(void **state)
{
	struct reply waiting = {0}, sending = {0}, putting = {0};
	char location[256], url[512];
	struct str address = http_server_address(server);
	assert_int_equal(call("POST", "/v2/r/blobs/uploads/", STR("")), 202);
	memcpy(location, reply.location, sizeof location);
	start(&waiting, "GET", "/mdn/v1/catalog?after=0&wait_ms=20000", STR(""), NULL, NULL);
	snprintf(url, sizeof url, "http://" STR_FMT "%s", STR_ARG(address), location);
	struct http_call_options options = {.method = STR("PATCH"),
	                                    .url = str_from(url),
	                                    .body_streams = true,
	                                    .body_length = 100000,
	                                    .on_head = on_head,
	                                    .on_done = on_done,
	                                    .arg = &sending};
	struct http_call *patch = http_call_start(client, &options);
	http_call_write(patch, STR("first bytes"));
	snprintf(url, sizeof url, "http://" STR_FMT "/v2/r/manifests/a", STR_ARG(address));
	options.method = STR("PUT");
	options.url = str_from(url);
	options.arg = &putting;
	struct http_call *put = http_call_start(client, &options);
	http_call_write(put, STR("{"));
	do
		assert_int_equal(call("GET", location, STR("")), 204);
	while (strcmp(reply.range, "0-10"));
	repository_free(repository);
	repository = NULL;
	while (!waiting.done || !sending.done)
		loop_run(loop);
	assert_int_equal(waiting.status, 503);
	assert_int_equal(sending.status, 503);
	http_call_cancel(put);
	buf_fini(&waiting.body);
	assert_int_equal(folder_count(folder_file(&folder, "blobs")), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_ping_and_foreign_paths),
	    TEST(test_a_model_is_pushed_listed_and_pulled),
	    TEST(test_chunked_upload_goes_on_where_it_broke_off),
	    TEST(test_wrong_digest_leaves_nothing),
	    TEST(test_uploads_end_by_delete_and_by_time),
	    TEST(test_open_uploads_are_bounded),
	    TEST(test_large_upload_streams),
	    TEST(test_a_large_file_is_read_once),
	    TEST(test_more_than_the_disk_holds_is_refused_before_it_is_sent),
	    TEST(test_ranges_of_a_blob),
	    TEST(test_mount_shows_a_blob_elsewhere_without_sending_it),
	    TEST(test_tags_are_listed_in_pages),
	    TEST(test_bad_manifests_are_refused_in_words),
	    TEST(test_bad_models_are_refused_in_words),
	    TEST(test_the_feed_wakes_when_a_version_appears_and_goes),
	    TEST(test_referrers_are_listed_by_subject_and_type_and_go_with_their_manifest),
	    TEST(test_content_has_a_sha512_name_too),
	    TEST(test_who_may_read_and_write),
	    TEST(test_a_browser_led_astray_is_refused),
	    TEST(test_an_upload_goes_on_after_a_restart),
	    TEST(test_a_repository_ends_with_all_kinds_of_work_open),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
