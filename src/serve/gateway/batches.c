/* SPDX-License-Identifier: Apache-2.0 */
/* How: records of all batches are in memory, newest first, and in the state. A tick looks for what can be gone on with:
 * a batch to be checked (one scan at a time), one to be worked on (RUNS_MAX at once; a tenant with fewer running comes
 * first, then who has waited since its last turn, then the older batch), one whose time is over. When all places are
 * taken and a tenant with none waits, one of a tenant with several makes place, or the one with the longest turn. Old
 * ones that are over go when a tenant has too many.
 */
#include "serve/gateway/batches.h"

#include "serve/gateway/fields.h"
#include "serve/gateway/offline.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SPACE "batch"
#define RUNS_MAX 4
#define WINDOW_S (24 * 3600)
#define OUTPUT_LIFE_S (30 * 24 * 3600)
#define AGAIN_US (5 * US_PER_S)
#define UNREAD_MAX 12           /* tries to read an input, a minute in all */
#define TURN_US (60 * US_PER_S) /* of a tenant's only batch, while others wait */
#define LIST_MOST 100
#define LIST_STANDARD 20

struct batch_scanning { /* a job; outlives the batches when the gateway goes */
	struct batch_scan *scan;
	struct batches *batches; /* NULL: they are gone */
	struct batch *batch;
};

static const char *const status_names[BATCH_STATES] = {"validating", "failed",     "in_progress", "completed",
                                                       "expired",    "cancelling", "cancelled"};

static const char *const endpoints[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"};

static bool endpoint_is_known(struct str endpoint)
{
	for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++)
		if (str_equal(endpoint, str_from(endpoints[i])))
			return true;
	return false;
}

bool batch_is_over(const struct batch *batch)
{
	return batch->status == BATCH_FAILED || batch->status == BATCH_COMPLETED || batch->status == BATCH_EXPIRED ||
	       batch->status == BATCH_CANCELLED;
}

/* ---- the state ------------------------------------------------------------------------------------------ */

int batch_save(struct batches *b, const struct batch *batch, struct error *err)
{
	struct buf v = {0};

	buf_append_str(&v, STR("{\"tenant\":"));
	buf_append_json(&v, str_from(batch->tenant));
	buf_printf(
	    &v,
	    ",\"input\":\"%s\",\"output\":\"%s\",\"error\":\"%s\",\"endpoint\":\"%s\",\"status\":\"%s\","
	    "\"created_us\":%lld,\"expires_s\":%lld,\"begun_s\":%lld,\"ended_s\":%lld,\"cancelling_s\":%lld,"
	    "\"output_life_s\":%lld,\"has_output\":%s,\"has_error\":%s,\"total\":%u,\"completed\":%u,\"failed\":%u",
	    batch->input, batch->output, batch->error, batch->endpoint, status_names[batch->status],
	    (long long)batch->created_us, (long long)batch->expires_s, (long long)batch->begun_s,
	    (long long)batch->ended_s, (long long)batch->cancelling_s, (long long)batch->output_life_s,
	    batch->has_output ? "true" : "false", batch->has_error ? "true" : "false", batch->total, batch->completed,
	    batch->failed);
	buf_printf(&v, ",\"metadata\":%s,\"errors\":%s}", batch->metadata ? batch->metadata : "null",
	           batch->errors ? batch->errors : "null");
	int rc = state_put(b->files->state, SPACE, str_from(batch->id), buf_str(&v), err);
	buf_fini(&v);
	return rc;
}

static void batch_free(struct batch *batch)
{
	free(batch->metadata);
	free(batch->errors);
	free(batch);
}

static char *text_of(yyjson_val *v)
{
	struct buf out = {0};

	if (!present(v))
		return NULL;
	append_val(v, &out);
	char *text = str_dup(buf_str(&out));
	buf_fini(&out);
	return text;
}

struct text_place {
	const char *key;
	size_t place, size;
};
struct number_place {
	const char *key;
	size_t place;
};
#define BATCH(member) offsetof(struct batch, member)

static const struct text_place texts[] = {
    {"tenant", BATCH(tenant), OFFLINE_TENANT_SIZE},
    {"input", BATCH(input), OFFLINE_ID_SIZE},
    {"output", BATCH(output), OFFLINE_ID_SIZE},
    {"error", BATCH(error), OFFLINE_ID_SIZE},
    {"endpoint", BATCH(endpoint), 32},
};
static const struct number_place numbers[] = {
    {"created_us", BATCH(created_us)}, {"expires_s", BATCH(expires_s)},       {"begun_s", BATCH(begun_s)},
    {"ended_s", BATCH(ended_s)},       {"cancelling_s", BATCH(cancelling_s)}, {"output_life_s", BATCH(output_life_s)},
};

static int batch_read(yyjson_val *root, struct batch *batch, struct error *err)
{
	struct str text = {0};
	int64_t counts[3] = {0};
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < sizeof(texts) / sizeof(texts[0]); i++) {
		rc = json_str(root, texts[i].key, &text, err);
		if (rc == 0 && !str_copy(text, (char *)batch + texts[i].place, texts[i].size))
			rc = error_set(err, E_CORRUPT, "%s is too long", texts[i].key);
	}
	for (size_t i = 0; rc == 0 && i < sizeof(numbers) / sizeof(numbers[0]); i++)
		rc = json_i64(root, numbers[i].key, 0, INT64_MAX, (int64_t *)(void *)((char *)batch + numbers[i].place),
		              err);
	if (rc < 0 || (rc = json_i64(root, "total", 0, UINT32_MAX, &counts[0], err)) < 0 ||
	    (rc = json_i64(root, "completed", 0, UINT32_MAX, &counts[1], err)) < 0 ||
	    (rc = json_i64(root, "failed", 0, UINT32_MAX, &counts[2], err)) < 0 ||
	    (rc = json_bool(root, "has_output", &batch->has_output, err)) < 0 ||
	    (rc = json_bool(root, "has_error", &batch->has_error, err)) < 0)
		return rc;
	batch->total = (uint32_t)counts[0];
	batch->completed = (uint32_t)counts[1];
	batch->failed = (uint32_t)counts[2];
	for (int i = 0; i < BATCH_STATES; i++)
		if (str_is(yyjson_obj_get(root, "status"), status_names[i]))
			batch->status = (enum batch_status)i;
	batch->metadata = text_of(yyjson_obj_get(root, "metadata"));
	batch->errors = text_of(yyjson_obj_get(root, "errors"));
	return 0;
}

static void on_stored(void *arg, struct str key, struct str value)
{
	struct batches *b = arg;
	struct batch *batch = NEW(struct batch);
	struct error err = {0};
	yyjson_doc *doc = NULL;
	int rc = json_parse(value, &doc, &err);

	if (rc == 0)
		rc = batch_read(yyjson_doc_get_root(doc), batch, &err);
	yyjson_doc_free(doc);
	if (rc < 0 || !str_copy(key, batch->id, sizeof(batch->id))) {
		log_error(ROOM, "the state of " STR_FMT " cannot be read and is passed over: %s", STR_ARG(key),
		          err.text);
		batch_free(batch);
		return;
	}
	struct batch **at = &b->first;
	while (*at && (*at)->created_us > batch->created_us)
		at = &(*at)->next;
	batch->next = *at;
	*at = batch;
	b->count++;
}

/* Who reads an input keeps it from being deleted. */
static void input_use(struct batches *b, const struct batch *batch, int by)
{
	struct file *file = files_find(b->files, str_from(batch->tenant), str_from(batch->input));

	if (file)
		file->users += (uint32_t)by;
}

int batches_open(struct batches *b, struct gateway *g, struct files *files, struct error *err)
{
	const struct http_server_options inside = {.handler = run_on_inside, .handler_arg = b, .room = ROOM};

	*b = (struct batches){.g = g, .files = files};
	int rc = state_each(files->state, SPACE, on_stored, b, err);
	if (rc < 0)
		return rc;
	for (struct batch *batch = b->first; batch; batch = batch->next)
		if (!batch_is_over(batch))
			input_use(b, batch, 1);
	b->inside = http_server_inside(g->loop, &inside);
	b->client =
	    http_client_new(g->loop, &(struct http_client_options){.inside = b->inside, .conns_per_origin = 1024});
	return 0;
}

void batches_close(struct batches *b)
{
	if (b->scanning)
		b->scanning->batches = NULL; /* the job's end frees it */
	while (b->first) {
		struct batch *batch = b->first;

		b->first = batch->next;
		run_stop(b, batch);
		batch_free(batch);
	}
	http_client_free(b->client);
	http_server_free(b->inside);
}

bool batches_writes(const struct gateway *g, const char *file_name)
{
	size_t len = strlen(file_name) > 6 ? strlen(file_name) - 6 : 0; /* .jsonl */

	for (const struct batch *batch = g->offline->batches.first; batch; batch = batch->next)
		if (!batch_is_over(batch) &&
		    (strncmp(file_name, batch->output, len) == 0 || strncmp(file_name, batch->error, len) == 0))
			return true;
	return false;
}

/* ---- going on ------------------------------------------------------------------------------------------- */

static int add_output(struct batches *b, const struct batch *batch, const char *id, const char *what, uint64_t bytes,
                      struct error *err)
{
	struct file file = {.bytes = bytes, .created_us = clock_wall_us()};

	strcpy(file.purpose, "batch_output");
	snprintf(file.name, sizeof(file.name), "%s_%s.jsonl", batch->id, what);
	memcpy(file.id, id, sizeof(file.id));
	memcpy(file.tenant, batch->tenant, sizeof(file.tenant));
	file.expires_s = file.created_us / US_PER_S + batch->output_life_s;
	return files_add(b->files, &file, err);
}

static void drop_file(struct batches *b, const char *id)
{
	char *path = files_path(b->files, id);

	unlink(path);
	free(path);
}

void batch_end(struct batches *b, struct batch *batch, enum batch_status status, uint64_t output_bytes,
               uint64_t error_bytes)
{
	struct error err = {0};

	batch->status = status;
	batch->ended_s = clock_wall_us() / US_PER_S;
	batch->has_output = output_bytes > 0;
	batch->has_error = error_bytes > 0;
	int rc = state_begin(b->files->state, &err);
	bool begun = rc == 0;
	if (rc == 0 && batch->has_output)
		rc = add_output(b, batch, batch->output, "output", output_bytes, &err);
	if (rc == 0 && batch->has_error)
		rc = add_output(b, batch, batch->error, "error", error_bytes, &err);
	if (rc == 0)
		rc = batch_save(b, batch, &err);
	if (rc == 0)
		rc = state_commit(b->files->state, &err);
	else if (begun)
		state_undo(b->files->state);
	if (rc < 0)
		log_error(ROOM, "the end of %s cannot be written, a restart will find it again: %s", batch->id,
		          err.text);
	if (!batch->has_output)
		drop_file(b, batch->output);
	if (!batch->has_error)
		drop_file(b, batch->error);
	input_use(b, batch, -1);
	log_info(ROOM, "%s of %s is %s: %u of %u requests answered, %u failed", batch->id, batch->tenant,
	         status_names[status], batch->completed, batch->total, batch->failed);
}

/* Nothing can be asked of it: not readable for too long, or nothing to write to until its time was over. */
static void give_up(struct batches *b, struct batch *batch, struct batch_scan *s, const struct error *err)
{
	uint64_t output = s->output_bytes, errors = s->error_bytes;
	bool cancelled = batch->status == BATCH_CANCELLING, unreadable = s->err.code != 0;
	struct buf text = {0};

	if (!cancelled && unreadable) {
		buf_append_str(&text, STR("[{\"code\":\"input_unreadable\",\"line\":null,\"message\":"));
		buf_append_json(&text, str_from(err->text));
		buf_append_str(&text, STR(",\"param\":\"input_file_id\"}]"));
		free(batch->errors);
		batch->errors = str_dup(buf_str(&text));
		buf_fini(&text);
	}
	if (!cancelled)
		batch->failed = batch->total - batch->completed;
	log_warn(ROOM, "%s is given up: %s", batch->id, err->text);
	batch_scan_free(s);
	batch_end(b, batch, cancelled ? BATCH_CANCELLED : unreadable ? BATCH_FAILED : BATCH_EXPIRED, output, errors);
}

/* What a scan found out. */
static void scanned(struct batches *b, struct batch *batch, struct batch_scan *s)
{
	struct error err = s->err;

	if (!err.code && s->wrong_count) {
		struct buf errors = {0};

		buf_printf(&errors, "[" STR_FMT "]", STR_ARG(buf_str(&s->wrong)));
		batch->errors = str_dup(buf_str(&errors));
		buf_fini(&errors);
		batch_scan_free(s);
		batch_end(b, batch, BATCH_FAILED, 0, 0);
		return;
	}
	if (!err.code) {
		batch->total = s->count;
		batch->completed = s->completed;
		batch->failed = s->failed;
		batch->unread = 0;
		bool cancelled = batch->status == BATCH_CANCELLING;

		if (cancelled) {
			uint64_t output = s->output_bytes, errors = s->error_bytes;

			batch_scan_free(s);
			batch_end(b, batch, BATCH_CANCELLED, output, errors);
			return;
		}
		if (batch->status == BATCH_VALIDATING) {
			batch->status = BATCH_IN_PROGRESS;
			batch->begun_s = clock_wall_us() / US_PER_S;
			batch_save(b, batch, &err);
		}
		if (!err.code && b->runs >= RUNS_MAX) {
			batch_scan_free(s); /* it is fine, and read again when its turn comes */
			return;
		}
		if (!err.code && run_start(b, batch, s, &err) == 0) {
			run_pump(b);
			return;
		}
	}
	bool late = clock_wall_us() / US_PER_S >= batch->expires_s;
	bool hopeless = s->err.code && (s->gone || ++batch->unread >= UNREAD_MAX);

	if (hopeless || late || (s->err.code && batch->status == BATCH_CANCELLING)) {
		give_up(b, batch, s, &err);
		return;
	}
	log_warn(ROOM, "%s cannot be worked on now: %s", batch->id, err.text);
	batch->again_us = loop_now_us(b->g->loop) + AGAIN_US;
	batch_scan_free(s);
}

static void scan_work(void *arg)
{
	batch_scan_work(((struct batch_scanning *)arg)->scan);
}

static void scan_done(void *arg)
{
	struct batch_scanning job = *(struct batch_scanning *)arg;

	free(arg);
	if (!job.batches) {
		batch_scan_free(job.scan);
		return;
	}
	job.batches->scanning = NULL;
	scanned(job.batches, job.batch, job.scan);
	batches_tick(job.batches);
}

static void scan_start(struct batches *b, struct batch *batch)
{
	struct batch_scan *s = NEW(struct batch_scan);

	s->input = files_path(b->files, batch->input);
	s->output = files_path(b->files, batch->output);
	s->errors = files_path(b->files, batch->error);
	memcpy(s->endpoint, batch->endpoint, sizeof(s->endpoint));
	b->scanning = NEW(struct batch_scanning);
	*b->scanning = (struct batch_scanning){.scan = s, .batches = b, .batch = batch};
	loop_job(b->g->loop, scan_work, scan_done, b->scanning);
}

static uint32_t runs_of(const struct batches *b, const char *tenant)
{
	uint32_t count = 0;

	for (const struct batch *batch = b->first; batch; batch = batch->next)
		count += batch->run && strcmp(batch->tenant, tenant) == 0;
	return count;
}

/* One that waits for a place: of a tenant with the fewest runs, since its last turn. */
static bool goes_before(const struct batch *one, uint32_t one_runs, const struct batch *two, uint32_t two_runs)
{
	if (!two || one_runs != two_runs)
		return !two || one_runs < two_runs;
	return one->yielded_us <= two->yielded_us;
}

/* The list is newest first: of equal ones the later in it is older. */
static struct batch *next_to_scan(const struct batches *b, int64_t now_us)
{
	struct batch *found = NULL;
	uint32_t fewest = 0;

	for (struct batch *batch = b->first; batch; batch = batch->next) {
		if (batch_is_over(batch) || batch->run || now_us < batch->again_us)
			continue;
		if (batch->status != BATCH_IN_PROGRESS) { /* quick, and somebody may wait for it */
			return batch;
		} else if (b->runs < RUNS_MAX) {
			uint32_t runs = runs_of(b, batch->tenant);

			if (goes_before(batch, runs, found, fewest)) {
				found = batch;
				fewest = runs;
			}
		}
	}
	return found;
}

/* Somebody of a tenant without any waits while all places are taken: whose turn is over? */
static struct batch *next_to_yield(const struct batches *b, int64_t now_us)
{
	struct batch *longest = NULL;
	bool waits = false;

	if (b->runs < RUNS_MAX)
		return NULL;
	for (const struct batch *batch = b->first; batch && !waits; batch = batch->next)
		waits = !batch->run && batch->status == BATCH_IN_PROGRESS && now_us >= batch->again_us &&
		        runs_of(b, batch->tenant) == 0;
	for (struct batch *batch = b->first; waits && batch; batch = batch->next) {
		if (!batch->run)
			continue;
		if (run_since(batch) == INT64_MAX)
			return NULL; /* one makes place already */
		if (runs_of(b, batch->tenant) > 1)
			return batch; /* the newest of that tenant */
		if (now_us - run_since(batch) >= TURN_US && (!longest || run_since(batch) < run_since(longest)))
			longest = batch;
	}
	return longest;
}

void batches_tick(struct batches *b)
{
	int64_t now = loop_now_us(b->g->loop);
	struct batch *next;

	for (struct batch *batch = b->first; batch; batch = batch->next)
		if (batch->run)
			run_check(b, batch, now);
	if (b->g->draining)
		return;
	if ((next = next_to_yield(b, now)) != NULL)
		run_yield(next);
	if (!b->scanning && (next = next_to_scan(b, now)) != NULL)
		scan_start(b, next);
	run_pump(b);
}

/* ---- what clients see -------------------------------------------------------------------------------------- */

static void put_time(struct buf *out, const char *key, int64_t s)
{
	if (s > 0)
		buf_printf(out, ",\"%s\":%lld", key, (long long)s);
	else
		buf_printf(out, ",\"%s\":null", key);
}

static void put_id(struct buf *out, const char *key, const char *id, bool there)
{
	if (there)
		buf_printf(out, ",\"%s\":\"%s\"", key, id);
	else
		buf_printf(out, ",\"%s\":null", key);
}

static void batch_format(const struct batch *batch, struct buf *out)
{
	enum batch_status s = batch->status;

	buf_printf(out, "{\"id\":\"%s\",\"object\":\"batch\",\"endpoint\":\"%s\",\"input_file_id\":\"%s\"", batch->id,
	           batch->endpoint, batch->input);
	buf_printf(out, ",\"completion_window\":\"24h\",\"status\":\"%s\",\"errors\":", status_names[s]);
	if (batch->errors)
		buf_printf(out, "{\"object\":\"list\",\"data\":%s}", batch->errors);
	else
		buf_append_str(out, STR("null"));
	put_id(out, "output_file_id", batch->output, batch->has_output);
	put_id(out, "error_file_id", batch->error, batch->has_error);
	put_time(out, "created_at", batch->created_us / US_PER_S);
	put_time(out, "in_progress_at", batch->begun_s);
	put_time(out, "expires_at", batch->expires_s);
	put_time(out, "finalizing_at", s == BATCH_COMPLETED ? batch->ended_s : 0);
	put_time(out, "completed_at", s == BATCH_COMPLETED ? batch->ended_s : 0);
	put_time(out, "failed_at", s == BATCH_FAILED ? batch->ended_s : 0);
	put_time(out, "expired_at", s == BATCH_EXPIRED ? batch->ended_s : 0);
	put_time(out, "cancelling_at", batch->cancelling_s);
	put_time(out, "cancelled_at", s == BATCH_CANCELLED ? batch->ended_s : 0);
	buf_printf(out, ",\"request_counts\":{\"total\":%u,\"completed\":%u,\"failed\":%u},\"metadata\":%s}",
	           batch->total, batch->completed, batch->failed, batch->metadata ? batch->metadata : "null");
}

static void respond_batch(struct http_exchange *x, const struct batch *batch)
{
	struct buf out = {0};

	batch_format(batch, &out);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static struct batch **mine(const struct batches *b, struct str tenant, size_t *ret_count)
{
	struct batch **all = mem_new((b->count + 1) * sizeof(struct batch *));

	*ret_count = 0;
	for (struct batch *batch = b->first; batch; batch = batch->next)
		if (str_equal(str_from(batch->tenant), tenant))
			all[(*ret_count)++] = batch;
	return all;
}

static void list(struct batches *b, struct http_exchange *x, struct str tenant)
{
	struct offline_list l;
	size_t count;

	if (!offline_list_begin(&l, x, LIST_MOST, LIST_STANDARD))
		return;
	struct batch **all = mine(b, tenant, &count);
	for (size_t i = 0; i < count && !l.more; i++) {
		const struct batch *batch = all[l.oldest_first ? count - 1 - i : i];
		if (offline_list_takes(&l, batch->id))
			batch_format(batch, &l.out);
	}
	free(all);
	offline_list_end(&l, x);
}

/* ---- a new one ------------------------------------------------------------------------------------------------ */

/* OpenAI: at most 16 pairs, keys up to 64 bytes and values, which are strings, up to 512. */
static int read_metadata(yyjson_val *root, struct batch *batch, struct fault *f)
{
	yyjson_val *all = yyjson_obj_get(root, "metadata"), *key;
	yyjson_obj_iter it;

	if (!present(all))
		return 0;
	if (!yyjson_is_obj(all) || yyjson_obj_size(all) > 16)
		return refuse(f, "metadata", "metadata must be an object of at most 16 pairs");
	yyjson_obj_iter_init(all, &it);
	while ((key = yyjson_obj_iter_next(&it)) != NULL) {
		yyjson_val *value = yyjson_obj_iter_get_val(key);

		if (yyjson_get_len(key) > 64 || !yyjson_is_str(value) || yyjson_get_len(value) > 512)
			return refuse(f, "metadata",
			              "keys of metadata have at most 64 bytes, values are strings of at most 512");
	}
	batch->metadata = text_of(all);
	return 0;
}

static int read_output_life(yyjson_val *root, struct batch *batch, struct fault *f)
{
	yyjson_val *life = NULL;
	int rc = json_obj(root, "output_expires_after", &life, &f->err);

	batch->output_life_s = OUTPUT_LIFE_S;
	if (rc == 0 && life)
		rc = json_i64(life, "seconds", 3600, OUTPUT_LIFE_S, &batch->output_life_s, &f->err);
	return rc < 0 ? blame(f, "output_expires_after") : 0;
}

static int read_new(struct batches *b, yyjson_val *root, struct batch *batch, struct fault *f)
{
	yyjson_val *input = yyjson_obj_get(root, "input_file_id"), *endpoint = yyjson_obj_get(root, "endpoint");
	struct file *file;

	if (!yyjson_is_obj(root))
		return refuse(f, "", "the request body must be a JSON object");
	if (!yyjson_is_str(input))
		return refuse(f, "input_file_id", "input_file_id must be the id of a file uploaded for purpose batch");
	if (!yyjson_is_str(endpoint) || !endpoint_is_known(val_str(endpoint)))
		return refuse(f, "endpoint",
		              "endpoint must be /v1/chat/completions, /v1/completions or /v1/embeddings");
	if (!str_is(yyjson_obj_get(root, "completion_window"), "24h"))
		return refuse(f, "completion_window", "completion_window must be \"24h\"");
	file = files_find(b->files, str_from(batch->tenant), val_str(input));
	if (!file)
		return refuse(f, "input_file_id", "there is no such file of yours on this node; upload it here first");
	if (strcmp(file->purpose, "batch") != 0)
		return refuse(f, "input_file_id", "the file was not uploaded for purpose batch");
	memcpy(batch->input, file->id, sizeof(batch->input));
	str_copy(val_str(endpoint), batch->endpoint, sizeof(batch->endpoint));
	int rc = read_metadata(root, batch, f);
	return rc == 0 ? read_output_life(root, batch, f) : rc;
}

/* Makes room for one more of the tenant's: the oldest that is over goes. */
static int make_room(struct batches *b, const char *tenant, struct fault *f)
{
	struct batch **over = NULL, *old;
	struct error err;
	size_t count = 0;

	for (struct batch **at = &b->first; *at; at = &(*at)->next)
		if (strcmp((*at)->tenant, tenant) == 0) {
			count++;
			over = batch_is_over(*at) ? at : over;
		}
	if (count < LIMIT_BATCHES)
		return 0;
	if (!over)
		return error_set(&f->err, E_BUSY, "you have %d batches that are not over, as many as a tenant may",
		                 LIMIT_BATCHES);
	old = *over;
	if (state_delete(b->files->state, SPACE, str_from(old->id), &err) < 0)
		log_error(ROOM, "batch %s cannot be forgotten: %s", old->id, err.text);
	*over = old->next;
	b->count--;
	batch_free(old);
	return 0;
}

struct asked {
	struct gateway *g;
	char tenant[OFFLINE_TENANT_SIZE];
};

static struct batch *create(struct batches *b, const char *tenant, struct str body, struct fault *f)
{
	struct batch *batch = NEW(struct batch);
	yyjson_doc *doc = NULL;

	memcpy(batch->tenant, tenant, sizeof(batch->tenant));
	int rc = json_parse(body, &doc, &f->err);
	if (rc == 0)
		rc = read_new(b, yyjson_doc_get_root(doc), batch, f);
	yyjson_doc_free(doc);
	if (rc == 0)
		rc = make_room(b, tenant, f);
	if (rc == 0)
		rc = files_room(b->files, str_from(tenant), 0, &f->err);
	batch->created_us = clock_wall_us();
	batch->expires_s = batch->created_us / US_PER_S + WINDOW_S;
	offline_id("batch_", batch->id);
	offline_id("file-", batch->output);
	offline_id("file-", batch->error);
	if (rc == 0)
		rc = batch_save(b, batch, &f->err);
	if (rc < 0) {
		batch_free(batch);
		return NULL;
	}
	batch->next = b->first;
	b->first = batch;
	b->count++;
	input_use(b, batch, 1);
	return batch;
}

static void on_create(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct asked *a = arg;
	struct fault fault = {0};
	struct batch *batch = NULL;

	if (err) {
		fault.err = *err;
		fault.status = err->code == E_TIMEOUT ? 408 : 0;
	} else {
		batch = create(&a->g->offline->batches, a->tenant, body, &fault);
	}
	if (!batch) {
		offline_fail(x, &fault);
		return;
	}
	respond_batch(x, batch);
	batches_tick(&a->g->offline->batches);
}

void batches_collection(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	(void)id;
	if (!str_equal(http_method(x), STR("POST"))) {
		list(&g->offline->batches, x, tenant);
		return;
	}
	struct asked *a = http_alloc(x, sizeof(*a));
	a->g = g;
	str_copy(tenant, a->tenant, sizeof(a->tenant));
	http_body_collect(x, LIMIT_SMALL_BODY, on_create, a);
}

static struct batch *find_or_fail(struct batches *b, struct http_exchange *x, struct str tenant, struct str id)
{
	struct fault fault = {.param = "batch_id"};

	for (struct batch *batch = b->first; batch; batch = batch->next)
		if (str_equal(str_from(batch->id), id) && str_equal(str_from(batch->tenant), tenant))
			return batch;
	error_set(&fault.err, E_NOTFOUND,
	          "There is no batch '%.*s' of yours on this node; batches stay on the node that took them",
	          (int)(id.len < 64 ? id.len : 64), id.base);
	respond_fault(x, NULL, &fault);
	return NULL;
}

void batches_one(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	struct batch *batch = find_or_fail(&g->offline->batches, x, tenant, id);

	if (batch)
		respond_batch(x, batch);
}

void batches_cancel(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	struct batches *b = &g->offline->batches;
	struct batch *batch = find_or_fail(b, x, tenant, id);
	struct fault fault = {0};

	if (!batch)
		return;
	if (batch_is_over(batch)) {
		error_set(&fault.err, E_CONFLICT, "batch %s is %s already", batch->id, status_names[batch->status]);
		respond_fault(x, NULL, &fault);
		return;
	}
	if (batch->status != BATCH_CANCELLING) {
		enum batch_status was = batch->status;

		batch->status = BATCH_CANCELLING;
		batch->cancelling_s = clock_wall_us() / US_PER_S;
		if (batch_save(b, batch, &fault.err) < 0) {
			batch->status = was;
			offline_fail(x, &fault);
			return;
		}
	}
	respond_batch(x, batch);
	batches_tick(b);
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

int offline_open(struct gateway *g, struct str folder, uint64_t bytes_max, struct error *err)
{
	g->offline = NEW(struct offline);
	int rc = files_open(&g->offline->files, g, folder, bytes_max, err);
	if (rc == 0)
		rc = batches_open(&g->offline->batches, g, &g->offline->files, err);
	if (rc == 0)
		files_sweep(&g->offline->files);
	return rc;
}

void offline_close(struct gateway *g)
{
	if (!g->offline)
		return;
	batches_close(&g->offline->batches);
	files_close(&g->offline->files);
	free(g->offline);
	g->offline = NULL;
}

void offline_tick(struct gateway *g)
{
	if (!g->offline)
		return;
	batches_tick(&g->offline->batches);
	files_tick(&g->offline->files);
}

struct files *offline_files(const struct gateway *g)
{
	return &g->offline->files;
}
