/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.h - guesses at the next tokens, to be verified: a C face on llama.cpp's common_speculative.
 *
 * From n-grams seen before in the same sequence, or from a small model with the same vocabulary. A guess says nothing
 * about what is right: the caller computes guessed tokens as if they were known and keeps those its own sampler draws.
 * Sequences are named by slot. Nothing needs to be told of requests that come and go: each guess begins with what
 * that slot's tokens have in common with those of the last one. Engine thread only; no exception leaves.
 */
#ifndef MDN_ENGINE_SPECULATE_H
#define MDN_ENGINE_SPECULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/error.h"
#include "base/str.h"

struct llama_context;
struct ggml_threadpool;
struct speculate;

enum { SPECULATE_MOST = 8 }; /* tokens a guess */

struct speculate_options {
	const char *draft_path;       /* NULL: from n-grams */
	struct llama_context *target; /* whose vocabulary counts; outlives this */
	struct ggml_threadpool *pool; /* the target's, which rests meanwhile; may be NULL */
	int32_t slots, threads, kv_tokens;
};

/* E_CORRUPT: the small model does not load; E_UNSUPPORTED: it cannot guess for this one. */
int speculate_new(const struct speculate_options *options, struct speculate **ret_speculate, struct error *err);
void speculate_free(struct speculate *speculate);
/* Wishes of one step: what follows `tokens`, at most `most`. Then one run for all of them, then the guesses. */
void speculate_want(struct speculate *speculate, int32_t slot, const int32_t *tokens, int32_t count, int32_t most);
void speculate_run(struct speculate *speculate);
int32_t speculate_get(struct speculate *speculate, int32_t slot, int32_t *ret_tokens); /* how many; 0: none */
void speculate_tell(struct speculate *speculate, int32_t slot, int32_t accepted);      /* of the last guess */

#ifdef __cplusplus
}
#endif
#endif
