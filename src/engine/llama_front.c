/* SPDX-License-Identifier: Apache-2.0 */
/* llama_front.c - the loop's side of the llama kind.
 *
 * Rendering a template and tokenizing a long prompt take milliseconds; both run in the job pool, so neither the loop
 * nor the batch waits for them. Answers with tool calls or reasoning are parsed here, on delivery, for the same reason.
 */
#include "engine/llama_cache.h"
#include "engine/llama_parts.h"

#include "base/log.h"

#include <assert.h>
#include <stdlib.h>

static struct llama_engine *engine_of(const struct engine_request *request)
{
	return (struct llama_engine *)request->engine;
}

static void llama_mail_arrived(void *arg);
static void llama_begin(struct llama_request *r);

static void settings_free(struct llama_settings *settings)
{
	free(settings->model_path);
	free(settings->model_name);
	free(settings->cache_folder);
	free(settings->draft_path);
	for (size_t i = 0; i < 2 * settings->adapter_count; i++)
		free(settings->adapters[i]);
	free(settings->adapters);
}

static void settings_adapters(struct llama_settings *settings, const struct engine_options *options)
{
	settings->adapter_count = options->adapter_count;
	settings->adapters = mem_new((2 * options->adapter_count + 1) * sizeof(*settings->adapters));
	for (size_t i = 0; i < options->adapter_count; i++) {
		settings->adapters[2 * i] = str_dup(options->adapter_names[i]);
		settings->adapters[2 * i + 1] = str_dup(options->adapter_paths[i]);
	}
}

static int settings_speculate(struct llama_settings *settings, const struct engine_options *options, struct error *err)
{
	static const char *const words[] = {"none", "ngram", "draft"};
	size_t i = 0;

	settings->deterministic = options->deterministic;
	while (i < 3 && options->speculate.len && !str_equal(options->speculate, str_from(words[i])))
		i++;
	if (i == 3)
		return error_set(err, E_INVAL, "speculate \"" STR_FMT "\" is unknown: none, ngram or draft",
		                 STR_ARG(options->speculate));
	settings->speculation = (enum llama_speculation)i;
	if (settings->speculation == LLAMA_SPECULATE_DRAFT && !options->draft_path.len)
		return error_set(err, E_INVAL, "speculate is \"draft\": name the small model in draft_path");
	if (settings->speculation && options->deterministic)
		return error_set(err, E_INVAL,
		                 "deterministic and speculate exclude each other: how many tokens are "
		                 "computed at once changes the last bits");
	settings->draft_path = str_dup(options->draft_path);
	return 0;
}

int engine_llama_new(const struct engine_options *options, struct engine **ret_engine, struct error *err)
{
	if (!options->model_path.len)
		return error_set(err, E_INVAL, "the llama engine needs a model file");
	struct llama_engine *e = NEW(struct llama_engine);
	e->base.ops = &engine_llama_ops;
	e->settings = (struct llama_settings){
	    .model_path = str_dup(options->model_path),
	    .slots = options->slots > 0 ? options->slots : 8,
	    .context_tokens = options->context_tokens,
	    .batch_tokens = options->batch_tokens > 0 ? options->batch_tokens : 512,
	    .threads = options->threads,
	    .kv_tokens = options->kv_tokens,
	    .itl_target_us = options->itl_target_us,
	    .swap_bytes = options->swap_bytes,
	    .model_name = str_dup(options->model_name),
	    .cache_folder = str_dup(options->cache_folder),
	    .cache_memory_bytes = options->cache_memory_bytes,
	    .cache_disk_bytes = options->cache_disk_bytes,
	    .mlock = options->mlock,
	    .permille = &e->loaded_permille,
	};
	settings_adapters(&e->settings, options);
	if (!llama_pooling_named(options->pooling, &e->settings.pooling)) {
		settings_free(&e->settings);
		free(e);
		return error_set(err, E_INVAL, "pooling \"" STR_FMT "\" is unknown: mean, cls, last or empty",
		                 STR_ARG(options->pooling));
	}
	if (settings_speculate(&e->settings, options, err) < 0) {
		int rc = err->code;
		settings_free(&e->settings);
		free(e);
		return rc;
	}
	/* Sequence ids end at 255 in llama.cpp, and one is kept for moving KV about. */
	if (e->settings.slots > 254)
		e->settings.slots = 254;
	e->base.info.slots = e->settings.slots;
	*ret_engine = &e->base;
	return 0;
}

void engine_llama_start(struct engine *engine, const struct engine_options *options)
{
	struct llama_engine *e = (struct llama_engine *)engine;
	(void)options;

	e->refs = 1;
	llama_mail_init(&e->mail, engine->loop, llama_mail_arrived, e);
	int rc = pthread_create(&e->thread, NULL, llama_thread, e);
	assert(rc == 0);
	(void)rc;
}

static void llama_unref(struct llama_engine *e)
{
	if (--e->refs)
		return;
	if (e->box)
		llama_box_unref(e->box);
	llama_mail_fini(&e->mail);
	settings_free(&e->settings);
	free(e);
}

/* ---- requests going in ------------------------------------------------------------------------- */

static int llama_submit(struct engine *engine, const struct engine_params *params, struct engine_request *request,
                        struct error *err)
{
	struct llama_engine *e = (struct llama_engine *)engine;
	struct llama_request *r = (struct llama_request *)request;

	if (e->box) {
		int rc = engine_task_check(&engine->info, params, err);
		if (rc < 0)
			return rc;
	}
	engine_copy_init(&r->copy, params);
	if (e->box) {
		llama_begin(r);
		return 0;
	}
	struct llama_request **at = &e->held;
	while (*at)
		at = &(*at)->held_next;
	*at = r;
	return 0;
}

static int llama_render(struct llama_request *r, const struct llama_box *box, struct error *err)
{
	const struct engine_params *p = &r->copy.params;

	if (p->task == ENGINE_COMPLETION)
		return p->json_schema.len ? chat_constrain(llama_box_model(box), p->json_schema, &r->prompt, err) : 0;
	struct chat_ask ask = {p->messages_json, p->tools_json, p->tool_choice, p->json_schema, false};
	return chat_render(llama_box_chat(box), &ask, &r->prompt, err);
}

/* Whose prompts this request may find: KV depends on the adapter, too. */
static struct prefix_salt salt_of(const struct engine_params *p)
{
	const struct str parts[] = {p->cache_salt.len ? STR("salt") : STR("tenant"),
	                            p->cache_salt.len ? p->cache_salt : p->tenant, p->adapter};
	struct digest_stream *s = digest_stream_new();
	struct prefix_salt salt;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		uint64_t len = parts[i].len;
		digest_stream_add(s, &len, sizeof(len));
		digest_stream_add(s, parts[i].base, parts[i].len);
	}
	struct digest digest = digest_stream_end(s);
	digest_stream_free(s);
	memcpy(salt.bytes, digest.bytes, sizeof(salt.bytes));
	/* The file of an adapter may change under its name. */
	cache_salt_stays_in_memory(&salt, p->adapter.len > 0);
	return salt;
}

static int llama_tokenize_prompt(struct llama_request *r, const struct llama_box *box, int32_t context,
                                 struct error *err)
{
	const struct engine_params *p = &r->copy.params;

	if (p->task == ENGINE_CHAT)
		return llama_box_tokenize(box, r->prompt->text, context, &r->tokens, &r->token_count, err);
	if (p->prompt_token_count > (size_t)context)
		return error_set(err, E_LIMIT, "the prompt has %zu tokens, the context %d: shorten the prompt",
		                 p->prompt_token_count, context);
	for (size_t i = 0; i < p->prompt_token_count; i++)
		if (p->prompt_tokens[i] < 0 || p->prompt_tokens[i] >= llama_box_vocab(box))
			return error_set(err, E_INVAL, "prompt: %d is no token of this model, it has 0 to %d",
			                 p->prompt_tokens[i], llama_box_vocab(box) - 1);
	if (p->suffix.len)
		return llama_box_infill(box, p, context, &r->tokens, &r->token_count, err);
	if (!p->prompt_token_count)
		return llama_box_tokenize(box, p->prompt, context, &r->tokens, &r->token_count, err);
	r->token_count = (int32_t)p->prompt_token_count;
	r->tokens = mem_new(p->prompt_token_count * sizeof(*r->tokens));
	memcpy(r->tokens, p->prompt_tokens, p->prompt_token_count * sizeof(*r->tokens));
	return 0;
}

/* Behind the prompt come the tokens that the answer has already; the grammar goes through them here, where nobody waits
 * for it. */
static int llama_resume(struct llama_request *r, const struct llama_box *box, int32_t context, struct error *err)
{
	const struct engine_params *p = &r->copy.params;
	size_t count = p->resumed_count, room = context > r->token_count ? (size_t)(context - r->token_count) : 0;

	if (!count)
		return 0;
	if (count > room)
		return error_set(err, E_LIMIT, "prompt and answer have %zu tokens, the context %d",
		                 (size_t)r->token_count + count, context);
	for (size_t i = 0; i < count; i++) {
		int32_t token = p->resumed[i];
		if (token < 0 || token >= llama_box_vocab(box) || llama_box_ends(box, token))
			return error_set(err, E_INVAL, "%d cannot be a token of an answer of this model", token);
		if (r->thread.grammar && chat_grammar_accept(r->thread.grammar, token, err) < 0)
			return err->code;
	}
	r->token_room = r->token_count + (int32_t)count;
	r->tokens = mem_resize(r->tokens, (size_t)r->token_room, sizeof(*r->tokens));
	memcpy(r->tokens + r->token_count, p->resumed, count * sizeof(*r->tokens));
	r->token_count = r->token_room;
	return 0;
}

/* In the job pool: nothing but the request's own parts and the immutable box. */
static void llama_prepare(void *arg)
{
	struct llama_request *r = arg;
	struct llama_engine *e = engine_of(&r->base);
	struct error *err = &r->err;
	enum engine_task task = r->copy.params.task;

	if (engine_task_check(&e->base.info, &r->copy.params, err) < 0)
		return;
	if (task == ENGINE_EMBED || task == ENGINE_RERANK) {
		llama_embed_prepare(r, e->box, e->base.info.context_tokens, err);
		return;
	}
	if (task == ENGINE_TOKENIZE || task == ENGINE_DETOKENIZE) {
		llama_tokens_prepare(r, e->box, e->base.info.context_tokens, err);
		return;
	}
	if (llama_render(r, e->box, err) < 0)
		return;
	if (r->prompt && r->prompt->constrained &&
	    chat_grammar_new(r->prompt, llama_box_pieces(e->box), &r->thread.grammar, err) < 0)
		return;
	if (r->prompt && r->prompt->parsed)
		r->reader = chat_reader_new(r->prompt, r->copy.params.answer_id);
	if (llama_tokenize_prompt(r, e->box, e->base.info.context_tokens, err) < 0)
		return;
	r->prompt_count = r->token_room = r->token_count;
	if (llama_resume(r, e->box, e->base.info.context_tokens, err) < 0)
		return;
	r->salt = salt_of(&r->copy.params);
	if (llama_box_adapter(e->box, r->copy.params.adapter, &r->adapter, err) < 0)
		return;
	if (r->prompt_count == 0)
		error_set(err, E_INVAL, "the prompt is empty");
	else if (r->prompt_count >= e->base.info.context_tokens)
		error_set(err, E_LIMIT, "the prompt has %d tokens, the context %d: shorten the prompt", r->prompt_count,
		          e->base.info.context_tokens);
}

static void llama_told(struct llama_request *r)
{
	const struct engine_event event = {
	    .kind = ENGINE_DONE,
	    .finish = FINISH_STOP,
	    .prompt_tokens = r->token_count,
	    .tokens = r->tokens,
	    .token_count = (size_t)r->token_count,
	    .logprobs = r->embed.pieces,
	    .logprob_count = r->embed.pieces ? (size_t)r->token_count : 0,
	    .text = r->copy.params.task == ENGINE_DETOKENIZE ? buf_str(&r->embed.text) : (struct str){0},
	};

	engine_finish_event(&r->base, &event);
}

static void llama_prepared(void *arg)
{
	struct llama_request *r = arg;
	struct llama_engine *e = engine_of(&r->base);

	if (r->base.gone) {
		engine_request_free(&r->base);
	} else if (r->err.code) {
		struct error err = r->err;
		engine_finish(&r->base, FINISH_ERROR, &err, r->prompt_count, 0, 0);
	} else if (r->copy.params.task == ENGINE_TOKENIZE || r->copy.params.task == ENGINE_DETOKENIZE) {
		llama_told(r);
	} else {
		r->stage = LLAMA_HANDED;
		llama_mail_submit(&e->mail, r);
	}
	llama_unref(e);
}

static void llama_begin(struct llama_request *r)
{
	struct llama_engine *e = engine_of(&r->base);

	r->stage = LLAMA_IN_JOB;
	e->refs++;
	loop_job(e->base.loop, llama_prepare, llama_prepared, r);
}

static void llama_cancel(struct engine_request *request)
{
	struct llama_request *r = (struct llama_request *)request;
	struct llama_engine *e = engine_of(request);

	atomic_store(&r->canceled, true);
	if (r->stage == LLAMA_HANDED) {
		llama_mail_wake(&e->mail);
	} else if (r->stage == LLAMA_HELD) {
		for (struct llama_request **at = &e->held; *at; at = &(*at)->held_next)
			if (*at == r) {
				*at = r->held_next;
				break;
			}
		engine_request_free(request);
	} /* LLAMA_IN_JOB: freed when the job is done */
}

static void llama_paused(struct engine_request *request)
{
	struct llama_request *r = (struct llama_request *)request;

	atomic_store(&r->paused, request->paused);
	if (r->stage == LLAMA_HANDED && !request->paused)
		llama_mail_wake(&engine_of(request)->mail);
}

static void llama_request_fini(struct engine_request *request)
{
	struct llama_request *r = (struct llama_request *)request;

	llama_embed_fini(&r->embed);
	chat_grammar_free(r->thread.grammar);
	chat_reader_free(r->reader);
	chat_prompt_free(r->prompt);
	sampler_fini(&r->thread.sampler);
	answer_fini(&r->thread.answer);
	buf_fini(&r->thread.logprobs.bytes);
	free(r->thread.logprobs.entries);
	free(r->thread.stops);
	free(r->untold);
	free(r->thread.pending);
	free(r->thread.swap.blob);
	free(r->tokens);
	engine_copy_fini(&r->copy);
}

/* ---- events coming out -------------------------------------------------------------------------- */

static void untold_add(struct llama_request *r, const int32_t *tokens, size_t count)
{
	if (r->untold_count + count > r->untold_room) {
		r->untold_room = 2 * (r->untold_count + count);
		r->untold = mem_resize(r->untold, r->untold_room, sizeof(*r->untold));
	}
	if (count)
		memcpy(r->untold + r->untold_count, tokens, count * sizeof(*tokens));
	r->untold_count += count;
}

static bool llama_deliver_text(struct llama_request *r, const struct llama_event *in, bool last)
{
	struct engine_event event = {
	    .kind = ENGINE_TEXT,
	    .text = {in->text, in->text_len},
	    .logprobs = in->logprobs,
	    .logprob_count = in->logprob_count,
	    .replayed = in->replayed,
	    .tokens = in->token_ids,
	    .token_count = in->token_count,
	    .prompt_tokens = r->prompt_count,
	    .cached_tokens = r->cached_count,
	    .completion_tokens = in->made,
	};

	if (r->reader) {
		struct chat_delta delta;
		chat_reader_add(r->reader, event.text, last, &delta);
		event.text = delta.text;
		event.reasoning = delta.reasoning;
		event.tool_calls_json = delta.tool_calls_json;
	}
	bool shown = event.text.len || event.reasoning.len || event.tool_calls_json.len || event.logprob_count;
	if (!shown || r->untold_count)
		untold_add(r, in->token_ids, in->token_count);
	if (!shown)
		return true;
	if (r->untold_count) {
		event.tokens = r->untold;
		event.token_count = r->untold_count;
		r->untold_count = 0;
	}
	return engine_emit(&r->base, &event);
}

/* Vectors and ranks, whole. */
static void llama_deliver_vectors(struct llama_request *r)
{
	const struct engine_event event = {
	    .kind = ENGINE_DONE,
	    .finish = FINISH_STOP,
	    .prompt_tokens = r->prompt_count,
	    .vectors = r->embed.vectors,
	    .vector_size = r->embed.size,
	    .vector_count = r->copy.params.input_count,
	};

	engine_finish_event(&r->base, &event);
}

static void llama_deliver(struct llama_event *in)
{
	struct llama_request *r = in->request;

	if (in->kind == LLAMA_RELEASED || (r->base.gone && in->kind == LLAMA_DONE)) {
		engine_request_free(&r->base);
		return;
	}
	if (r->base.gone)
		return;
	if (in->kind == LLAMA_STARTED) {
		struct engine_event event = {.kind = ENGINE_STARTED,
		                             .prompt_tokens = in->prompt_count,
		                             .cached_tokens = in->cached_count,
		                             .completion_tokens = in->made};
		r->cached_count = in->cached_count;
		engine_emit(&r->base, &event);
	} else if (in->kind == LLAMA_TEXT) {
		if (atomic_fetch_sub(&r->undelivered, in->tokens) >= UNDELIVERED_MAX)
			llama_mail_wake(&engine_of(&r->base)->mail);
		llama_deliver_text(r, in, false);
	} else if (r->embed.vectors && in->finish != FINISH_ERROR) {
		llama_deliver_vectors(r);
	} else {
		enum engine_finish finish = in->finish;
		if (r->reader && finish != FINISH_ERROR && !llama_deliver_text(r, in, true)) {
			/* Canceled by its own callback; the thread has given it back already. */
			engine_request_free(&r->base);
			return;
		}
		if (finish == FINISH_STOP && r->reader && chat_reader_has_tool_calls(r->reader))
			finish = FINISH_TOOL_CALLS;
		r->base.stop = in->stop;
		engine_finish(&r->base, finish, in->err, in->prompt_count, r->cached_count, in->made);
	}
}

static void llama_loaded(struct llama_engine *e, struct llama_event *in)
{
	if (in->err) {
		engine_tell_state(&e->base, ENGINE_FAILED, in->err);
		while (e->held) {
			struct llama_request *r = e->held;
			e->held = r->held_next;
			engine_finish(&r->base, FINISH_ERROR, in->err, 0, 0, 0);
		}
		return;
	}
	e->box = in->box;
	in->box = NULL;
	e->base.info = in->info;
	while (e->held) {
		struct llama_request *r = e->held;
		e->held = r->held_next;
		llama_begin(r);
	}
	engine_tell_state(&e->base, ENGINE_READY, NULL);
}

void llama_event_free(struct llama_event *event)
{
	if (event->box)
		llama_box_unref(event->box);
	free(event->err);
	free(event->logprobs);
	free(event->token_ids);
	free(event);
}

static void llama_drain(struct llama_engine *e)
{
	for (struct llama_event *in = llama_mail_take(&e->mail), *next; in; in = next) {
		next = in->next;
		if (in->kind != LLAMA_LOADED)
			llama_deliver(in);
		else if (!e->base.closing)
			llama_loaded(e, in);
		llama_event_free(in);
	}
}

static void llama_mail_arrived(void *arg)
{
	struct llama_engine *e = arg;

	llama_drain(e);
	if (e->base.closing)
		llama_unref(e);
}

static void llama_load(const struct engine *engine, struct engine_load *load)
{
	struct llama_engine *e = (struct llama_engine *)engine;
	struct llama_numbers n = llama_mail_numbers(&e->mail);

	if (engine->state == ENGINE_LOADING)
		load->load_progress = atomic_load(&e->loaded_permille) / 1000.0;
	load->kv_usage = n.kv_usage;
	load->tokens_to_prefill = n.tokens_to_prefill;
	load->prefill_tokens_per_s = n.prefill_rate;
	load->decode_tokens_per_s = n.decode_rate;
	load->itl_us = n.itl_us;
	load->drafts_total = n.drafts;
	load->drafted_tokens_total = n.drafted;
	load->accepted_tokens_total = n.accepted;
	load->preemptions_total = n.preemptions;
	load->swaps_total = n.swaps;
	load->swapped_bytes = n.swapped_bytes;
	load->prompt_computed_tokens_total = n.prompt_computed;
	load->cached_cells_total = n.cached_cells;
	load->cached_memory_total = n.cached_memory;
	load->cached_disk_total = n.cached_disk;
	load->cache_memory_bytes = n.cache_memory_bytes;
	load->cache_disk_bytes = n.cache_disk_bytes;
	load->batch_tokens_total = n.batch_tokens;
	memcpy(load->batches, n.batches, sizeof(load->batches));
	for (const struct engine_request *q = engine->requests; q; q = q->next) {
		const struct llama_request *r = (const struct llama_request *)q;
		if (r->stage != LLAMA_HANDED) /* not tokenized yet: four bytes a token */
			load->tokens_to_prefill +=
			    (int64_t)(r->copy.params.prompt.len + r->copy.params.messages_json.len) / 4;
	}
}

static void llama_free_engine(struct engine *engine)
{
	struct llama_engine *e = (struct llama_engine *)engine;

	atomic_store(&e->mail.stop, true);
	llama_mail_wake(&e->mail);
	pthread_join(e->thread, NULL);
	/* A post on its way still refers to the engine; it finds the list empty. */
	if (llama_mail_is_posted(&e->mail))
		e->refs++;
	llama_drain(e);
	llama_unref(e);
}

struct llama_numbers engine_llama_numbers(struct engine *engine)
{
	if (engine->ops != &engine_llama_ops)
		return (struct llama_numbers){0};
	return llama_mail_numbers(&((struct llama_engine *)engine)->mail);
}

void engine_llama_draft_always(struct engine *engine)
{
	if (engine->ops == &engine_llama_ops)
		atomic_store(&((struct llama_engine *)engine)->drafts_always, true);
}

const struct engine_ops engine_llama_ops = {
    .submit = llama_submit,
    .cancel = llama_cancel,
    .paused = llama_paused,
    .load = llama_load,
    .request_fini = llama_request_fini,
    .free = llama_free_engine,
    .request_size = sizeof(struct llama_request),
    .resumes = true,
};
