/* SPDX-License-Identifier: Apache-2.0 */
/* Where finished blobs are, when they were last used, and how they go.
 *
 * The time of last use is the file's mtime, so it survives a restart and costs no database write. Looking and renewing
 * is one step under keep_lock, and so is looking and condemning: a blob is either found and safe for a lease, or gone.
 * Removal first moves the file to uploads/ (quick, under the lock) and then unlinks it (slow for a large one, not
 * under the lock); a process that is killed between leaves it to the next start, which clears uploads/.
 */
#include "store/blob_private.h"

#include "base/clock.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void blob_store_lease(struct blob_store *s, int64_t lease_us)
{
	s->lease_us = lease_us;
}

/* Not the wall clock of now: that may jump, and with it every lease would end. */
int64_t blob_now_us(const struct blob_store *s)
{
	return s->clock_us + clock_mono_us();
}

int64_t blob_store_now_us(const struct blob_store *s)
{
	return blob_now_us(s);
}

/* ---- finding ---------------------------------------------------------------------------------- */

static size_t condemned_at(const struct blob_store *s, const struct digest *d)
{
	for (size_t i = 0; i < s->condemned_count; i++)
		if (digest_equal(&s->condemned[i], d))
			return i;
	return SIZE_MAX;
}

static bool place_of(const struct stat *st, bool sealed, struct blob_place *place)
{
	place->sealed = sealed;
	place->size = (uint64_t)st->st_size;
	place->used_us = (int64_t)st->st_mtim.tv_sec * US_PER_S + st->st_mtim.tv_nsec / 1000;
	return !sealed || seal_content_size(place->size, &place->size);
}

static void renew_place(struct blob_store *s, struct blob_place *place)
{
	int64_t now = blob_now_us(s), age = now - place->used_us;
	if (age >= 0 && age < s->lease_us / 4)
		return;
	struct timespec used = {now / US_PER_S, now % US_PER_S * 1000}, times[2] = {used, used};
	if (!utimensat(s->blobs_fd, place->name, times, AT_SYMLINK_NOFOLLOW))
		place->used_us = now;
}

/* 0, or an errno. keep_lock held. */
static int find(struct blob_store *s, const struct digest *d, bool renew, struct blob_place *place)
{
	struct stat st;
	if (condemned_at(s, d) != SIZE_MAX)
		return ENOENT;
	for (int i = 0; i < 2; i++) {
		bool sealed = s->seals == !i;
		blob_name(d, sealed, place->name);
		if (!fstatat(s->blobs_fd, place->name, &st, AT_SYMLINK_NOFOLLOW) && place_of(&st, sealed, place)) {
			if (renew)
				renew_place(s, place);
			return 0;
		}
		if (errno != ENOENT && errno != ENOTDIR)
			return errno;
	}
	return ENOENT;
}

int blob_find(struct blob_store *s, const struct digest *d, bool renew, struct blob_place *ret_place, struct error *err)
{
	char text[DIGEST_TEXT_SIZE];
	pthread_mutex_lock(&s->keep_lock);
	int failed = find(s, d, renew, ret_place);
	pthread_mutex_unlock(&s->keep_lock);
	if (!failed)
		return 0;
	digest_format(d, text);
	if (failed == ENOENT)
		return error_set(err, E_NOTFOUND, "the blob %s is not here", text);
	return error_errno(err, failed, "cannot open the blob %s", text);
}

int blob_info(struct blob_store *s, const struct digest *d, struct blob_info *ret_info, struct error *err)
{
	struct blob_place place;
	int rc = blob_find(s, d, false, &place, err);
	if (!rc)
		*ret_info = (struct blob_info){*d, place.size, place.used_us, place.sealed};
	return rc;
}

bool blob_each_of(struct blob_store *s, uint8_t first, bool (*fn)(void *arg, const struct blob_info *info), void *arg)
{
	char folder[3];
	bool go_on = true;
	struct dirent *e;
	hex_encode(&first, 1, folder);
	DIR *dir = blob_list_folder(s->blobs_fd, folder);
	while (dir && go_on && (e = readdir(dir))) {
		struct str name = str_from(e->d_name);
		struct blob_info info;
		struct blob_place place;
		struct stat st;
		bool sealed = str_ends(name, STR(BLOB_SEALED));
		if (sealed)
			name.len -= sizeof BLOB_SEALED - 1;
		if (hex_decode(name, info.digest.bytes, DIGEST_SIZE) ||
		    fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		place_of(&st, sealed, &place);
		info = (struct blob_info){info.digest, place.size, place.used_us, sealed};
		go_on = fn(arg, &info);
	}
	if (dir)
		closedir(dir);
	return go_on;
}

/* ---- removing --------------------------------------------------------------------------------- */

bool blob_condemn(struct blob_store *s, const struct digest *d, int64_t unused_since_us)
{
	struct blob_place place;
	pthread_mutex_lock(&s->keep_lock);
	bool good = !find(s, d, false, &place) && place.used_us < unused_since_us;
	if (good) {
		assert(s->condemned_count < BLOB_CONDEMNED_MAX);
		if (!s->condemned)
			s->condemned = mem_new(BLOB_CONDEMNED_MAX * sizeof *s->condemned);
		s->condemned[s->condemned_count++] = *d;
	}
	pthread_mutex_unlock(&s->keep_lock);
	return good;
}

bool blob_is_condemned(struct blob_store *s, const struct digest *d)
{
	pthread_mutex_lock(&s->keep_lock);
	bool is = condemned_at(s, d) != SIZE_MAX;
	pthread_mutex_unlock(&s->keep_lock);
	return is;
}

void blob_pardon(struct blob_store *s, const struct digest *d)
{
	size_t i = condemned_at(s, d);
	if (i != SIZE_MAX)
		s->condemned[i] = s->condemned[--s->condemned_count];
}

void blob_pardon_all(struct blob_store *s)
{
	pthread_mutex_lock(&s->keep_lock);
	s->condemned_count = 0;
	pthread_mutex_unlock(&s->keep_lock);
}

/* Takes the last one off the list and its file out of sight; false when the list is empty. */
static bool sweep_one(struct blob_store *s, char ret_trash[static 80], uint64_t *bytes)
{
	struct stat st;
	char name[BLOB_NAME_SIZE];
	ret_trash[0] = 0;
	pthread_mutex_lock(&s->keep_lock);
	bool any = s->condemned_count > 0;
	struct digest d = any ? s->condemned[--s->condemned_count] : (struct digest){0};
	for (int sealed = 0; any && sealed < 2; sealed++) {
		blob_name(&d, sealed, name);
		if (fstatat(s->blobs_fd, name, &st, AT_SYMLINK_NOFOLLOW))
			continue;
		snprintf(ret_trash, 80, "gone-%s", name + 3);
		if (renameat(s->blobs_fd, name, s->uploads_fd, ret_trash))
			ret_trash[0] = 0;
		else
			*bytes += (uint64_t)st.st_size;
	}
	pthread_mutex_unlock(&s->keep_lock);
	return any;
}

uint64_t blob_sweep(struct blob_store *s)
{
	char trash[80];
	uint64_t bytes = 0;
	while (sweep_one(s, trash, &bytes))
		if (trash[0])
			unlinkat(s->uploads_fd, trash, 0);
	return bytes;
}

/* ---- checking --------------------------------------------------------------------------------- */

void blob_each_partial(struct blob_store *s,
                       void (*fn)(void *arg, const struct digest *d, uint64_t size, uint64_t disk_bytes), void *arg)
{
	struct dirent *e;
	DIR *dir = blob_list_folder(s->partial_fd, ".");
	while (dir && (e = readdir(dir))) {
		struct digest d;
		struct stat st;
		struct str name = str_from(e->d_name);
		if (str_ends(name, STR(BLOB_SEALED)))
			name.len -= sizeof BLOB_SEALED - 1;
		if (!hex_decode(name, d.bytes, DIGEST_SIZE) && !fstatat(s->partial_fd, e->d_name, &st, 0))
			fn(arg, &d, (uint64_t)st.st_size, (uint64_t)st.st_blocks * 512);
	}
	if (dir)
		closedir(dir);
}

int blob_quarantine(struct blob_store *s, const struct digest *d, struct error *err)
{
	struct blob_place place;
	char to[sizeof place.name + 16];
	if (mkdirat(s->root_fd, "quarantine", 0700) && errno != EEXIST)
		return error_errno(err, errno, "cannot make the folder quarantine in %s", s->root);
	int rc = blob_find(s, d, false, &place, err);
	if (rc)
		return rc;
	snprintf(to, sizeof to, "quarantine/%.*s", (int)sizeof place.name - 4, place.name + 3);
	pthread_mutex_lock(&s->keep_lock);
	if (renameat(s->blobs_fd, place.name, s->root_fd, to))
		rc = error_errno(err, errno, "cannot move a blob to quarantine");
	pthread_mutex_unlock(&s->keep_lock);
	return rc;
}
