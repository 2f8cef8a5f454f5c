/* SPDX-License-Identifier: Apache-2.0 */
/* catalog_private.h - what catalog.c (manifests, tags, blobs) and catalog_moves.c (history of tags, channels, labels,
 * quotas) share. Not for others.
 */
#ifndef MDN_STORE_CATALOG_PRIVATE_H
#define MDN_STORE_CATALOG_PRIVATE_H

#include "store/catalog.h"
#include "store/sql.h"

#include <pthread.h>

/* Those before WRITES run on the writing connection. */
enum catalog_statement {
	PUT_MANIFEST,
	DELETE_MANIFEST,
	DELETE_MANIFEST_VERSIONS,
	DELETE_MANIFEST_TAGS,
	PUT_TAG,
	DELETE_TAG,
	LINK_BLOB,
	UNLINK_BLOB,
	PUT_VERSION,
	DELETE_VERSION,
	COUNT_VERSIONS,
	WRITE_GET_TAG,
	PUT_KNOWN,
	GET_KNOWN,
	ADD_MOVE,
	TRIM_MOVES,
	FORGET_KNOWN,
	ADD_DELETIONS,
	MOVE_BEFORE,
	ACTUAL_TAGS,
	PUT_RETIRED,
	DELETE_RETIRED,
	IS_RETIRED,
	PUT_SIZE,
	HAS_SIZE,
	USED,
	PUT_CHUNKS,
	PUT_SIGNATURE,
	DELETE_SIGNATURE,
	FORGET_SIGNATURES,
	SIGNATURES,
	PUT_NAME,
	PUT_CALLED,
	FORGET_CALLED,
	PUT_REFERRER,
	FORGET_REFERRER,
	BUMP,
	WRITES,
	GET_MANIFEST = WRITES,
	FIND_MANIFEST,
	GET_TAG,
	TAGS,
	HAS_BLOB,
	HAS_REPO,
	GET_VERSION,
	EACH_VERSION,
	GET_CHUNKS,
	MOVES,
	NAMESPACES,
	READ_USED,
	TAGS_OF,
	FIND_NAME,
	GET_CALLED,
	REFERRERS,
	REPOS_WITH,
	GET_SERIAL,
	STATEMENTS
};

struct catalog_rules {    /* set at start and on reload */
	char **immutable; /* patterns */
	size_t immutable_count;
	struct catalog_quota *quotas;
	size_t quota_count;
	catalog_size_of *size_of;
	void *size_arg;
};

void catalog_rules_fini(struct catalog_rules *rules);

struct catalog {
	sqlite3 *writer, *reader;
	sqlite3_stmt *stmt[STATEMENTS];
	pthread_mutex_t write_lock, read_lock;
	pthread_mutex_t rules_lock; /* leaf; so that asking for room on the loop waits for no fsync */
	struct catalog_rules rules; /* under rules_lock */
};

/* The writing connection, in one transaction. write_end commits when rc is 0 and returns what became of it. */
int catalog_write_begin(struct catalog *c, struct error *err);
int catalog_write_end(struct catalog *c, int rc, struct error *err);
int catalog_run(struct catalog *c, enum catalog_statement which, struct error *err);
int catalog_parse_version(struct str json, struct version *ret_version, struct error *err);

/* Inside a transaction. The tag now names d; NULL: nothing. Kept in the history when that is a change; E_CONFLICT when
 * the tag is immutable. */
int catalog_move_tag(struct catalog *c, struct str who, const char *what, struct str repo, struct str tag,
                     const struct digest *d, struct error *err);
/* Quiet when there is none; the serial rises only when there was one. */
int catalog_drop_version(struct catalog *c, struct str name, struct str tag, struct error *err);
/* Writes the row of v's name and tag, and raises the serial. */
int catalog_write_version(struct catalog *c, const struct version *v, struct error *err);
/* Before v is written for the first time or again: what people said of the same manifest earlier stays. */
int catalog_remember_version(struct catalog *c, struct version *v, struct error *err);
/* What is attached to the version's manifest (catalog_signatures.c); the list is the caller's to free. */
int catalog_signatures(struct catalog *c, const struct version *v, struct version_signature **ret_list,
                       size_t *ret_count, struct error *err);
/* A manifest is deleted: its version is known no more, and its tags' history says so. Before its tags go. */
int catalog_forget_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
/* A manifest is deleted: so is what it was called and said to refer to. */
int catalog_forget_names(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
/* The blob is in the repository now: E_FORBIDDEN when its namespace has more than its quota. */
int catalog_check_quota(struct catalog *c, struct str repo, const struct digest *d, struct error *err);

#endif
