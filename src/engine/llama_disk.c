/* SPDX-License-Identifier: Apache-2.0 */
/* llama_disk.c - one thread, two lists of orders (reads before writes), one list of results.
 *
 * A file, little-endian:
 *
 *   0  "MDNKV\0\0\1"      8  fingerprint[32]     40  salt[32]
 *  72  u32 begin         76  u32 count           80  u64 bytes of KV    88  u64 cost in us
 *  96  SHA-256 of the first 96 bytes and all behind 128
 * 128  i32 tokens[count]    then the KV
 */
#include "engine/llama_disk.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <assert.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINGER_US (2 * US_PER_S)
#define OLD_S (30 * 24 * 3600)

enum { WAITING_BYTES_MAX = 256 << 20, FILES_MAX = 1 << 16, SUM_AT = 96, FOLDER_NAME = 16 };

static const char magic[8] = {'M', 'D', 'N', 'K', 'V', 0, 0, 1};

struct disk {
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_t thread;
	char *folder;
	int folder_fd, lock_fd;
	struct digest fingerprint;
	disk_wake *wake;
	void *arg;
	struct disk_order *reads, **reads_last, *writes, **writes_last, *done, **done_last;
	size_t waiting_bytes;
	bool ending, stopped;
	int64_t ending_us;
};

/* ---- blobs and orders -------------------------------------------------------------------------- */

struct kv_blob *kv_blob_new(uint8_t *bytes, size_t size)
{
	struct kv_blob *blob = NEW(struct kv_blob);

	atomic_init(&blob->refs, 1);
	blob->bytes = bytes;
	blob->size = size;
	return blob;
}

void kv_blob_ref(struct kv_blob *blob)
{
	atomic_fetch_add(&blob->refs, 1);
}

void kv_blob_unref(struct kv_blob *blob)
{
	if (!blob || atomic_fetch_sub(&blob->refs, 1) != 1)
		return;
	free(blob->bytes);
	free(blob);
}

struct disk_order *disk_order_new(enum disk_kind kind)
{
	struct disk_order *order = NEW(struct disk_order);

	order->kind = kind;
	return order;
}

void disk_order_free(struct disk_order *order)
{
	free(order->file.tokens);
	kv_blob_unref(order->blob);
	free(order);
}

static void orders_free(struct disk_order *order)
{
	for (struct disk_order *next; order; order = next) {
		next = order->next;
		disk_order_free(order);
	}
}

/* ---- the format -------------------------------------------------------------------------------- */

static uint64_t read_number(const uint8_t *at, int bytes)
{
	uint64_t n = 0;

	while (bytes-- > 0)
		n = n << 8 | at[bytes];
	return n;
}

static void write_number(uint8_t *at, uint64_t n, int bytes)
{
	for (int i = 0; i < bytes; i++, n >>= 8)
		at[i] = (uint8_t)n;
}

int kv_file_parse(const uint8_t *bytes, size_t len, uint64_t file_size, const struct digest *fingerprint,
                  struct kv_file *ret_file, struct error *err)
{
	if (len < KV_FILE_HEAD || memcmp(bytes, magic, sizeof(magic)) != 0)
		return error_set(err, E_CORRUPT, "not a file of the prefix cache");
	if (memcmp(bytes + 8, fingerprint->bytes, DIGEST_SIZE) != 0)
		return error_set(err, E_CORRUPT, "another model, or another setting of it, wrote this");
	uint64_t begin = read_number(bytes + 72, 4), count = read_number(bytes + 76, 4);
	uint64_t blob = read_number(bytes + 80, 8);
	if (!count || count > KV_FILE_TOKENS_MAX || begin >= count || !blob)
		return error_set(err, E_CORRUPT, "impossible numbers");
	uint64_t behind = KV_FILE_HEAD + count * sizeof(int32_t);
	if (len < behind || file_size < behind || file_size - behind != blob)
		return error_set(err, E_CORRUPT, "the file is cut");
	struct kv_file file = {.begin = (int32_t)begin, .count = (int32_t)count, .blob_size = blob};
	file.cost_us = read_number(bytes + 88, 8);
	memcpy(file.salt.bytes, bytes + 40, PREFIX_SALT_SIZE);
	file.tokens = mem_new(count * sizeof(int32_t));
	for (uint64_t i = 0; i < count; i++)
		file.tokens[i] = (int32_t)read_number(bytes + KV_FILE_HEAD + 4 * i, 4);
	*ret_file = file;
	return 0;
}

static struct digest file_sum(const uint8_t *head, const uint8_t *tokens, size_t tokens_len, const uint8_t *blob,
                              size_t blob_len)
{
	struct digest_stream *s = digest_stream_new();

	digest_stream_add(s, head, SUM_AT);
	digest_stream_add(s, tokens, tokens_len);
	digest_stream_add(s, blob, blob_len);
	struct digest sum = digest_stream_end(s);
	digest_stream_free(s);
	return sum;
}

void disk_name(const struct kv_file *file, char ret_name[static KV_FILE_NAME_SIZE])
{
	struct digest_stream *s = digest_stream_new();

	digest_stream_add(s, file->salt.bytes, PREFIX_SALT_SIZE);
	digest_stream_add(s, file->tokens, (size_t)file->count * sizeof(*file->tokens));
	struct digest d = digest_stream_end(s);
	digest_stream_free(s);
	for (int i = 0; i < 16; i++)
		snprintf(ret_name + 2 * i, 3, "%02x", d.bytes[i]);
	memcpy(ret_name + 32, ".kv", 4);
}

/* ---- the thread's work ------------------------------------------------------------------------- */

static bool write_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	while (len) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static bool disk_write_file(struct disk *disk, struct disk_order *order)
{
	const struct kv_file *file = &order->file;
	size_t tokens_len = (size_t)file->count * sizeof(int32_t);
	uint8_t head[KV_FILE_HEAD] = {0}, *tokens = mem_new(tokens_len);
	char temporary[KV_FILE_NAME_SIZE + 8];

	memcpy(head, magic, sizeof(magic));
	memcpy(head + 8, disk->fingerprint.bytes, DIGEST_SIZE);
	memcpy(head + 40, file->salt.bytes, PREFIX_SALT_SIZE);
	write_number(head + 72, (uint32_t)file->begin, 4);
	write_number(head + 76, (uint32_t)file->count, 4);
	write_number(head + 80, order->blob->size, 8);
	write_number(head + 88, file->cost_us, 8);
	for (int32_t i = 0; i < file->count; i++)
		write_number(tokens + 4 * (size_t)i, (uint32_t)file->tokens[i], 4);
	struct digest sum = file_sum(head, tokens, tokens_len, order->blob->bytes, order->blob->size);
	memcpy(head + SUM_AT, sum.bytes, DIGEST_SIZE);
	snprintf(temporary, sizeof(temporary), "%s.tmp", order->name);
	int fd = openat(disk->folder_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool good = fd >= 0 && write_all(fd, head, sizeof(head)) && write_all(fd, tokens, tokens_len) &&
	            write_all(fd, order->blob->bytes, order->blob->size);
	if (fd >= 0)
		good = close(fd) == 0 && good;
	good = good && renameat(disk->folder_fd, temporary, disk->folder_fd, order->name) == 0;
	if (!good)
		unlinkat(disk->folder_fd, temporary, 0);
	free(tokens);
	return good;
}

static bool file_is_wanted(const struct kv_file *file, const struct kv_file *wanted)
{
	return file->begin == wanted->begin && file->count == wanted->count &&
	       memcmp(file->salt.bytes, wanted->salt.bytes, PREFIX_SALT_SIZE) == 0 &&
	       memcmp(file->tokens, wanted->tokens, (size_t)file->count * sizeof(*file->tokens)) == 0;
}

static bool disk_read_file(struct disk *disk, struct disk_order *order)
{
	struct stat st;
	struct kv_file file = {0};
	size_t tokens_len = (size_t)order->file.count * sizeof(int32_t), front = KV_FILE_HEAD + tokens_len;
	uint8_t *head = mem_new(front), *blob = NULL;
	int fd = openat(disk->folder_fd, order->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	bool good = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	            file_read_at(fd, 0, head, front) == (ssize_t)front &&
	            kv_file_parse(head, front, (uint64_t)st.st_size, &disk->fingerprint, &file, NULL) == 0 &&
	            file_is_wanted(&file, &order->file);
	if (good && (blob = malloc(file.blob_size)) != NULL) {
		good = file_read_at(fd, front, blob, file.blob_size) == (ssize_t)file.blob_size;
		struct digest sum = file_sum(head, head + KV_FILE_HEAD, tokens_len, blob, file.blob_size);
		good = good && memcmp(sum.bytes, head + SUM_AT, DIGEST_SIZE) == 0;
	}
	good = good && blob;
	if (good)
		order->blob = kv_blob_new(blob, file.blob_size);
	else
		free(blob);
	if (fd >= 0)
		close(fd);
	free(file.tokens);
	free(head);
	return good;
}

static void disk_done(struct disk *disk, struct disk_order *order)
{
	pthread_mutex_lock(&disk->lock);
	bool first = !disk->done;
	order->next = NULL;
	*disk->done_last = order;
	disk->done_last = &order->next;
	pthread_mutex_unlock(&disk->lock);
	if (first)
		disk->wake(disk->arg);
}

static struct disk_order *scan_file(struct disk *disk, const char *name)
{
	struct disk_order *order = disk_order_new(DISK_FOUND);
	int fd = openat(disk->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char named[KV_FILE_NAME_SIZE];
	uint8_t head[KV_FILE_HEAD], *front = NULL;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    file_read_at(fd, 0, head, sizeof(head)) == sizeof(head)) {
		uint64_t count = read_number(head + 76, 4);
		size_t len = KV_FILE_HEAD + (size_t)(count <= KV_FILE_TOKENS_MAX ? count : 0) * sizeof(int32_t);
		front = mem_new(len);
		ssize_t got = file_read_at(fd, 0, front, len);
		order->good = got > 0 && kv_file_parse(front, (size_t)got, (uint64_t)st.st_size, &disk->fingerprint,
		                                       &order->file, NULL) == 0;
	}
	if (fd >= 0)
		close(fd);
	free(front);
	if (order->good) {
		disk_name(&order->file, named);
		order->good = strcmp(named, name) == 0;
	}
	if (order->good) {
		memcpy(order->name, named, sizeof(named));
		return order;
	}
	disk_order_free(order);
	return NULL;
}

static int by_length(const void *a, const void *b)
{
	const struct disk_order *x = *(struct disk_order *const *)a, *y = *(struct disk_order *const *)b;

	return (x->file.count > y->file.count) - (x->file.count < y->file.count);
}

static bool ends_in(const char *name, const char *end)
{
	size_t len = strlen(name), end_len = strlen(end);

	return len >= end_len && strcmp(name + len - end_len, end) == 0;
}

static bool disk_is_ending(struct disk *disk)
{
	pthread_mutex_lock(&disk->lock);
	bool ending = disk->ending;
	pthread_mutex_unlock(&disk->lock);
	return ending;
}

static void disk_scan(struct disk *disk)
{
	DIR *dir = fdopendir(openat(disk->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct disk_order **found = NULL;
	size_t count = 0, room = 0;

	for (struct dirent *entry; dir && (entry = readdir(dir)) && !disk_is_ending(disk);) {
		bool ours = ends_in(entry->d_name, ".kv");
		struct disk_order *order = ours && count < FILES_MAX ? scan_file(disk, entry->d_name) : NULL;
		if (!order && (ours || ends_in(entry->d_name, ".kv.tmp"))) {
			unlinkat(disk->folder_fd, entry->d_name, 0);
		} else if (order) {
			if (count == room) {
				room = room ? 2 * room : 64;
				found = mem_resize(found, room, sizeof(struct disk_order *));
			}
			found[count++] = order;
		}
	}
	if (dir)
		closedir(dir);
	if (count)
		qsort(found, count, sizeof(struct disk_order *), by_length);
	for (size_t i = 0; i < count; i++)
		disk_done(disk, found[i]);
	free(found);
	disk_done(disk, disk_order_new(DISK_SCANNED));
}

static struct disk_order *pop(struct disk_order **first, struct disk_order ***last)
{
	struct disk_order *order = *first;

	*first = order->next;
	if (!*first)
		*last = first;
	return order;
}

/* NULL: the thread is to end. */
static struct disk_order *disk_next(struct disk *disk)
{
	struct disk_order *order = NULL;

	pthread_mutex_lock(&disk->lock);
	while (!disk->reads && !disk->writes && !disk->ending)
		pthread_cond_wait(&disk->work, &disk->lock);
	bool late = disk->ending && clock_mono_us() - disk->ending_us > LINGER_US;
	if (disk->reads && !disk->ending)
		order = pop(&disk->reads, &disk->reads_last);
	else if (disk->writes && !late)
		order = pop(&disk->writes, &disk->writes_last);
	if (order && order->kind == DISK_WRITE)
		disk->waiting_bytes -= order->blob->size;
	pthread_mutex_unlock(&disk->lock);
	return order;
}

static void *disk_run(void *arg)
{
	struct disk *disk = arg;

	disk_scan(disk);
	for (struct disk_order *order; (order = disk_next(disk)) != NULL;) {
		int64_t begun_us = clock_mono_us();
		if (order->kind == DISK_REMOVE) {
			unlinkat(disk->folder_fd, order->name, 0);
			disk_order_free(order);
			continue;
		}
		order->good = order->kind == DISK_READ ? disk_read_file(disk, order) : disk_write_file(disk, order);
		if (order->kind == DISK_READ && !order->good)
			unlinkat(disk->folder_fd, order->name, 0);
		order->took_us = clock_mono_us() - begun_us;
		disk_done(disk, order);
	}
	return NULL;
}

/* ---- interface --------------------------------------------------------------------------------- */

/* Folders of models that nobody has loaded for a month go. */
static void folder_tidy(const char *folder, const char *own)
{
	DIR *dir = opendir(folder);
	struct stat st;

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (strlen(entry->d_name) != FOLDER_NAME || strspn(entry->d_name, "0123456789abcdef") != FOLDER_NAME ||
		    strcmp(entry->d_name, own) == 0)
			continue;
		char *path = file_join(str_from(folder), entry->d_name), *lock = file_join(str_from(path), "lock");
		int fd = open(lock, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 && fstat(fd, &st) == 0 && clock_wall_us() / US_PER_S - st.st_mtime > OLD_S &&
		    flock(fd, LOCK_EX | LOCK_NB) == 0)
			folder_remove(path, NULL);
		if (fd >= 0)
			close(fd);
		free(lock);
		free(path);
	}
	if (dir)
		closedir(dir);
}

char *disk_folder(const char *folder, const char *model)
{
	struct digest d = digest_of(model, strlen(model));
	char name[FOLDER_NAME + 1];

	hex_encode(d.bytes, FOLDER_NAME / 2, name);
	return file_join(str_from(folder), name);
}

/* The folder of all models may belong to the node, where this is a process with another uid. */
static bool keep_private(const char *path)
{
	struct stat st;

	return chmod(path, 0700) == 0 || (errno == EPERM && stat(path, &st) == 0 && !(st.st_mode & 077));
}

int disk_folders_make(const char *folder, const char *model, struct error *err)
{
	char *own = disk_folder(folder, model);
	int rc = folder_make(own, 0700, err);

	if (rc == 0 && (!keep_private(folder) || !keep_private(own)))
		rc = error_errno(err, errno, "cannot keep %s to ourselves", folder);
	if (rc == 0)
		folder_tidy(folder, strrchr(own, '/') + 1);
	free(own);
	return rc;
}

static int disk_open(struct disk *disk, const char *folder, const char *model, struct error *err)
{
	int rc = disk_folders_make(folder, model, err);

	if (rc < 0)
		return rc;
	disk->folder = disk_folder(folder, model);
	disk->folder_fd = open(disk->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (disk->folder_fd < 0)
		return error_errno(err, errno, "cannot open %s", disk->folder);
	disk->lock_fd = openat(disk->folder_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (disk->lock_fd < 0)
		return error_errno(err, errno, "cannot open %s/lock", disk->folder);
	if (flock(disk->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, E_BUSY, "%s is in use by another engine of this model", disk->folder);
	futimens(disk->lock_fd, NULL);
	return 0;
}

static void disk_close(struct disk *disk)
{
	if (disk->folder_fd >= 0)
		close(disk->folder_fd);
	if (disk->lock_fd >= 0)
		close(disk->lock_fd);
	free(disk->folder);
	free(disk);
}

int disk_new(const char *folder, const char *model, const struct digest *fingerprint, disk_wake *wake, void *arg,
             struct disk **ret_disk, struct error *err)
{
	struct disk *disk = NEW(struct disk);

	disk->folder_fd = disk->lock_fd = -1;
	disk->fingerprint = *fingerprint;
	disk->wake = wake;
	disk->arg = arg;
	disk->reads_last = &disk->reads;
	disk->writes_last = &disk->writes;
	disk->done_last = &disk->done;
	int rc = disk_open(disk, folder, model, err);
	if (rc < 0) {
		disk_close(disk);
		return rc;
	}
	pthread_mutex_init(&disk->lock, NULL);
	pthread_cond_init(&disk->work, NULL);
	rc = pthread_create(&disk->thread, NULL, disk_run, disk);
	assert(rc == 0);
	*ret_disk = disk;
	return 0;
}

void disk_stop(struct disk *disk)
{
	if (disk->stopped)
		return;
	pthread_mutex_lock(&disk->lock);
	disk->ending = true;
	disk->ending_us = clock_mono_us();
	pthread_cond_signal(&disk->work);
	pthread_mutex_unlock(&disk->lock);
	pthread_join(disk->thread, NULL);
	disk->stopped = true;
}

void disk_free(struct disk *disk)
{
	if (!disk)
		return;
	disk_stop(disk);
	orders_free(disk->reads);
	orders_free(disk->writes);
	orders_free(disk->done);
	pthread_mutex_destroy(&disk->lock);
	pthread_cond_destroy(&disk->work);
	disk_close(disk);
}

bool disk_order(struct disk *disk, struct disk_order *order)
{
	bool taken = true;

	if (disk->stopped) {
		assert(order->kind == DISK_REMOVE);
		unlinkat(disk->folder_fd, order->name, 0);
		disk_order_free(order);
		return true;
	}
	order->next = NULL;
	pthread_mutex_lock(&disk->lock);
	if (order->kind == DISK_READ) {
		*disk->reads_last = order;
		disk->reads_last = &order->next;
	} else if (order->kind == DISK_WRITE && disk->waiting_bytes + order->blob->size > WAITING_BYTES_MAX) {
		taken = false;
	} else {
		if (order->kind == DISK_WRITE)
			disk->waiting_bytes += order->blob->size;
		*disk->writes_last = order;
		disk->writes_last = &order->next;
	}
	pthread_cond_signal(&disk->work);
	pthread_mutex_unlock(&disk->lock);
	return taken;
}

struct disk_order *disk_take(struct disk *disk)
{
	pthread_mutex_lock(&disk->lock);
	struct disk_order *first = disk->done;
	disk->done = NULL;
	disk->done_last = &disk->done;
	pthread_mutex_unlock(&disk->lock);
	return first;
}
