/* SPDX-License-Identifier: Apache-2.0 */
/* What one tenant must not be able to do to the others with files and batches; and batches that cannot go on. A
 * gateway is started over a state that the test wrote. */
#include "world.h"

#include "base/file.h"
#include "base/limits.h"
#include "core/api_key.h"
#include "store/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LINE \
	"{\"custom_id\":\"%d\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"m:v1\"," \
	"\"prompt\":\"x\",\"max_tokens\":%d}}\n"

struct fixture {
	struct world w;
	struct place p;
	char folder[64];
	struct state *state;
	int64_t next_us;
};

static int setup(void **state)
{
	struct fixture *f = NEW(struct fixture);
	struct error err;

	world_init(&f->w);
	strcpy(f->folder, "/tmp/mdn-offline-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	char *path = file_join(str_from(f->folder), "state.db");
	assert_int_equal(state_open(str_from(path), &f->state, &err), 0);
	free(path);
	f->next_us = clock_wall_us() - 3600 * US_PER_S;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->p.g)
		place_stop(&f->p);
	world_fini(&f->w);
	assert_int_equal(folder_remove(f->folder, NULL), 0);
	free(f);
	return 0;
}

static void put(struct fixture *f, const char *space, const char *id, const char *value)
{
	struct error err;

	assert_int_equal(state_put(f->state, space, str_from(id), str_from(value), &err), 0);
}

/* Of so many lines; 0: known, but not on the disk. */
static void put_input(struct fixture *f, const char *tenant, const char *name, int lines, int max_tokens)
{
	char id[48], value[512], file[64];
	struct buf text = {0};
	struct error err;

	f->next_us += US_PER_S; /* in this order */
	for (int i = 0; i < lines; i++)
		buf_printf(&text, LINE, i, max_tokens);
	snprintf(id, sizeof(id), "file-%s", name);
	snprintf(file, sizeof(file), "%s.jsonl", id);
	char *path = file_join(str_from(f->folder), file);
	if (lines)
		assert_int_equal(file_write(path, 0600, buf_str(&text), &err), 0);
	free(path);
	snprintf(value, sizeof(value),
	         "{\"tenant\":\"%s\",\"name\":\"n\",\"purpose\":\"batch\",\"bytes\":%zu,\"created_us\":%lld,"
	         "\"expires_s\":0}",
	         tenant, text.len, (long long)f->next_us);
	put(f, "file", id, value);
	buf_fini(&text);
}

/* A batch under way for such an input. */
static void put_batch(struct fixture *f, const char *tenant, const char *name, int lines, int max_tokens,
                      int64_t expires_s)
{
	char id[48], value[1024];

	put_input(f, tenant, name, lines, max_tokens);
	snprintf(id, sizeof(id), "batch_%s", name);
	snprintf(value, sizeof(value),
	         "{\"tenant\":\"%s\",\"input\":\"file-%s\",\"output\":\"file-%s-o\",\"error\":\"file-%s-e\","
	         "\"endpoint\":\"/v1/completions\",\"status\":\"in_progress\",\"created_us\":%lld,\"expires_s\":%lld,"
	         "\"begun_s\":1,\"ended_s\":0,\"cancelling_s\":0,\"output_life_s\":3600,\"has_output\":false,"
	         "\"has_error\":false,\"total\":%d,\"completed\":0,\"failed\":0,\"metadata\":null,\"errors\":null}",
	         tenant, name, name, name, (long long)f->next_us, (long long)expires_s, lines);
	put(f, "batch", id, value);
}

static void start(struct fixture *f, uint64_t files_max, int slots, bool has_model)
{
	struct gateway_options o = place_options("n-a", "east");

	state_close(f->state);
	o.offline_folder = str_from(f->folder);
	o.files_max = files_max;
	o.engine.slots = slots;
	o.engine.itl_base_us = 2 * US_PER_MS;
	place_start(&f->w, &f->p, &o);
	if (has_model)
		place_model(&f->w, &f->p, "m:v1");
}

/* The batch as its tenant sees it; those of the test are of "anonymous". */
static yyjson_doc *look(struct fixture *f, const char *name)
{
	struct reply r = {0};
	char path[96];

	snprintf(path, sizeof(path), "/v1/batches/batch_%s", name);
	ask(&f->w, &r, "GET", f->p.api, path, NULL);
	yyjson_doc *doc = reply_doc(&r);
	reply_fini(&r);
	return doc;
}

static yyjson_doc *expect_soon(struct fixture *f, const char *name, const char *status)
{
	for (int i = 0;; i++) {
		yyjson_doc *doc = look(f, name);
		if (yyjson_equals_str(at(doc, "status"), status))
			return doc;
		if (i == 200) {
			assert_text(at(doc, "status"), status);
			return doc;
		}
		yyjson_doc_free(doc);
		world_wait(&f->w, 50 * US_PER_MS);
	}
}

#define LATER (clock_wall_us() / US_PER_S + 3600)

static void test_a_batch_whose_input_is_gone_fails_and_says_so(void **state)
{
	struct fixture *f = *state;

	put_batch(f, "anonymous", "gone", 0, 0, LATER);
	start(f, 1 << 20, 2, false);
	yyjson_doc *doc = expect_soon(f, "gone", "failed");
	assert_text(at(doc, "errors.data.0.code"), "input_unreadable");
	yyjson_doc_free(doc);
}

static void test_an_expired_batch_ends_though_files_max_is_reached(void **state)
{
	struct fixture *f = *state;

	put_batch(f, "anonymous", "late", 3, 1, 1000);
	start(f, 10, 2, false); /* less than its input */
	yyjson_doc *doc = expect_soon(f, "late", "expired");
	assert_int_equal(yyjson_get_int(at(doc, "request_counts.failed")), 3);
	yyjson_doc_free(doc);
}

static void make_key(struct fixture *f, char header[static 128], char ret_id[static 32])
{
	uint8_t id[6] = {1}, secret[API_KEY_SECRET_BYTES] = {2};
	char key[API_KEY_SIZE];
	struct key_ring_key known = {0};

	api_key_format(id, secret, key);
	hex_encode(id, sizeof(id), known.id);
	api_key_hash(str_from(key), known.hash);
	gateway_set_keys(f->p.g, &known, 1);
	snprintf(header, 128, "authorization: Bearer %s", key);
	memcpy(ret_id, known.id, sizeof(known.id));
}

static int64_t completed(struct fixture *f, const char *name)
{
	yyjson_doc *doc = look(f, name);
	int64_t count = yyjson_get_sint(at(doc, "request_counts.completed"));

	yyjson_doc_free(doc);
	return count;
}

/* All places are held by one tenant when another begins: before, it waited until one was through. */
static void test_a_tenant_with_all_places_makes_one_for_another(void **state)
{
	static const char *const names[] = {"f1", "f2", "f3", "f4"};
	struct fixture *f = *state;
	struct reply r = {0};
	char header[128], id[32], status[32] = "", path[96];

	for (int i = 0; i < 4; i++)
		put_batch(f, "anonymous", names[i], 5000, 16, LATER); /* over a minute at 250 requests a second */
	put_input(f, "010000000000", "small", 1, 1);                  /* the id of the key */
	start(f, 1 << 24, 8, true);
	make_key(f, header, id);
	assert_string_equal(id, "010000000000");
	for (int i = 0; i < 4; i++)
		for (int n = 0; n < 500 && completed(f, names[i]) == 0; n++)
			world_wait(&f->w, 20 * US_PER_MS);
	ask_with(&f->w, &r, f->p.api, "/v1/batches",
	         "{\"input_file_id\":\"file-small\",\"endpoint\":\"/v1/completions\",\"completion_window\":\"24h\"}",
	         header);
	assert_int_equal(r.status, 200);
	yyjson_doc *doc = reply_doc(&r);
	snprintf(path, sizeof(path), "/v1/batches/%s", yyjson_get_str(at(doc, "id")));
	yyjson_doc_free(doc);
	reply_fini(&r);
	const char *const headers[] = {header, NULL};
	for (int n = 0; n < 500 && strcmp(status, "completed") != 0; n++) {
		world_wait(&f->w, 20 * US_PER_MS);
		reply_start(&f->w, &r, "GET", f->p.api, path, NULL, headers);
		reply_wait(&r);
		doc = reply_doc(&r);
		snprintf(status, sizeof(status), "%s", yyjson_get_str(at(doc, "status")));
		yyjson_doc_free(doc);
		reply_fini(&r);
	}
	assert_string_equal(status, "completed");
	for (int i = 0; i < 4; i++)
		assert_in_range(completed(f, names[i]), 1, 4999); /* none of them is through */
}

/* ---- uploads ---------------------------------------------------------------------------------------- */

/* One that does not say how long it will be. */
struct chunked {
	struct http_call *call;
	int status;
};

static bool chunked_head(void *arg, struct http_call *call, int status)
{
	(void)call;
	((struct chunked *)arg)->status = status;
	return true;
}

static void chunked_done(void *arg, struct http_call *call, const struct error *err)
{
	(void)call;
	(void)err;
	((struct chunked *)arg)->call = NULL;
}

static void chunked_start(struct fixture *f, struct chunked *c)
{
	const struct http_header type = {STR("content-type"), STR("multipart/form-data; boundary=b")};
	char url[128];

	*c = (struct chunked){0};
	snprintf(url, sizeof(url), "%s/v1/files", f->p.api);
	const struct http_call_options options = {
	    .method = STR("POST"),
	    .url = str_from(url),
	    .headers = &type,
	    .header_count = 1,
	    .body_streams = true,
	    .body_length = -1,
	    .on_head = chunked_head,
	    .on_done = chunked_done,
	    .arg = c,
	};
	c->call = http_call_start(f->w.client, &options);
	http_call_write(c->call, STR("--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n"
	                             "--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"));
}

static uint64_t bytes_in(const char *folder)
{
	char command[128];
	unsigned long long bytes = 0;

	snprintf(command, sizeof(command), "cat %s/file-* 2>/dev/null | wc -c", folder);
	FILE *out = popen(command, "r");
	assert_non_null(out);
	assert_int_equal(fscanf(out, "%llu", &bytes), 1);
	pclose(out);
	return bytes;
}

static void test_uploads_of_unknown_length_stay_below_files_max(void **state)
{
	enum { FILES_MAX = 4 << 20, UPLOADS = 4, PIECES = 12, PIECE = 256 << 10 };
	struct fixture *f = *state;
	struct chunked c[UPLOADS];
	char *piece = mem_new(PIECE);
	uint64_t most = 0;
	int refused = 0;

	start(f, FILES_MAX, 2, false);
	memset(piece, 'x', PIECE);
	for (int i = 0; i < UPLOADS; i++)
		chunked_start(f, &c[i]);
	for (int n = 0; n < PIECES; n++) {
		for (int i = 0; i < UPLOADS; i++)
			if (c[i].call)
				http_call_write(c[i].call, (struct str){piece, PIECE});
		world_wait(&f->w, 50 * US_PER_MS);
		uint64_t now = bytes_in(f->folder);
		most = now > most ? now : most;
	}
	for (int i = 0; i < UPLOADS; i++) {
		if (c[i].call) {
			http_call_write(c[i].call, STR("\r\n--b--\r\n"));
			http_call_end(c[i].call);
		}
		for (int n = 0; n < 200 && c[i].call; n++)
			world_wait(&f->w, 20 * US_PER_MS);
		assert_null(c[i].call);
		assert_true(c[i].status == 507 || c[i].status == 200);
		refused += c[i].status == 507;
	}
	free(piece);
	assert_true(refused > 0);
	assert_in_range(most, 1, FILES_MAX);
}

static void test_who_floods_uploads_leaves_places(void **state)
{
	struct fixture *f = *state;
	struct chunked c[LIMIT_FILE_UPLOADS];
	int refused = 0;

	start(f, 1 << 24, 2, false);
	for (int i = 0; i < LIMIT_FILE_UPLOADS; i++)
		chunked_start(f, &c[i]);
	for (int n = 0; n < 100 && refused < 5; n++) {
		world_wait(&f->w, 20 * US_PER_MS);
		refused = 0;
		for (int i = 0; i < LIMIT_FILE_UPLOADS; i++)
			refused += c[i].status == 429;
	}
	for (int i = 0; i < LIMIT_FILE_UPLOADS; i++)
		if (c[i].call)
			http_call_cancel(c[i].call);
	assert_int_equal(refused, 5); /* the 11th came while 6 places were free */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_batch_whose_input_is_gone_fails_and_says_so),
	    TEST(test_an_expired_batch_ends_though_files_max_is_reached),
	    TEST(test_a_tenant_with_all_places_makes_one_for_another),
	    TEST(test_uploads_of_unknown_length_stay_below_files_max),
	    TEST(test_who_floods_uploads_leaves_places),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
