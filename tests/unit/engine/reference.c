/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - see the header. Nothing of ours is used but the buffer. */
#include "reference.h"

#include <llama.h>
#include <stdlib.h>

void reference_greedy(const char *model_path, const char *prompt, int32_t count, struct buf *text)
{
	struct llama_model *model = llama_model_load_from_file(model_path, llama_model_default_params());
	struct llama_context_params params = llama_context_default_params();
	params.n_ctx = 2048;
	params.n_threads = params.n_threads_batch = 1; /* spinning threads on shared cores are slow */
	params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
	struct llama_context *context = llama_init_from_model(model, params);
	const struct llama_vocab *vocab = llama_model_get_vocab(model);
	llama_token tokens[2048];
	int32_t n = llama_tokenize(vocab, prompt, (int32_t)strlen(prompt), tokens, 2048, true, true);
	struct llama_batch batch = llama_batch_get_one(tokens, n);

	for (int32_t i = 0; i < count; i++) {
		if (llama_decode(context, batch) != 0)
			abort();
		const float *logits = llama_get_logits_ith(context, -1);
		llama_token best = 0;
		for (llama_token t = 1; t < llama_vocab_n_tokens(vocab); t++)
			if (logits[t] > logits[best])
				best = t;
		if (llama_vocab_is_eog(vocab, best))
			break;
		char piece[256];
		int32_t len = llama_token_to_piece(vocab, best, piece, sizeof(piece), 0, false);
		buf_append(text, piece, len > 0 ? (size_t)len : 0);
		tokens[0] = best;
		batch = llama_batch_get_one(tokens, 1);
	}
	buf_append(text, "", 1);
	text->len--;
	llama_free(context);
	llama_model_free(model);
}

size_t reference_vector(const char *model_path, const char *text, const int32_t *given, int32_t count, float *vector,
                        size_t room)
{
	struct llama_model *model = llama_model_load_from_file(model_path, llama_model_default_params());
	struct llama_context_params params = llama_context_default_params();
	params.n_ctx = params.n_batch = params.n_ubatch = 512;
	params.n_threads = params.n_threads_batch = 1;
	params.embeddings = true;
	struct llama_context *context = llama_init_from_model(model, params);
	llama_token tokens[512];

	if (text)
		count =
		    llama_tokenize(llama_model_get_vocab(model), text, (int32_t)strlen(text), tokens, 512, true, true);
	else
		memcpy(tokens, given, (size_t)count * sizeof(*given));
	struct llama_batch batch = llama_batch_get_one(tokens, count);
	size_t size =
	    llama_pooling_type(context) == LLAMA_POOLING_TYPE_RANK ? 1 : (size_t)llama_model_n_embd_out(model);
	if (size > room || llama_decode(context, batch) != 0)
		abort();
	memcpy(vector, llama_get_embeddings_seq(context, 0), size * sizeof(*vector));
	llama_free(context);
	llama_model_free(model);
	return size;
}
