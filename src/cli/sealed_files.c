/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/sealed_files.h"

#include <stdlib.h>
#include <unistd.h>

struct sealed_file {
	struct sealed_files *all;
	struct sealed_file *next;
	struct digest digest;
	int fd; /* -1: not yet */
	bool in_job, unneeded;
	struct error err;
};

struct sealed_files {
	struct loop *loop;
	struct blob_store *store;
	struct sealed_file *first;
	bool freed;
	void (*on_ready)(void *arg, const struct digest *d, const struct error *err);
	void *arg;
};

struct sealed_files *sealed_files_new(struct loop *loop, struct blob_store *store,
                                      void (*on_ready)(void *arg, const struct digest *d, const struct error *err),
                                      void *arg)
{
	struct sealed_files *f = NEW(struct sealed_files);
	*f = (struct sealed_files){.loop = loop, .store = store, .on_ready = on_ready, .arg = arg};
	return f;
}

static void drop(struct sealed_file **at)
{
	struct sealed_file *file = *at;
	*at = file->next;
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

/* Those in a job go when it ends. */
static void drop_unneeded(struct sealed_files *f)
{
	for (struct sealed_file **at = &f->first; *at;) {
		if ((*at)->unneeded && !(*at)->in_job)
			drop(at);
		else
			at = &(*at)->next;
	}
	if (f->freed && !f->first)
		free(f);
}

void sealed_files_free(struct sealed_files *f)
{
	if (!f)
		return;
	for (struct sealed_file *file = f->first; file; file = file->next)
		file->unneeded = true;
	f->freed = true;
	drop_unneeded(f);
}

void sealed_files_keep(struct sealed_files *f, bool (*needed)(void *arg, const struct digest *d), void *arg)
{
	for (struct sealed_file *file = f->first; file; file = file->next)
		file->unneeded = !needed(arg, &file->digest);
	drop_unneeded(f);
}

static void decrypt(void *arg)
{
	struct sealed_file *file = arg;
	struct blob_file *blob;
	if (blob_file_open(file->all->store, &file->digest, &blob, &file->err))
		return;
	blob_file_in_memory(blob, &file->fd, &file->err);
	blob_file_close(blob);
}

static void decrypted(void *arg)
{
	struct sealed_file *file = arg;
	struct sealed_files *f = file->all;
	struct digest d = file->digest;
	struct error err = file->err;
	bool wanted = !file->unneeded;
	file->in_job = false;
	file->unneeded = file->unneeded || err.code; /* a failed one is tried anew when asked for again */
	drop_unneeded(f);                            /* f may be gone now */
	if (wanted)
		f->on_ready(f->arg, &d, err.code ? &err : NULL);
}

static struct sealed_file *find(struct sealed_files *f, const struct digest *d)
{
	for (struct sealed_file *file = f->first; file; file = file->next)
		if (digest_equal(&file->digest, d))
			return file;
	return NULL;
}

int sealed_files_path(struct sealed_files *f, const struct digest *d, char **ret_path, struct error *err)
{
	int rc = blob_path(f->store, d, ret_path, err);
	if (rc != E_UNSUPPORTED)
		return rc;
	struct sealed_file *file = find(f, d);
	if (!file) {
		file = NEW(struct sealed_file);
		*file = (struct sealed_file){.all = f, .next = f->first, .digest = *d, .fd = -1, .in_job = true};
		f->first = file;
		loop_job(f->loop, decrypt, decrypted, file);
	}
	file->unneeded = false;
	if (file->in_job)
		return error_set(err, E_BUSY, "the model file is being decrypted");
	struct buf path = {0};
	buf_printf(&path, "/proc/self/fd/%d", file->fd);
	*ret_path = path.base;
	return 0;
}
