/* SPDX-License-Identifier: Apache-2.0 */
/* reference.h - the plainest use of llama.h, to compare the engine with: one sequence, one token a step, greedy; one
 * text, one vector. */
#ifndef MDN_TESTS_ENGINE_REFERENCE_H
#define MDN_TESTS_ENGINE_REFERENCE_H

#include "base/str.h"

/* Appends the text of `count` tokens after the prompt (fewer if the model ends). */
void reference_greedy(const char *model_path, const char *prompt, int32_t count, struct buf *text);
struct reference_rows {
	float *logits; /* rows of vocab; on the heap, as tokens */
	int32_t *tokens, count, vocab;
};
/* The logits from which each of `count` such tokens came; or, with count 0, those of each token of the prompt (which
 * foretell the next), all computed in one batch. */
struct reference_rows reference_logits(const char *model_path, const char *prompt, int32_t count);
void reference_rows_fini(struct reference_rows *rows);
/* What a model that pools makes of one text (NULL: of tokens), alone, not normalized; or its one rank. Returns how many
 * numbers. */
size_t reference_vector(const char *model_path, const char *text, const int32_t *tokens, int32_t count, float *vector,
                        size_t room);

#endif
