/* SPDX-License-Identifier: Apache-2.0 */
/* llama_disk.h - KV of the past in files of one folder, read and written by a thread of its own.
 *
 * The engine thread hands over orders and collects what became of them; it never waits for the disk. One folder belongs
 * to one model; only what the same fingerprint wrote is good, all else that ends in .kv is removed. A file appears
 * whole (written beside, renamed) and is checked by its SHA-256 when read, so no fsync: what a crash tears is thrown
 * away. At the start every file is told as DISK_FOUND, those of short prompts first, then DISK_SCANNED. Files hold
 * prompts in the clear: folder 0700, files 0600. Orders not yet done are bounded in bytes; on stop, those there are
 * still written, for LINGER_US at most. One mutex, a leaf.
 */
#ifndef MDN_ENGINE_LLAMA_DISK_H
#define MDN_ENGINE_LLAMA_DISK_H

#include "base/digest.h"
#include "base/error.h"
#include "core/prefix.h"

#include <stdatomic.h>

struct kv_blob { /* KV as bytes; counted references, any thread */
	atomic_int refs;
	size_t size;
	uint8_t *bytes;
};
struct kv_blob *kv_blob_new(uint8_t *bytes, size_t size); /* takes over heap memory */
void kv_blob_ref(struct kv_blob *blob);
void kv_blob_unref(struct kv_blob *blob); /* NULL is fine */

struct kv_file { /* what a file says of itself; a whole prompt up to the end of its KV */
	struct prefix_salt salt;
	int32_t *tokens;      /* owned */
	int32_t begin, count; /* the KV is of [begin, count) */
	uint64_t blob_size, cost_us;
};

enum { KV_FILE_HEAD = 128, KV_FILE_TOKENS_MAX = 1 << 22, KV_FILE_NAME_SIZE = 36 };
/* The head (KV_FILE_HEAD bytes) and the tokens behind it of a file of `file_size` bytes; E_CORRUPT: not one of this
 * fingerprint. The blob's bytes are not looked at. */
int kv_file_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const struct digest *fingerprint,
                  struct kv_file *ret_file, struct error *err);

enum disk_kind { DISK_FOUND, DISK_SCANNED, DISK_READ, DISK_WRITE, DISK_REMOVE };

struct disk_order {
	struct disk_order *next;
	enum disk_kind kind;
	bool good; /* done: it went well */
	char name[KV_FILE_NAME_SIZE];
	struct kv_file file;  /* FOUND, WRITE; READ: what must be in it */
	struct kv_blob *blob; /* WRITE: to write; READ: what was read; a reference */
	int64_t took_us;
	void *arg;       /* the caller's */
	uint64_t number; /* the caller's */
};

/* FOLDER/(hash of the model's name), on the heap: all that the engine of that model may see of FOLDER. */
char *disk_folder(const char *folder, const char *model);
/* Makes both, 0700, and removes those of models that nobody has loaded for 30 days. Again in disk_new; a process that
 * is about to shut itself in calls it before, since then it can do the first of it only for its own, and no other. */
int disk_folders_make(const char *folder, const char *model, struct error *err);

struct disk;
typedef void disk_wake(void *arg); /* the disk's thread: something was done */

/* Makes the folder and locks it; E_BUSY: another process or engine uses it. */
int disk_new(const char *folder, const char *model, const struct digest *fingerprint, disk_wake *wake, void *arg,
             struct disk **ret_disk, struct error *err);
void disk_stop(struct disk *disk); /* ends the thread: then only take, free and REMOVE, which is done at once */
void disk_free(struct disk *disk); /* orders not collected go, too; NULL is fine */
struct disk_order *disk_order_new(enum disk_kind kind);
void disk_order_free(struct disk_order *order);
void disk_name(const struct kv_file *file, char ret_name[static KV_FILE_NAME_SIZE]);
/* Takes the order over, but for a WRITE when too much waits: false. */
bool disk_order(struct disk *disk, struct disk_order *order);
struct disk_order *disk_take(struct disk *disk); /* all that is done, oldest first; the caller's */

#endif
