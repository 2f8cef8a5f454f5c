/* SPDX-License-Identifier: Apache-2.0 */
/* push.h - puts a model, a file or a folder, into a repository as a version (OCI distribution 1.1, ModelPack media
 * types), and on nodes.
 *
 * What is there already is not sent again, so a push that broke is repeated at no cost but the file that was under way.
 * Blocking, with progress on stderr unless quiet.
 */
#ifndef MDN_CLI_PUSH_H
#define MDN_CLI_PUSH_H

#include "base/digest.h"
#include "cli/client.h"

struct repository_at {
	char url[512];
	char id[64]; /* of the node, for its TLS identity; empty: plain HTTP */
};

/* Where pushes go: --repository URL, else a node of the center's list with that role. */
int repository_find(struct client *c, const char *url, struct repository_at *ret_at, struct error *err);
/* "name:tag" or "name"; name and tag as the OCI grammar wants them are the repository's to check. */
int name_tag_split(const char *text, char *ret_name, size_t name_size, char *ret_tag, size_t tag_size,
                   struct error *err);

struct push_options {
	const char *file; /* a GGUF file, or a folder: all files below it, but hidden ones */
	const char *name, *tag;
	const char *license;          /* NULL: as the file says */
	const char *base, *distilled; /* models it was made from; NULL: not said */
	const char *const *labels;    /* KEY=VALUE */
	size_t label_count;
	bool quiet;
};
int push_model(struct client *c, const struct repository_at *at, const struct push_options *o,
               struct digest *ret_manifest, struct error *err);

/* One blob, unless it is there already: fd's next `size` bytes when fd is not 0, else `content`. progress: NULL is
 * fine.
 */
struct progress;
int blob_push(struct client *c, const struct repository_at *at, const char *name, const char *digest, int fd,
              uint64_t size, struct str content, struct progress *progress, struct error *err);

/* Adds or removes the rule that nodes of the selector hold the model; *ret_count: nodes it is true of now. */
int place_model(struct client *c, const char *model, const char *selector, bool removes, size_t *ret_count,
                struct error *err);

/* The file's digest, read once, with progress. E_CANCELED: c was interrupted. */
int digest_of_file(struct client *c, int fd, uint64_t size, const char *what, bool quiet, struct digest *ret_digest,
                   struct error *err);

#endif
