/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.cpp - the small model's context follows the slots lazily: when a guess is wanted, what its KV has in common
 * with the slot's tokens stays and the rest is computed, a bounded piece a step; until it has caught up there is no
 * guess. So slots that are given to others, preempted or not guessed for need no book-keeping.
 */
#include "engine/speculate.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include <common.h>
#include <speculative.h>

namespace
{

const int32_t NGRAM = 3; /* tokens that must have come before in the same order */
const int32_t CATCH_UP = 256;

struct sequence {
	llama_tokens held;   /* n-grams: the tokens but the last; a small model: what its KV holds */
	llama_tokens prompt; /* the tokens but the last */
	llama_tokens guess;
	llama_token last = 0;
	int32_t most = 0; /* 0: nothing is wanted */
	bool guessed = false;
};

} // namespace

struct speculate {
	llama_model_ptr model;
	llama_context_ptr context;
	common_params_speculative params;
	common_speculative_ptr inside;
	std::vector<sequence> sequences;

	void load(const speculate_options &options);
	bool follow(int32_t slot);
	void forget(int32_t slot);
};

/* What llama.cpp will ask of the two; it throws when it has taken memory that it then loses. */
static bool same_vocabulary(const llama_vocab *a, const llama_vocab *b)
{
	const int32_t APART = 128, FIRST = 5; /* as there: so many more tokens, and the control tokens may differ */
	int32_t least = std::min(llama_vocab_n_tokens(a), llama_vocab_n_tokens(b));

	if (llama_vocab_type(a) != llama_vocab_type(b) || llama_vocab_n_tokens(a) - least > APART ||
	    llama_vocab_n_tokens(b) - least > APART)
		return false;
	if (llama_vocab_get_add_bos(a) != llama_vocab_get_add_bos(b) ||
	    (llama_vocab_get_add_bos(a) && llama_vocab_bos(a) != llama_vocab_bos(b)) ||
	    llama_vocab_get_add_eos(a) != llama_vocab_get_add_eos(b) ||
	    (llama_vocab_get_add_eos(a) && llama_vocab_eos(a) != llama_vocab_eos(b)))
		return false;
	for (llama_token t = FIRST; t < least; t++)
		if (std::strcmp(llama_vocab_get_text(a, t), llama_vocab_get_text(b, t)) != 0)
			return false;
	return true;
}

void speculate::load(const speculate_options &options)
{
	llama_model_params model_params = llama_model_default_params();
	model.reset(llama_model_load_from_file(options.draft_path, model_params));
	if (!model)
		throw std::bad_exception();
	if (llama_model_is_recurrent(model.get()) || llama_model_is_hybrid(model.get()) ||
	    llama_model_has_encoder(model.get()))
		throw std::invalid_argument("its state cannot step back");
	if (!same_vocabulary(llama_model_get_vocab(llama_get_model(options.target)),
	                     llama_model_get_vocab(model.get())))
		throw std::invalid_argument("it has another vocabulary");
	llama_context_params params = llama_context_default_params();
	params.n_ctx = (uint32_t)options.kv_tokens;
	params.n_batch = params.n_ubatch = std::max(CATCH_UP, options.slots);
	params.n_seq_max = params.n_outputs_max = (uint32_t)options.slots;
	params.n_threads = params.n_threads_batch = options.threads;
	params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
	params.kv_unified = true;
	params.no_perf = true;
	context.reset(llama_init_from_model(model.get(), params));
	if (!context)
		throw std::invalid_argument("llama.cpp makes no context for it");
	if (options.pool)
		llama_attach_threadpool(context.get(), options.pool, options.pool);
}

extern "C" int speculate_new(const speculate_options *options, speculate **ret_speculate, error *err)
{
	const char *path = options->draft_path;
	try {
		auto s = std::make_unique<speculate>();
		if (path)
			s->load(*options);
		s->params.types = {path ? COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE : COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE};
		s->params.draft.n_max = SPECULATE_MOST / 2; /* each costs a run of the small model */
		s->params.draft.ctx_tgt = options->target;
		s->params.draft.ctx_dft = s->context.get();
		s->params.ngram_simple.size_n = NGRAM;
		s->params.ngram_simple.size_m = SPECULATE_MOST;
		s->sequences.resize((size_t)options->slots);
		s->inside.reset(common_speculative_init(s->params, (uint32_t)options->slots));
		*ret_speculate = s.release();
		return 0;
	} catch (const std::bad_exception &) {
		return error_set(err, E_CORRUPT, "cannot load the draft model %s", path);
	} catch (const std::exception &e) {
		return error_set(err, E_UNSUPPORTED, "the draft model %s cannot guess for this model: %.200s",
		                 path ? path : "(n-grams)", e.what());
	}
}

extern "C" void speculate_free(speculate *speculate)
{
	delete speculate;
}

void speculate::forget(int32_t slot)
{
	llama_memory_seq_rm(llama_get_memory(context.get()), slot, -1, -1);
	sequences[(size_t)slot].held.clear();
}

/* True: the small model's KV holds the whole prompt of the slot, and nothing else. */
bool speculate::follow(int32_t slot)
{
	auto &s = sequences[(size_t)slot];
	size_t common = 0;

	while (common < s.held.size() && common < s.prompt.size() && s.held[common] == s.prompt[common])
		common++;
	if (common < s.held.size()) {
		if (common && llama_memory_seq_rm(llama_get_memory(context.get()), slot, (llama_pos)common, -1))
			s.held.resize(common);
		else
			forget(slot);
	}
	size_t at = s.held.size(), count = std::min(s.prompt.size() - at, (size_t)CATCH_UP);
	if (count) {
		llama_batch batch = llama_batch_init((int32_t)count, 0, 1);
		for (size_t i = 0; i < count; i++)
			common_batch_add(batch, s.prompt[at + i], (llama_pos)(at + i), {slot}, i + 1 == count);
		int rc = llama_decode(context.get(), batch);
		llama_batch_free(batch);
		if (rc != 0) {
			/* No room: whoever guesses goes first; the others begin again. */
			for (size_t i = 0; i < sequences.size(); i++)
				forget((int32_t)i);
			return false;
		}
		s.held.insert(s.held.end(), s.prompt.begin() + (ptrdiff_t)at,
		              s.prompt.begin() + (ptrdiff_t)(at + count));
	}
	return s.held.size() == s.prompt.size();
}

extern "C" void speculate_want(speculate *speculate, int32_t slot, const int32_t *tokens, int32_t count, int32_t most)
{
	auto &s = speculate->sequences[(size_t)slot];

	/* Mostly a token or some more than the last time. */
	size_t known = s.prompt.size() < (size_t)count ? s.prompt.size() : 0;
	if (known && !std::equal(s.prompt.begin(), s.prompt.end(), tokens))
		known = 0;
	s.prompt.resize(known);
	s.prompt.insert(s.prompt.end(), tokens + known, tokens + count - 1);
	s.last = tokens[count - 1];
	s.most = most < SPECULATE_MOST ? most : SPECULATE_MOST;
}

extern "C" void speculate_run(speculate *speculate)
{
	auto *inside = speculate->inside.get();
	bool any = false;

	for (size_t i = 0; i < speculate->sequences.size(); i++) {
		auto &s = speculate->sequences[i];
		s.guess.clear();
		s.guessed = false;
		if (s.most <= 0 || (speculate->context && !speculate->follow((int32_t)i)))
			continue;
		auto &draft = common_speculative_get_draft_params(inside, (llama_seq_id)i);
		draft.drafting = any = true;
		draft.n_max = s.most;
		draft.pos0 = (llama_pos)s.prompt.size();
		draft.id_last = s.last;
		draft.prompt = &s.prompt;
		draft.result = &s.guess;
	}
	if (!any)
		return;
	common_speculative_draft(inside);
	for (size_t i = 0; i < speculate->sequences.size(); i++) {
		auto &s = speculate->sequences[i];
		int32_t slot = (int32_t)i;
		if (speculate->context && s.most > 0 && !s.held.empty() && s.held.size() == s.prompt.size()) {
			/* It has also computed the last token and all guesses but the last. */
			llama_pos most = llama_memory_seq_pos_max(llama_get_memory(speculate->context.get()), slot);
			size_t guesses = (size_t)most - s.prompt.size();
			if (most >= (llama_pos)s.prompt.size() && guesses <= s.guess.size()) {
				s.held.push_back(s.last);
				s.held.insert(s.held.end(), s.guess.begin(), s.guess.begin() + (ptrdiff_t)guesses);
			} else {
				speculate->forget(slot);
			}
		}
		if ((int32_t)s.guess.size() > s.most)
			s.guess.resize((size_t)s.most);
		s.guessed = !s.guess.empty();
		s.most = 0;
	}
}

extern "C" int32_t speculate_get(speculate *speculate, int32_t slot, int32_t *ret_tokens)
{
	auto &s = speculate->sequences[(size_t)slot];

	std::copy(s.guess.begin(), s.guess.end(), ret_tokens);
	return (int32_t)s.guess.size();
}

extern "C" void speculate_tell(speculate *speculate, int32_t slot, int32_t accepted)
{
	if (speculate->sequences[(size_t)slot].guessed)
		common_speculative_accept(speculate->inside.get(), slot, (uint16_t)accepted);
}
