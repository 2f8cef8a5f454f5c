/* SPDX-License-Identifier: Apache-2.0 */
/* repository.h - the model repository: OCI distribution endpoints over blob store and catalog, and the catalog feed.
 *
 * A manifest with a tag that names a GGUF layer becomes a version: header parsed and bounded, chunk list built and
 * stored, catalog written, feed woken. Loop thread; disk work in jobs. Store and catalog are borrowed and must live
 * until the loop is freed, for jobs may still run when repository_free returns. Who may call is decided before
 * repository_handle. Source: OCI distribution-spec 1.1; docs/wire.md, "Repository".
 */
#ifndef MDN_SERVE_REPOSITORY_H
#define MDN_SERVE_REPOSITORY_H

#include "net/http.h"
#include "store/blob.h"
#include "store/catalog.h"

struct repository;

/* Who may do what on the plain port: access.h. */
enum repository_access {
	REPOSITORY_OPEN, /* whoever reaches it reads and writes */
	REPOSITORY_PULL, /* reads; writing needs a key */
	REPOSITORY_KEY,  /* both need a key */
};
struct repository_rules {
	enum repository_access access;
	const struct str *private_names; /* patterns (`*`, `?`, `[a-z]`) of names that always need a key */
	size_t private_count;
	const struct str *hosts; /* what may stand in Host beside loopback; a pattern `*` is any */
	size_t host_count;       /* 0 and not `loopback`: any */
	bool loopback;           /* listens on loopback only: other names in Host are a browser led astray */
	bool tls;                /* the plain port is one with TLS after all */
};
/* What is taken from elsewhere: mirror.h. The URLs are of places whose models clients may ask for here. */
struct repository_mirror {
	struct str folder;        /* for what is known of other places; empty: nothing is taken from elsewhere */
	struct str allowed, keys; /* HOST,... and HOST=KEY,...: net/outside.h, hub.h */
	struct str proxy, ca_file;
	struct str hf, ollama, oci; /* empty: that door gives what is here only */
	int64_t fresh_us;
};
struct repository_options {
	struct blob_store *store;
	struct catalog *catalog;
	uint64_t chunk_size;           /* 0: CHUNK_SIZE_DEFAULT */
	struct repository_rules rules; /* copied */
	/* Whose key is it? False: nobody's. NULL: there are no keys. */
	bool (*check_key)(void *arg, struct str key, char ret_tenant[static 32]);
	void *arg;
	struct str secret_path; /* of what URLs and tokens for Ollama are signed with; empty: good for this run */
	struct str work;        /* folder for what is being quantized, emptied at start; empty: no quantizing */
	struct str program;     /* the mdn that quantizes; empty: this very one */
	struct repository_mirror mirror;
	int64_t upload_idle_us; /* an upload nobody adds to is dropped after so long; 0: 1 h */
};
int repository_new(struct loop *loop, const struct repository_options *options, struct repository **ret_repository,
                   struct error *err);
void repository_free(struct repository *r);
void repository_set_rules(struct repository *r, const struct repository_rules *rules);
/* Public ed25519 keys of Ollama clients ("ssh-ed25519 AAAA..."), which count as API keys; replaces all. */
int repository_set_ollama_keys(struct repository *r, const struct str *keys, size_t count, struct error *err);
/* /v2/..., /mdn/v1/..., /api/models..., /NAME/resolve/... */
bool repository_handle(struct repository *r, struct http_exchange *x);

#endif
