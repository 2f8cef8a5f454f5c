/* SPDX-License-Identifier: Apache-2.0 */
/* upstream.h - takes a model's manifest from another place into this repository.
 *
 * After that the manifest and its tag are here, small files too, and for each blob that is not it is known where to get
 * it (store/origins). It becomes a version once all of it is here: upstream_complete. A manifest of an OCI registry or
 * of Ollama's keeps its very bytes; a Hugging Face revision gets a ModelPack manifest that lists its files, and a tag
 * that is its commit. Loop thread; disk in jobs.
 */
#ifndef MDN_SERVE_REPOSITORY_UPSTREAM_H
#define MDN_SERVE_REPOSITORY_UPSTREAM_H

#include "serve/repository/through.h"

enum upstream_kind { UPSTREAM_OCI, UPSTREAM_OLLAMA, UPSTREAM_HF, UPSTREAM_FILE };
struct upstream_source {
	enum upstream_kind kind;
	char base[512];            /* https://HOST, nothing after it */
	char id[256];              /* its name there */
	char revision[160];        /* tag, digest, branch or commit */
	char include[512];         /* HF: patterns of paths, separated by commas; empty: all */
	char url[ORIGIN_URL_SIZE]; /* of a FILE, the whole of it; then id is its name */
	struct digest sha256;      /* of a FILE: what it must be */
	char to_name[129], to_tag[129];
	char who[160];    /* for the tag's history */
	char key[512];    /* of origins_asked, noted before the tag is there; empty: none */
	bool tag_at_once; /* else upstream_complete sets the tag: what it names until then stays whole */
};
/* "hf:ORG/REPO[@REVISION]", "oci:[http://]HOST[:PORT]/NAME[:TAG|@DIGEST]", "ollama:[HOST/]NAME[:TAG]", or the URL of a
 * file. What the text does not say is taken from hf_base and ollama_base; to_name and to_tag become what it is called
 * there. */
int upstream_parse(struct str text, struct str hf_base, struct str ollama_base, struct upstream_source *ret_source,
                   struct error *err);

struct upstream;
/* files: what the manifest names, held or not; manifest: its digest. All live for the call. */
struct upstream_found {
	struct digest manifest;
	const struct version_file *files;
	size_t file_count;
};
typedef void upstream_fn(void *arg, const struct upstream_found *found, const struct error *err);
/* Never calls back before it returns. */
struct upstream *upstream_take(struct mirror *m, const struct upstream_source *source, upstream_fn *fn, void *arg);
void upstream_cancel(struct upstream *u); /* fn will not be called */

/* The tag names the manifest, as a version when it is a model, if all of its blobs are here; else E_NOTFOUND. Blocks:
 * in a job. */
int upstream_complete(struct repository *r, struct str who, struct str name, struct str tag,
                      const struct digest *manifest, struct error *err);

#endif
