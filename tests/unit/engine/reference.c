/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - see the header. Nothing of ours is used but the buffer. */
#include "reference.h"

#include <llama.h>
#include <stdlib.h>

struct plain {
	struct llama_model *model;
	struct llama_context *context;
	const struct llama_vocab *vocab;
	llama_token tokens[2048];
	int32_t count;
};

static void plain_open(struct plain *p, const char *model_path, const char *prompt)
{
	struct llama_context_params params = llama_context_default_params();

	p->model = llama_model_load_from_file(model_path, llama_model_default_params());
	params.n_ctx = 2048;
	params.n_threads = params.n_threads_batch = 1; /* spinning threads on shared cores are slow */
	params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
	p->context = llama_init_from_model(p->model, params);
	p->vocab = llama_model_get_vocab(p->model);
	p->count = llama_tokenize(p->vocab, prompt, (int32_t)strlen(prompt), p->tokens, 2048, true, true);
}

static void plain_close(struct plain *p)
{
	llama_free(p->context);
	llama_model_free(p->model);
}

static llama_token plain_best(const struct plain *p, const float *logits)
{
	llama_token best = 0;

	for (llama_token t = 1; t < llama_vocab_n_tokens(p->vocab); t++)
		if (logits[t] > logits[best])
			best = t;
	return best;
}

void reference_greedy(const char *model_path, const char *prompt, int32_t count, struct buf *text)
{
	struct plain p;

	plain_open(&p, model_path, prompt);
	struct llama_batch batch = llama_batch_get_one(p.tokens, p.count);
	for (int32_t i = 0; i < count; i++) {
		if (llama_decode(p.context, batch) != 0)
			abort();
		llama_token best = plain_best(&p, llama_get_logits_ith(p.context, -1));
		if (llama_vocab_is_eog(p.vocab, best))
			break;
		char piece[256];
		int32_t len = llama_token_to_piece(p.vocab, best, piece, sizeof(piece), 0, false);
		buf_append(text, piece, len > 0 ? (size_t)len : 0);
		p.tokens[0] = best;
		batch = llama_batch_get_one(p.tokens, 1);
	}
	buf_append(text, "", 1);
	text->len--;
	plain_close(&p);
}

static void rows_add(struct reference_rows *rows, const float *logits, llama_token token)
{
	size_t size = (size_t)rows->vocab * sizeof(float);

	rows->logits = mem_resize(rows->logits, (size_t)rows->count + 1, size);
	rows->tokens = mem_resize(rows->tokens, (size_t)rows->count + 1, sizeof(*rows->tokens));
	memcpy(rows->logits + (size_t)rows->count * (size_t)rows->vocab, logits, size);
	rows->tokens[rows->count++] = token;
}

struct reference_rows reference_logits(const char *model_path, const char *prompt, int32_t count)
{
	struct reference_rows rows = {0};
	struct plain p;

	plain_open(&p, model_path, prompt);
	rows.vocab = llama_vocab_n_tokens(p.vocab);
	if (count == 0) {
		struct llama_batch all = llama_batch_init(p.count, 0, 1);
		for (int32_t i = 0; i < p.count; i++) {
			all.token[i] = p.tokens[i];
			all.pos[i] = i;
			all.n_seq_id[i] = 1;
			all.seq_id[i][0] = 0;
			all.logits[i] = true;
		}
		all.n_tokens = p.count;
		if (llama_decode(p.context, all) != 0)
			abort();
		for (int32_t i = 0; i < p.count; i++)
			rows_add(&rows, llama_get_logits_ith(p.context, i), p.tokens[i]);
		llama_batch_free(all);
	}
	struct llama_batch batch = llama_batch_get_one(p.tokens, p.count);
	for (int32_t i = 0; i < count; i++) {
		if (llama_decode(p.context, batch) != 0)
			abort();
		const float *logits = llama_get_logits_ith(p.context, -1);
		llama_token best = plain_best(&p, logits);
		if (llama_vocab_is_eog(p.vocab, best))
			break;
		rows_add(&rows, logits, best);
		p.tokens[0] = best;
		batch = llama_batch_get_one(p.tokens, 1);
	}
	plain_close(&p);
	return rows;
}

void reference_rows_fini(struct reference_rows *rows)
{
	free(rows->logits);
	free(rows->tokens);
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
