/* SPDX-License-Identifier: Apache-2.0 */
/* signature.h - what a model signature says (OpenSSF Model Signing 1.0): names and SHA-256 of all files of a model.
 *
 * A statement is the payload of an envelope (store/envelope.h). It owns its lists. Two ways to cut a model into items:
 * whole files, or shards (path:start:end, 10^9 bytes each unless said otherwise; empty files have none). Pure; any
 * thread. Source: model-signing-spec v1.0, in-toto Statement v1, and the Python package model-signing 1.1.
 */
#ifndef MDN_STORE_SIGNATURE_H
#define MDN_STORE_SIGNATURE_H

#include "store/version.h"

#define SIGNATURE_PREDICATE "https://model_signing/signature/v1.0"
#define SIGNATURE_SHARD_SIZE UINT64_C(1000000000)
#define SIGNATURE_ITEMS_MAX 65536
#define SIGNATURE_IGNORES_MAX 1024

struct signed_item {
	char *path;          /* "." when the model is one file */
	uint64_t start, end; /* of a shard */
	struct digest digest;
};

struct signed_model {
	char name[256]; /* only informative */
	bool shards;
	uint64_t shard_size;
	bool allow_symlinks;
	char **ignores; /* paths relative to the model, with all below them */
	size_t ignore_count;
	struct signed_item *items; /* sorted */
	size_t item_count;
};

void signed_model_fini(struct signed_model *m);
void signed_model_add(struct signed_model *m, struct str path, uint64_t start, uint64_t end, const struct digest *d);
void signed_model_ignore(struct signed_model *m, struct str path);
void signed_model_sort(struct signed_model *m);
bool signed_model_ignores(const struct signed_model *m, struct str path);
/* Git's own files, which the Python package leaves out unless told otherwise. */
void signed_model_ignore_git(struct signed_model *m);

/* Sorts, then writes the statement. */
void signed_model_format(struct signed_model *m, struct buf *out);
/* E_INVAL, E_LIMIT, E_UNSUPPORTED (not SHA-256) in words; E_NOTFOUND: a statement about something else. */
int signed_model_parse(struct str payload, struct signed_model *ret_model, struct error *err);

/* The same for another kind of statement about the same files: `more` are keys of its predicate, with a comma after
 * each; the document stays the caller's. */
void signed_statement_format(struct signed_model *m, const char *kind, struct str more, struct buf *out);
int signed_statement_parse(struct str payload, const char *kind, struct signed_model *ret_model, yyjson_doc **ret_doc,
                           struct error *err);

/* `found` must have the same items: E_CORRUPT naming the first that is changed, missing or not signed. */
int signed_model_compare(const struct signed_model *is_signed, const struct signed_model *found, struct error *err);
/* Every file of the version is signed under its path and, where whole files are signed, with its digest; nothing signed
 * is missing. Git's own files need no signature. With shards the digests are for signed_model_compare to check. */
int signed_model_covers(const struct signed_model *m, const struct version *v, struct error *err);
/* Whole files of a version. */
void signed_model_of_version(const struct version *v, struct signed_model *ret_model);

#endif
