/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - what clients upload for batches and what comes out of them: /v1/files.
 *
 * Each is FOLDER/ID.jsonl and a line of the state (SQLite), which is written last and deleted first: a file without one
 * is a leftover and goes at the next start. A file belongs to a tenant; to others it does not exist. Bounded by number
 * and bytes a tenant, and by bytes on the node. Loop thread.
 */
#ifndef MDN_GATEWAY_FILES_H
#define MDN_GATEWAY_FILES_H

#include "serve/gateway/internal.h"
#include "store/state.h"

#define OFFLINE_ID_SIZE 48
#define OFFLINE_TENANT_SIZE 64

struct file {
	struct file *next; /* newest first */
	char id[OFFLINE_ID_SIZE], tenant[OFFLINE_TENANT_SIZE], purpose[16];
	char name[LIMIT_FILE_NAME + 1];
	uint64_t bytes;
	int64_t created_us, expires_s; /* expires_s 0: never */
	uint32_t users;                /* batches that read it */
};

struct files {
	struct gateway *g;
	struct state *state;
	char *folder;
	struct file *first;
	size_t count;
	uint64_t bytes, bytes_max;
	struct upload *uploads;
	uint32_t upload_count;
	uint64_t uploading; /* bytes that uploads under way may write */
};

int files_open(struct files *f, struct gateway *g, struct str folder, uint64_t bytes_max, struct error *err);
void files_sweep(struct files *f); /* leftovers; once batches are known */
void files_close(struct files *f);
void files_tick(struct files *f);                                                 /* removes the expired */
struct file *files_find(const struct files *f, struct str tenant, struct str id); /* NULL: none of this tenant */
char *files_path(const struct files *f, const char *id);                          /* on the heap */
/* Room for so many bytes more of the tenant's, else E_LIMIT, E_BUSY or E_NOSPACE. */
int files_room(const struct files *f, struct str tenant, uint64_t bytes, struct error *err);
uint64_t files_uploading(const struct files *f, struct str tenant, uint32_t *ret_count); /* bytes kept for them */
/* A file that lies in its place already becomes known; `file` is copied. Within a transaction of the state or alone. */
int files_add(struct files *f, const struct file *file, struct error *err);
void files_remove(struct files *f, struct file *file);

void offline_id(const char *prefix, char ret_id[static OFFLINE_ID_SIZE]);
void offline_fail(struct http_exchange *x, const struct fault *fault); /* with a retry-after where it helps */
/* A list as clients page through it: limit, after and order. Objects are offered in the order asked for, newest first
 * unless `oldest_first`; one that is taken is formatted into `out` next. The end answers. */
struct offline_list {
	struct buf out;
	int64_t limit, told;
	struct str after;
	bool oldest_first, begun, more;
	const char *first, *last; /* ids of objects told */
};
/* most: what limit may be at most. False: it has been answered that the query is wrong. */
bool offline_list_begin(struct offline_list *l, struct http_exchange *x, int64_t most, int64_t standard);
bool offline_list_takes(struct offline_list *l, const char *id);
void offline_list_end(struct offline_list *l, struct http_exchange *x);

/* Routes: /v1/files, /v1/files/{file_id}, /v1/files/{file_id}/content */
void files_collection(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);
void files_one(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);
void files_content(struct gateway *g, struct http_exchange *x, struct str tenant, struct str id);

/* ---- files_upload.c ------------------------------------------------------------------------------ */

void files_upload(struct files *f, struct http_exchange *x, struct str tenant);
void files_uploads_stop(struct files *f);
void file_format(const struct file *file, struct buf *out); /* as clients see it */

#endif
