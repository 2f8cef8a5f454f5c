/* SPDX-License-Identifier: Apache-2.0 */
/* How: a job lists the blobs; the loop asks for each whether it is needed, and picks; a second job removes. What became
 * needed between the two is found missing by its fetch and comes anew, as after any loss; what was used meanwhile
 * stays.
 */
#include "cli/blob_cache.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <sys/statvfs.h>

#define EVERY_US (60 * US_PER_S)
#define SOON_US (2 * US_PER_S)
#define FRESH_US (30 * US_PER_S) /* used or made a moment ago: a fetch may be about to name it */
#define FREE_PERCENT 5           /* of the disk: below this nothing unneeded is kept */

struct sighting {
	struct digest digest;
	uint64_t size;
	int64_t used_us;
};

struct look {
	struct blob_cache *cache; /* NULL: it is gone */
	struct blob_store *store;
	char *folder;
	struct sighting *seen;
	size_t count;
	uint64_t disk_free, disk_size, removed_bytes;
	int64_t now_us;
};

struct blob_cache {
	struct loop *loop;
	struct blob_store *store;
	char *folder;
	uint64_t max_bytes;
	bool (*needed)(void *arg, const struct digest *d);
	void *arg;
	struct loop_timer *timer;
	struct look *looking;
};

static void look_free(struct look *l)
{
	free(l->folder);
	free(l->seen);
	free(l);
}

/* ---- listing, in a job ---------------------------------------------------------------------------------- */

static bool on_blob(void *arg, const struct blob_info *info)
{
	struct look *l = arg;
	if ((l->count & (l->count - 1)) == 0)
		l->seen = mem_resize(l->seen, l->count ? l->count * 2 : 1, sizeof *l->seen);
	l->seen[l->count++] = (struct sighting){info->digest, info->size, info->used_us};
	return true;
}

static void list_work(void *arg)
{
	struct look *l = arg;
	struct statvfs fs;
	for (unsigned first = 0; first < 256; first++)
		blob_each_of(l->store, (uint8_t)first, on_blob, l);
	if (statvfs(l->folder, &fs) == 0) {
		l->disk_free = (uint64_t)fs.f_bavail * fs.f_frsize;
		l->disk_size = (uint64_t)fs.f_blocks * fs.f_frsize;
	}
}

/* ---- choosing, on the loop ---------------------------------------------------------------------------------- */

static int by_use(const void *a, const void *b)
{
	const struct sighting *x = a, *y = b;
	return (x->used_us > y->used_us) - (x->used_us < y->used_us);
}

/* Leaves in `seen` what is to go. */
static void choose(struct blob_cache *c, struct look *l)
{
	uint64_t kept = 0, wanted_free = l->disk_size / 100 * FREE_PERCENT, freed = 0;
	size_t unneeded = 0, gone = 0;
	for (size_t i = 0; i < l->count; i++) {
		if (c->needed(c->arg, &l->seen[i].digest) || l->now_us - l->seen[i].used_us < FRESH_US)
			continue;
		kept += l->seen[i].size;
		l->seen[unneeded++] = l->seen[i];
	}
	if (unneeded > 1)
		qsort(l->seen, unneeded, sizeof *l->seen, by_use);
	while (gone < unneeded && (kept > c->max_bytes || l->disk_free + freed < wanted_free)) {
		kept -= l->seen[gone].size;
		freed += l->seen[gone++].size;
	}
	l->count = gone;
}

/* ---- removing, in a job ------------------------------------------------------------------------------------------ */

static void remove_work(void *arg)
{
	struct look *l = arg;
	for (size_t i = 0; i < l->count;) {
		for (size_t n = 0; n < BLOB_CONDEMNED_MAX && i < l->count; n++, i++)
			blob_condemn(l->store, &l->seen[i].digest, l->now_us - FRESH_US / 2);
		l->removed_bytes += blob_sweep(l->store);
	}
}

static void remove_done(void *arg)
{
	struct look *l = arg;
	if (l->removed_bytes)
		log_info("node",
		         "cache: %zu files (%llu MiB) that are no longer placed here went, least recently used first",
		         l->count, (unsigned long long)(l->removed_bytes >> 20));
	if (l->cache)
		l->cache->looking = NULL;
	look_free(l);
}

static void list_done(void *arg)
{
	struct look *l = arg;
	if (l->cache)
		choose(l->cache, l);
	if (l->cache && l->count) {
		loop_job(l->cache->loop, remove_work, remove_done, l);
		return;
	}
	if (l->cache)
		l->cache->looking = NULL;
	look_free(l);
}

static void on_timer(void *arg)
{
	struct blob_cache *c = arg;
	loop_timer_start(c->timer, EVERY_US, EVERY_US);
	if (c->looking)
		return;
	struct look *l = NEW(struct look);
	l->cache = c;
	l->store = c->store;
	l->folder = str_dup(str_from(c->folder));
	l->now_us = blob_store_now_us(c->store);
	c->looking = l;
	loop_job(c->loop, list_work, list_done, l);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

struct blob_cache *blob_cache_new(struct loop *loop, struct blob_store *store, const char *folder, uint64_t max_bytes,
                                  bool (*needed)(void *arg, const struct digest *d), void *arg)
{
	struct blob_cache *c = NEW(struct blob_cache);
	*c = (struct blob_cache){.loop = loop, .store = store, .max_bytes = max_bytes, .needed = needed, .arg = arg};
	c->folder = str_dup(str_from(folder));
	c->timer = loop_timer_new(loop, on_timer, c);
	loop_timer_start(c->timer, EVERY_US, EVERY_US);
	return c;
}

void blob_cache_free(struct blob_cache *c)
{
	if (!c)
		return;
	if (c->looking)
		c->looking->cache = NULL;
	loop_timer_free(c->timer);
	free(c->folder);
	free(c);
}

void blob_cache_set_max(struct blob_cache *c, uint64_t max_bytes)
{
	c->max_bytes = max_bytes;
}

void blob_cache_look(struct blob_cache *c)
{
	loop_timer_start(c->timer, SOON_US, EVERY_US);
}
