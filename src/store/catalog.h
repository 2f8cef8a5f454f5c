/* SPDX-License-Identifier: Apache-2.0 */
/* catalog.h - model versions, tags and manifests of a repository, in SQLite (WAL).
 *
 * Any thread: one writing and one reading connection, each behind a lock of its own, so that reads (short, fine on a
 * loop) never wait for a write's fsync (milliseconds: from a job when many are expected). Callbacks run with no lock
 * held. `serial` rises with every change of the versions, in the same transaction. Names are checked by the caller
 * (store/ociname.h).
 */
#ifndef MDN_STORE_CATALOG_H
#define MDN_STORE_CATALOG_H

#include "store/version.h"

struct catalog;
int catalog_open(struct str path, struct catalog **ret_catalog, struct error *err);
void catalog_close(struct catalog *c);
uint64_t catalog_serial(struct catalog *c);

/* All that a pushed manifest means, in one transaction: manifest, tag (empty: none), version (NULL: it is not a model;
 * a version that the tag named before goes away then). */
int catalog_push(struct catalog *c, struct str repo, const struct digest *d, struct str media_type, uint64_t size,
                 struct str tag, const struct version *v, struct error *err);

/* The same, saying who did it, for the history of the tag. */
int catalog_push_as(struct catalog *c, struct str who, struct str repo, const struct digest *d, struct str media_type,
                    uint64_t size, struct str tag, const struct version *v, struct error *err);

/* Manifests by digest, tags pointing at them (OCI). The manifest's bytes live in the blob store. */
int catalog_get_manifest(struct catalog *c, struct str repo, const struct digest *d, char ret_media_type[static 128],
                         struct error *err);
/* By the first 20 bytes of its digest, which Hugging Face's clients take for a commit. E_NOTFOUND. */
int catalog_find_manifest(struct catalog *c, struct str repo, const uint8_t beginning[static 20],
                          struct digest *ret_digest, struct error *err);
/* With the tags that name it, and their versions. */
int catalog_delete_manifest(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
int catalog_put_tag(struct catalog *c, struct str repo, struct str tag, const struct digest *d, struct error *err);
int catalog_get_tag(struct catalog *c, struct str repo, struct str tag, struct digest *ret_digest, struct error *err);
/* With its version. */
int catalog_delete_tag(struct catalog *c, struct str repo, struct str tag, struct error *err);
int catalog_delete_tag_as(struct catalog *c, struct str who, struct str repo, struct str tag, struct error *err);
/* The tags that name d now (the first 100), retired ones too. */
int catalog_tags_of(struct catalog *c, struct str repo, const struct digest *d, void (*fn)(void *arg, struct str tag),
                    void *arg, struct error *err);
bool catalog_has_repo(struct catalog *c, struct str repo); /* something was ever pushed there, and is left */
/* Those that are not retired, sorted without regard to case (OCI's "lexical order"); calls fn for at most `limit` tags
 * after `last`. */
int catalog_tags(struct catalog *c, struct str repo, struct str last, size_t limit,
                 void (*fn)(void *arg, struct str tag), void *arg, struct error *err);
/* A blob is visible in the repositories it was pushed to or mounted in. E_FORBIDDEN past a quota. */
int catalog_link_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);
bool catalog_has_blob(struct catalog *c, struct str repo, const struct digest *d);
int catalog_unlink_blob(struct catalog *c, struct str repo, const struct digest *d, struct error *err);

/* A repository that has the blob and of which may() says yes; looks at the first 64. E_NOTFOUND. */
int catalog_first_repo_with(struct catalog *c, const struct digest *d, bool (*may)(void *arg, struct str repo),
                            void *arg, char *ret_repo, size_t size, struct error *err);

/* ---- names and referrers (catalog_names.c) -----------------------------------------------------------
 * From either name to the digest content is kept under. E_NOTFOUND for a SHA-512 never put (a SHA-256 always is its
 * own).
 */
int catalog_find_name(struct catalog *c, const struct digest_name *name, struct digest *ret_digest, struct error *err);
int catalog_put_name(struct catalog *c, const struct digest_name *name, const struct digest *d, struct error *err);
/* How a manifest was named when it was last put into a repository: what its tags are answered with. */
int catalog_call(struct catalog *c, struct str repo, const struct digest *d, const struct digest_name *name,
                 struct error *err);
struct digest_name catalog_called(struct catalog *c, struct str repo, const struct digest *d);
/* The manifest d says it is about `subject`, which need not be here; descriptor: JSON, as the referrers API gives it.
 */
int catalog_put_referrer(struct catalog *c, struct str repo, const struct digest_name *subject, const struct digest *d,
                         struct str artifact_type, struct str descriptor, struct error *err);
struct catalog_page {
	size_t rows_max, bytes_max;
	bool begun;         /* after `last`; else from the beginning */
	struct digest last; /* then: the last one of this page */
	bool more;          /* then */
};
/* Descriptors, comma-separated, of what refers to `subject` by either of its names; artifact_type empty: any. */
int catalog_referrers(struct catalog *c, struct str repo, const struct digest_name *subject, struct str artifact_type,
                      struct catalog_page *page, struct buf *out, struct error *err);

/* Versions: what distribution and people see. Keyed by name and tag. */
int catalog_get_version(struct catalog *c, struct str name, struct str tag, struct version *ret_version,
                        struct error *err);
/* Every version as wire JSON, comma-separated, and the serial they belong to. */
int catalog_append_versions(struct catalog *c, struct buf *out, uint64_t *ret_serial, struct error *err);
int catalog_each_version(struct catalog *c, void (*fn)(void *arg, const struct version *v), void *arg,
                         struct error *err);

/* ---- channels: tags that are moved (catalog_moves.c) ------------------------------------------------
 * A version is its manifest, and is remembered as long as the manifest is here, whatever names it. Every move of a tag
 * is kept (the last CATALOG_MOVES_MAX of each). `who`: the operator or tenant; empty: not known. E_NOTFOUND, E_CONFLICT
 * in words. */
#define CATALOG_MOVES_MAX 1000
struct catalog_move {
	int64_t wall_us;
	const struct digest *before, *after; /* NULL: nothing */
	const char *who, *what;              /* what: push, promote, rollback, delete */
};
/* `to` names what `from` names. */
int catalog_promote(struct catalog *c, struct str who, struct str name, struct str from, struct str to,
                    struct digest *ret_digest, struct error *err);
/* The tag names what it did before; said again, what it did before that. */
int catalog_rollback(struct catalog *c, struct str who, struct str name, struct str tag, struct digest *ret_digest,
                     struct error *err);
/* The newest first. */
int catalog_history(struct catalog *c, struct str name, struct str tag, size_t limit,
                    void (*fn)(void *arg, const struct catalog_move *m), void *arg, struct error *err);
int catalog_retire(struct catalog *c, struct str name, struct str tag, bool retired, struct error *err);
/* Applies to the version, so to all tags that name it. value.base NULL removes. */
int catalog_label(struct catalog *c, struct str name, struct str tag, const struct str *keys, const struct str *values,
                  size_t count, struct error *err);

/* ---- rules (catalog_moves.c) */
struct catalog_quota {
	char space[129]; /* first part of a two-part name, else "library" */
	uint64_t bytes;
};
/* Patterns of "NAME:TAG", or of TAG when without ':', that once set stay what they are; `*` stands for any run. */
void catalog_set_rules(struct catalog *c, const char *const *immutable, size_t immutable_count,
                       const struct catalog_quota *quotas, size_t quota_count);
/* How the catalog learns a blob's size, once a blob; called in jobs with the catalog's lock held. */
typedef int catalog_size_of(void *arg, const struct digest *d, uint64_t *ret_size);
void catalog_set_size_of(struct catalog *c, catalog_size_of *fn, void *arg);
struct str catalog_space_of(struct str repo);
/* E_FORBIDDEN in words when so many bytes more are past the quota: before they are sent. */
int catalog_quota_room(struct catalog *c, struct str repo, uint64_t bytes, struct error *err);
/* quota UINT64_MAX: none. */
int catalog_each_space(struct catalog *c, void (*fn)(void *arg, struct str space, uint64_t used, uint64_t quota),
                       void *arg, struct error *err);
bool catalog_pattern_matches(const char *pattern, struct str text);

/* Which chunk list was made for a file, so that no file is read twice for it. E_NOTFOUND. */
int catalog_put_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, const struct digest *list,
                       struct error *err);
int catalog_get_chunks(struct catalog *c, const struct digest *file, uint64_t chunk_size, struct digest *ret_list,
                       struct error *err);

/* A bundle (store/envelope.h) that `referrer`, a manifest of the same repository, attaches to `manifest`. channel: the
 * NAME:TAG a channel statement is about; then it counts for that tag, only the one of the highest rank does. Versions
 * of the manifest list it at once. */
struct catalog_signature {
	struct digest manifest, referrer;
	struct version_signature bundle;
	struct str channel; /* empty: a signature */
	uint64_t rank;      /* a statement's counter; of signatures the newest count */
};
int catalog_add_signature(struct catalog *c, struct str repo, const struct catalog_signature *s, struct error *err);
/* The referrer is deleted, or the manifest, with all that refers to it. Quiet when nothing is known of it. */
int catalog_drop_signature(struct catalog *c, struct str repo, const struct digest *referrer, struct error *err);

#endif
