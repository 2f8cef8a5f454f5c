/* SPDX-License-Identifier: Apache-2.0 */
/* ollama.h - what Ollama's client needs beyond OCI, from the same repositories and blobs.
 *
 * - Names have two parts; "library/NAME" is our NAME.
 * - It asks for manifests with Docker's type only; a version of other making is told in that form, made from its files
 *   alone (the same version, the same bytes).
 * - It takes a blob in ranges, without credentials, from the Location that a GET of the whole blob must carry: a URL on
 *   ourselves, signed for this blob and a day.
 * - It logs in with an ed25519 key: a signed request buys a token for a quarter of an hour. Operators list the public
 *   keys (ollama_keys).
 *
 * The secret behind URLs and tokens is made once and kept beside the data, so both outlive a restart. Source: Ollama
 * server/{images,download,upload,auth}.go. Loop thread, but for what jobs do inside.
 */
#ifndef MDN_SERVE_OLLAMA_H
#define MDN_SERVE_OLLAMA_H

#include "serve/repository/access.h"

#define OLLAMA_TOKEN_PATH "/mdn/v1/ollama/token"

/* path empty: a secret for this run only. */
int ollama_init(struct repository *r, struct str secret_path, struct error *err);
void ollama_fini(struct repository *r);

/* What it (and Docker) calls library/NAME is NAME. */
struct str ollama_name(struct str repo);
/* It goes on with an upload at an absolute URL only; others take the Location. */
void ollama_add_upload(struct repository *r, struct http_exchange *x, struct str location);

/* The only type it reads, and by which it is known: others ask for more. */
#define OLLAMA_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
bool ollama_asks(const struct http_exchange *x);
/* GET of a manifest as Ollama asks for it; false: somebody else's, nothing was answered. */
bool ollama_manifest(struct repository *r, struct http_exchange *x, struct str repo, struct str reference);
/* The config of a manifest that was given out, until it is fetched; the last OLLAMA_CONFIGS are kept. */
#define OLLAMA_CONFIGS 1024
void ollama_keep_config(struct repository *r, struct str repo, struct str config);
/* Answers with such a config; false: the blob is not one. */
bool ollama_config(struct repository *r, struct http_exchange *x, struct str repo, struct str digest);
/* For a GET of a whole blob that is there: the Location where its ranges are. */
void ollama_add_location(struct repository *r, struct http_exchange *x, struct str repo, struct str digest);
/* The request is for the very blob, and not later, than a URL of ours was signed for. */
bool ollama_is_signed(struct repository *r, struct http_exchange *x, struct str repo, struct str digest);

/* /mdn/v1/ollama/token: public key and signature in Authorization, {"token"} back. */
void ollama_token(struct repository *r, struct http_exchange *x);
/* Appends what WWW-Authenticate says when the client is Ollama; false: it is not. */
bool ollama_challenge(struct repository *r, struct http_exchange *x, struct buf *out);
/* Whose token is it? False: none of ours, or too old. */
bool ollama_tenant(struct repository *r, struct str token, char ret_tenant[static 32]);

/* Pure, for the above and for tests. "ssh-ed25519 BASE64 [comment]", or the BASE64 alone. */
int ollama_key_parse(struct str text, uint8_t ret_key[static 32], struct error *err);
/* "BASE64:BASE64", a public key and its signature over `signed_text`; the key when it is right. E_AUTH in words. */
int ollama_signature_check(struct str authorization, struct str signed_text, uint8_t ret_key[static 32],
                           struct error *err);

#endif
