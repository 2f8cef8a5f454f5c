/* SPDX-License-Identifier: Apache-2.0 */
/* How: all that is known of the files is in memory, in one list, newest first; the state is read at the start and
 * written at each change. */
#include "serve/gateway/files.h"

#include "base/file.h"
#include "serve/gateway/fields.h"
#include "serve/gateway/offline.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SPACE "file"
#define LIST_MOST 10000

void offline_id(const char *prefix, char ret_id[static OFFLINE_ID_SIZE])
{
	uint8_t random[12];
	char hex[25];

	rng_secret(random, sizeof(random));
	hex_encode(random, sizeof(random), hex);
	snprintf(ret_id, OFFLINE_ID_SIZE, "%s%s", prefix, hex);
}

/* ---- the state ------------------------------------------------------------------------------------- */

static int take(struct files *f, struct str id, yyjson_val *root, struct error *err)
{
	struct file *file = NEW(struct file);
	struct str tenant = {0}, name = {0}, purpose = {0};
	int64_t bytes = 0;
	int rc = json_str(root, "tenant", &tenant, err);

	if (rc == 0)
		rc = json_str(root, "name", &name, err);
	if (rc == 0)
		rc = json_str(root, "purpose", &purpose, err);
	if (rc == 0)
		rc = json_i64(root, "bytes", 0, INT64_MAX, &bytes, err);
	if (rc == 0)
		rc = json_i64(root, "created_us", 0, INT64_MAX, &file->created_us, err);
	if (rc == 0)
		rc = json_i64(root, "expires_s", 0, INT64_MAX, &file->expires_s, err);
	if (rc == 0 &&
	    (!str_copy(id, file->id, sizeof(file->id)) || !str_copy(tenant, file->tenant, sizeof(file->tenant)) ||
	     !str_copy(name, file->name, sizeof(file->name)) ||
	     !str_copy(purpose, file->purpose, sizeof(file->purpose))))
		rc = error_set(err, E_CORRUPT, "a name is too long");
	if (rc < 0) {
		free(file);
		return rc;
	}
	file->bytes = (uint64_t)bytes;
	file->next = f->first;
	f->first = file;
	f->count++;
	f->bytes += file->bytes;
	return 0;
}

static void on_stored(void *arg, struct str key, struct str value)
{
	struct files *f = arg;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	int rc = json_parse(value, &doc, &err);

	if (rc == 0)
		rc = take(f, key, yyjson_doc_get_root(doc), &err);
	if (rc < 0)
		log_error(ROOM, "the state of file " STR_FMT " cannot be read and is passed over: %s", STR_ARG(key),
		          err.text);
	yyjson_doc_free(doc);
}

static int newer(const void *a, const void *b)
{
	const struct file *const *one = a, *const *two = b;

	return (*one)->created_us < (*two)->created_us ? 1 : (*one)->created_us > (*two)->created_us ? -1 : 0;
}

static void sort(struct files *f)
{
	struct file **all = mem_new((f->count + 1) * sizeof(*all));
	size_t n = 0;

	for (struct file *file = f->first; file; file = file->next)
		all[n++] = file;
	qsort(all, n, sizeof(*all), newer);
	f->first = NULL;
	while (n-- > 0) {
		all[n]->next = f->first;
		f->first = all[n];
	}
	free(all);
}

static bool known(const struct files *f, const char *name)
{
	for (const struct file *file = f->first; file; file = file->next)
		if (strncmp(name, file->id, strlen(file->id)) == 0 && strcmp(name + strlen(file->id), ".jsonl") == 0)
			return true;
	return batches_writes(f->g, name);
}

void files_sweep(struct files *f)
{
	DIR *dir = opendir(f->folder);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)) != NULL)
		if (strncmp(entry->d_name, "file-", 5) == 0 && !known(f, entry->d_name))
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
}

int files_open(struct files *f, struct gateway *g, struct str folder, uint64_t bytes_max, struct error *err)
{
	*f = (struct files){.g = g, .folder = str_dup(folder), .bytes_max = bytes_max};
	int rc = folder_make(f->folder, 0700, err);
	if (rc == 0) {
		char *path = file_join(folder, "state.db");

		rc = state_open(str_from(path), &f->state, err);
		free(path);
	}
	if (rc == 0)
		rc = state_each(f->state, SPACE, on_stored, f, err);
	if (rc == 0)
		sort(f);
	return rc;
}

void files_close(struct files *f)
{
	files_uploads_stop(f);
	while (f->first) {
		struct file *file = f->first;

		f->first = file->next;
		free(file);
	}
	state_close(f->state);
	free(f->folder);
}

char *files_path(const struct files *f, const char *id)
{
	char name[OFFLINE_ID_SIZE + 8];

	snprintf(name, sizeof(name), "%s.jsonl", id);
	return file_join(str_from(f->folder), name);
}

struct file *files_find(const struct files *f, struct str tenant, struct str id)
{
	for (struct file *file = f->first; file; file = file->next)
		if (str_equal(str_from(file->id), id) && str_equal(str_from(file->tenant), tenant))
			return file;
	return NULL;
}

int files_room(const struct files *f, struct str tenant, uint64_t bytes, struct error *err)
{
	uint32_t uploads;
	uint64_t own = bytes + files_uploading(f, tenant, &uploads);
	size_t count = 1;

	for (const struct file *file = f->first; file; file = file->next)
		if (str_equal(str_from(file->tenant), tenant)) {
			own += file->bytes;
			count++;
		}
	if (count > LIMIT_FILES)
		return error_set(err, E_BUSY, "you have %d files, as many as a tenant may; delete some", LIMIT_FILES);
	if (own > LIMIT_FILES_BYTES)
		return error_set(err, E_LIMIT, "your files would hold more than %d bytes; delete some",
		                 LIMIT_FILES_BYTES);
	if (f->bytes + f->uploading + bytes > f->bytes_max)
		return error_set(err, E_NOSPACE,
		                 "the files of all clients of this node would hold more than the %llu bytes "
		                 "it has for them (files_max); delete some, or ask its operator",
		                 (unsigned long long)f->bytes_max);
	return 0;
}

int files_add(struct files *f, const struct file *file, struct error *err)
{
	struct buf value = {0};

	buf_append_str(&value, STR("{\"tenant\":"));
	buf_append_json(&value, str_from(file->tenant));
	buf_append_str(&value, STR(",\"name\":"));
	buf_append_json(&value, str_from(file->name));
	buf_printf(&value, ",\"purpose\":\"%s\",\"bytes\":%llu,\"created_us\":%lld,\"expires_s\":%lld}", file->purpose,
	           (unsigned long long)file->bytes, (long long)file->created_us, (long long)file->expires_s);
	int rc = state_put(f->state, SPACE, str_from(file->id), buf_str(&value), err);
	buf_fini(&value);
	if (rc < 0)
		return rc;
	struct file *own = NEW(struct file);
	*own = *file;
	own->users = 0;
	own->next = f->first;
	f->first = own;
	f->count++;
	f->bytes += own->bytes;
	return 0;
}

void files_remove(struct files *f, struct file *file)
{
	struct file **at = &f->first;
	char *path = files_path(f, file->id);
	struct error err = {0};

	if (state_delete(f->state, SPACE, str_from(file->id), &err) < 0)
		log_error(ROOM, "file %s cannot be forgotten: %s", file->id, err.text);
	unlink(path);
	free(path);
	while (*at != file)
		at = &(*at)->next;
	*at = file->next;
	f->count--;
	f->bytes -= file->bytes;
	free(file);
}

void files_tick(struct files *f)
{
	int64_t now = clock_wall_us() / US_PER_S;

	for (struct file *file = f->first, *next; file; file = next) {
		next = file->next;
		if (file->expires_s && now >= file->expires_s && file->users == 0)
			files_remove(f, file);
	}
}

/* ---- what clients see --------------------------------------------------------------------------------- */

void offline_fail(struct http_exchange *x, const struct fault *fault)
{
	struct fault told = *fault;
	int status = error_http_status(told.err.code);

	if ((status == 429 || status == 503) && told.retry_after_s == 0)
		told.retry_after_s = 5;
	respond_fault(x, NULL, &told);
}

static int read_page(struct offline_list *l, struct http_exchange *x, int64_t most, struct fault *fault)
{
	struct str limit, order;

	if (http_query(x, "limit", &limit) && (str_to_i64(limit, &l->limit) < 0 || l->limit < 1 || l->limit > most))
		return refuse(fault, "limit", "limit must be a whole number of 1 to %lld", (long long)most);
	if (http_query(x, "order", &order)) {
		l->oldest_first = str_equal(order, STR("asc"));
		if (!l->oldest_first && !str_equal(order, STR("desc")))
			return refuse(fault, "order", "order must be asc or desc");
	}
	http_query(x, "after", &l->after);
	return 0;
}

bool offline_list_begin(struct offline_list *l, struct http_exchange *x, int64_t most, int64_t standard)
{
	struct fault fault = {0};

	*l = (struct offline_list){.limit = standard};
	if (read_page(l, x, most, &fault) < 0) {
		offline_fail(x, &fault);
		return false;
	}
	l->begun = l->after.len == 0;
	buf_append_str(&l->out, STR("{\"object\":\"list\",\"data\":["));
	return true;
}

bool offline_list_takes(struct offline_list *l, const char *id)
{
	if (!l->begun) {
		l->begun = str_equal(str_from(id), l->after);
		return false;
	}
	l->more = l->told == l->limit;
	if (l->more)
		return false;
	buf_append(&l->out, ",", l->told++ > 0);
	l->first = l->first ? l->first : id;
	l->last = id;
	return true;
}

static void put_id(struct buf *out, const char *key, const char *id)
{
	buf_append_str(out, str_from(key));
	if (id)
		buf_append_json(out, str_from(id));
	else
		buf_append_str(out, STR("null"));
}

void offline_list_end(struct offline_list *l, struct http_exchange *x)
{
	put_id(&l->out, "],\"first_id\":", l->first);
	put_id(&l->out, ",\"last_id\":", l->last);
	buf_printf(&l->out, ",\"has_more\":%s}", l->more ? "true" : "false");
	http_respond(x, 200, "application/json", buf_str(&l->out));
	buf_fini(&l->out);
}

void file_format(const struct file *file, struct buf *out)
{
	buf_printf(out, "{\"id\":\"%s\",\"object\":\"file\",\"bytes\":%llu,\"created_at\":%lld,\"filename\":", file->id,
	           (unsigned long long)file->bytes, (long long)(file->created_us / US_PER_S));
	buf_append_json(out, str_from(file->name));
	buf_printf(
	    out, ",\"purpose\":\"%s\",\"status\":\"processed\",\"status_details\":null,\"expires_at\":", file->purpose);
	if (file->expires_s)
		buf_printf(out, "%lld}", (long long)file->expires_s);
	else
		buf_append_str(out, STR("null}"));
}

static struct file **mine(const struct files *f, struct str tenant, struct str purpose, size_t *ret_count)
{
	struct file **all = mem_new((f->count + 1) * sizeof(*all));

	*ret_count = 0;
	for (struct file *file = f->first; file; file = file->next)
		if (str_equal(str_from(file->tenant), tenant) &&
		    (!purpose.len || str_equal(str_from(file->purpose), purpose)))
			all[(*ret_count)++] = file;
	return all;
}

static void list(struct files *f, struct http_exchange *x, struct str tenant)
{
	struct offline_list l;
	struct str purpose = {0};
	size_t count;

	if (!offline_list_begin(&l, x, LIST_MOST, LIST_MOST))
		return;
	http_query(x, "purpose", &purpose);
	struct file **all = mine(f, tenant, purpose, &count);
	for (size_t i = 0; i < count && !l.more; i++) {
		const struct file *file = all[l.oldest_first ? count - 1 - i : i];
		if (offline_list_takes(&l, file->id))
			file_format(file, &l.out);
	}
	free(all);
	offline_list_end(&l, x);
}

static struct file *find_or_fail(struct files *f, struct http_exchange *x, struct str tenant, struct str id)
{
	struct file *file = files_find(f, tenant, id);
	struct fault fault = {.param = "file_id"};

	if (file)
		return file;
	error_set(&fault.err, E_NOTFOUND,
	          "There is no file '%.*s' of yours on this node; files stay on the node that took them",
	          (int)(id.len < 64 ? id.len : 64), id.base);
	respond_fault(x, NULL, &fault);
	return NULL;
}

void files_collection(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	struct files *f = offline_files(g);

	(void)id;
	if (str_equal(http_method(x), STR("POST")))
		files_upload(f, x, tenant);
	else
		list(f, x, tenant);
}

static void delete (struct files *f, struct http_exchange *x, struct file *file)
{
	struct fault fault = {0};
	struct buf out = {0};

	if (file->users) {
		error_set(&fault.err, E_CONFLICT, "file %s is being read by a batch; cancel the batch, or wait",
		          file->id);
		respond_fault(x, NULL, &fault);
		return;
	}
	buf_printf(&out, "{\"id\":\"%s\",\"object\":\"file\",\"deleted\":true}", file->id);
	files_remove(f, file);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

void files_one(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	struct files *f = offline_files(g);
	struct file *file = find_or_fail(f, x, tenant, id);
	struct buf out = {0};

	if (!file)
		return;
	if (str_equal(http_method(x), STR("DELETE"))) {
		delete (f, x, file);
		return;
	}
	file_format(file, &out);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

void files_content(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id)
{
	struct files *f = offline_files(g);
	struct file *file = find_or_fail(f, x, tenant, id);
	struct fault fault = {0};

	if (!file)
		return;
	char *path = files_path(f, file->id);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int saved = errno;
	free(path);
	if (fd >= 0) {
		http_respond_file(x, 200, "application/jsonl", fd, 0, file->bytes);
		return;
	}
	error_errno(&fault.err, saved, "file %s cannot be read", file->id);
	respond_fault(x, NULL, &fault);
}
