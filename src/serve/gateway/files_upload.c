/* SPDX-License-Identifier: Apache-2.0 */
/* How: the body streams through the multipart reader into a sink; when too much waits for the disk, reading pauses. A
 * file becomes known once all of it is durable. Room is kept while it comes, whether its length was told or not, so
 * that files_max holds on the disk, too. Places for uploads are shared as those of queues are (core/admission.h): who
 * floods never has all. Fields: purpose ("batch"), expires_after[anchor] ("created_at") and
 * expires_after[seconds], file. OpenAI API reference, "Upload file".
 */
#include "serve/gateway/files.h"
#include "serve/gateway/multipart.h"
#include "serve/gateway/offline.h"
#include "serve/gateway/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define WAITING_MAX (1u << 20) /* bytes that wait for the disk before the client must */
#define FORM_MAX 65536         /* bytes of all that is not the file */
#define HELD_STEP (1u << 20)   /* an upload of unknown length asks for room in such steps */
#define TENANT_SHARE 2         /* a tenant may hold so many times what places are free */
#define EXPIRY_LEAST_S 3600
#define EXPIRY_MOST_S 2592000

struct upload {
	struct upload *prev, *next;
	struct files *files;
	struct http_exchange *x;
	struct multipart form;
	struct sink *sink;
	struct file file;
	char *path;
	uint64_t bytes, held; /* held: room kept for it, in files->uploading */
	char field[32];
	struct buf value;
	bool in_file, has_file, paused, whole;
	int64_t expires_in_s;
	struct fault fault;
};

uint64_t files_uploading(const struct files *f, struct str tenant, uint32_t *ret_count)
{
	uint64_t bytes = 0;

	*ret_count = 0;
	for (const struct upload *u = f->uploads; u; u = u->next)
		if (str_equal(str_from(u->file.tenant), tenant)) {
			bytes += u->held;
			++*ret_count;
		}
	return bytes;
}

static void hold(struct upload *u, uint64_t bytes)
{
	u->files->uploading += bytes - u->held;
	u->held = bytes;
}

static void upload_free(struct upload *u, bool keep)
{
	struct files *f = u->files;

	hold(u, 0);
	if (u->prev)
		u->prev->next = u->next;
	else
		f->uploads = u->next;
	if (u->next)
		u->next->prev = u->prev;
	f->upload_count--;
	sink_free(u->sink);
	if (u->path && !keep)
		unlink(u->path);
	free(u->path);
	multipart_fini(&u->form);
	buf_fini(&u->value);
	free(u);
}

static void on_gone(void *arg)
{
	upload_free(arg, false);
}

static void fail(struct upload *u)
{
	struct http_exchange *x = u->x;
	struct fault fault = u->fault;

	http_watch(x, NULL, NULL, NULL);
	upload_free(u, false);
	offline_fail(x, &fault);
}

static void finish(struct upload *u)
{
	struct http_exchange *x = u->x;
	struct buf out = {0};

	hold(u, 0); /* from here on it counts as a file, or not at all */
	u->file.bytes = sink_size(u->sink);
	u->file.created_us = clock_wall_us();
	u->file.expires_s = u->expires_in_s ? u->file.created_us / US_PER_S + u->expires_in_s : 0;
	if (files_room(u->files, str_from(u->file.tenant), u->file.bytes, &u->fault.err) < 0 ||
	    files_add(u->files, &u->file, &u->fault.err) < 0) {
		fail(u);
		return;
	}
	file_format(&u->file, &out);
	http_watch(x, NULL, NULL, NULL);
	upload_free(u, true);
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

static void on_written(void *arg)
{
	struct upload *u = arg;
	const struct error *err = sink_error(u->sink);

	if (err) {
		u->fault.err = *err;
		fail(u);
	} else if (u->whole && sink_waiting(u->sink) == 0) {
		finish(u);
	} else if (u->paused && sink_waiting(u->sink) < WAITING_MAX) {
		u->paused = false;
		http_body_resume(u->x);
	}
}

/* ---- the form --------------------------------------------------------------------------------------------- */

static int begin_file(struct upload *u, struct str filename, struct error *err)
{
	if (u->has_file)
		return error_set(err, E_INVAL, "send one file");
	u->in_file = u->has_file = true;
	if (!filename.len || utf8_valid_prefix(filename) != filename.len)
		filename = STR("upload.jsonl");
	if (!str_copy(filename, u->file.name, sizeof(u->file.name)))
		return error_set(err, E_INVAL, "the file's name is longer than %d bytes", LIMIT_FILE_NAME);
	offline_id("file-", u->file.id);
	u->path = files_path(u->files, u->file.id);
	int fd = open(u->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(err, errno, "the file cannot be kept on this node");
	u->sink = sink_new(u->files->g->loop, fd, 0, on_written, u);
	return 0;
}

static int on_part(void *arg, struct str name, struct str filename, struct error *err)
{
	struct upload *u = arg;

	buf_clear(&u->value);
	u->in_file = false;
	if (str_equal(name, STR("file"))) {
		str_copy(STR("file"), u->fault.param, sizeof(u->fault.param));
		return begin_file(u, filename, err);
	}
	str_copy(name, u->field, sizeof(u->field));
	return 0;
}

static int on_part_data(void *arg, struct str data, struct error *err)
{
	struct upload *u = arg;

	if (!u->in_file) {
		buf_append_str(&u->value, data);
		return u->value.failed ? error_set(err, E_LIMIT, "a field of the form is too long") : 0;
	}
	u->bytes += data.len;
	if (u->bytes > LIMIT_FILE)
		return error_set(err, E_LIMIT, "the file is larger than %d bytes; divide it", LIMIT_FILE);
	if (u->bytes > u->held) {
		uint64_t more = u->bytes - u->held > HELD_STEP ? u->bytes - u->held : HELD_STEP;
		int rc = files_room(u->files, str_from(u->file.tenant), more, err);

		if (rc < 0)
			return rc;
		hold(u, u->held + more);
	}
	sink_add(u->sink, data);
	return 0;
}

static int wrong(struct upload *u, const char *param, struct error *err, const char *words)
{
	str_copy(str_from(param), u->fault.param, sizeof(u->fault.param));
	return error_set(err, E_INVAL, "%s", words);
}

static int on_part_end(void *arg, struct error *err)
{
	struct upload *u = arg;
	struct str value = buf_str(&u->value), field = str_from(u->field);

	if (u->in_file)
		return 0;
	if (str_equal(field, STR("purpose"))) {
		if (!str_equal(value, STR("batch")))
			return wrong(u, "purpose", err, "purpose must be \"batch\"; nothing else is kept here");
		str_copy(value, u->file.purpose, sizeof(u->file.purpose));
	} else if (str_equal(field, STR("expires_after[seconds]"))) {
		if (str_to_i64(value, &u->expires_in_s) < 0 || u->expires_in_s < EXPIRY_LEAST_S ||
		    u->expires_in_s > EXPIRY_MOST_S)
			return wrong(u, "expires_after.seconds", err, "expires_after.seconds must be 3600 to 2592000");
	} else if (str_equal(field, STR("expires_after[anchor]")) && !str_equal(value, STR("created_at"))) {
		return wrong(u, "expires_after.anchor", err, "expires_after.anchor must be \"created_at\"");
	}
	return 0;
}

static const struct multipart_events form_events = {.on_part = on_part, .on_data = on_part_data, .on_end = on_part_end};

/* ---- the body ------------------------------------------------------------------------------------------------ */

static bool on_data(void *arg, struct str data)
{
	struct upload *u = arg;

	if (u->fault.err.code)
		return true; /* the rest is read and dropped, so that the client hears why */
	if (multipart_feed(&u->form, data, &u->fault.err) < 0)
		return true;
	u->paused = u->sink && sink_waiting(u->sink) >= WAITING_MAX;
	return !u->paused;
}

static void on_done(void *arg, const struct error *err)
{
	struct upload *u = arg;
	struct error *own = &u->fault.err;

	if (err && !own->code) {
		*own = *err;
		u->fault.status = err->code == E_TIMEOUT ? 408 : 0;
	}
	if (!own->code)
		multipart_finish(&u->form, own);
	if (!own->code && !u->has_file)
		wrong(u, "file", own, "send the file as the field \"file\" of the form");
	if (!own->code && !u->file.purpose[0])
		wrong(u, "purpose", own, "purpose is missing; it must be \"batch\"");
	if (!own->code && u->bytes == 0)
		wrong(u, "file", own, "the file is empty");
	if (own->code) {
		fail(u);
		return;
	}
	u->fault.param[0] = '\0';
	u->whole = true;
	if (sink_waiting(u->sink) == 0)
		finish(u);
}

static int may_begin(struct files *f, struct http_exchange *x, struct str tenant, struct error *err)
{
	int64_t length = http_content_length(x);
	uint32_t own;

	if (f->upload_count >= LIMIT_FILE_UPLOADS)
		return error_set(err, E_BUSY, "%d files are being uploaded already; try again in a moment",
		                 LIMIT_FILE_UPLOADS);
	files_uploading(f, tenant, &own);
	if (own >= TENANT_SHARE * (LIMIT_FILE_UPLOADS - f->upload_count))
		return error_set(
		    err, E_BUSY,
		    "%u files of yours are being uploaded already, and few places are left; try again in a "
		    "moment",
		    own);
	if (length > LIMIT_FILE + FORM_MAX)
		return error_set(err, E_LIMIT, "the file is larger than %d bytes; divide it", LIMIT_FILE);
	return files_room(f, tenant, length > FORM_MAX ? (uint64_t)length - FORM_MAX : 0, err);
}

void files_upload(struct files *f, struct http_exchange *x, struct str tenant)
{
	struct upload *u = NEW(struct upload);
	struct fault fault = {0};
	struct str type = {0};

	http_header(x, "content-type", &type);
	if (may_begin(f, x, tenant, &fault.err) < 0 ||
	    multipart_init(&u->form, type, &form_events, u, &fault.err) < 0) {
		free(u);
		offline_fail(x, &fault);
		return;
	}
	u->files = f;
	u->x = x;
	u->value.max = 256;
	str_copy(tenant, u->file.tenant, sizeof(u->file.tenant));
	u->next = f->uploads;
	if (u->next)
		u->next->prev = u;
	f->uploads = u;
	f->upload_count++;
	int64_t length = http_content_length(x);
	hold(u, length > FORM_MAX ? (uint64_t)length - FORM_MAX : 0);
	http_watch(x, NULL, on_gone, u);
	http_body_read(x, LIMIT_FILE + FORM_MAX, on_data, on_done, u);
}

void files_uploads_stop(struct files *f)
{
	while (f->uploads) {
		struct http_exchange *x = f->uploads->x;

		http_watch(x, NULL, NULL, NULL);
		upload_free(f->uploads, false);
		http_abort(x);
	}
}
