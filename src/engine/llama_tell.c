/* SPDX-License-Identifier: Apache-2.0 */
/* llama_tell.c - from logits to text: a row's logits become a token, its text, its logprobs, and the event that tells.
 *
 * Events gather in the batch and leave in one list (batch_send). Text that might become a stop string or half a
 * character is held back by answer.c; logprobs wait with it and leave with the text they belong to.
 */
#include "engine/llama_batch.h"

#include "base/limits.h"

#include <math.h>
#include <stdlib.h>

/* So many tokens that a grammar refuses are replaced singly, by a pass over the logits each, before all that it
 * refuses are looked up. */
enum { REFUSE_ONE_BY_ONE = 3 };

/* ---- events ------------------------------------------------------------------------------------ */

struct llama_event *event_new(struct batch *b, struct llama_request *r, enum llama_event_kind kind, struct str text)
{
	struct llama_event *event = mem_new(sizeof(*event) + text.len + 1);

	event->request = r;
	event->kind = kind;
	event->text_len = text.len;
	if (text.len)
		memcpy(event->text, text.base, text.len);
	if (r) {
		event->prompt_count = r->prompt_count;
		event->cached_count = r->thread.cached;
		event->made = r->thread.made;
	}
	*b->events_last = event;
	b->events_last = &event->next;
	return event;
}

void batch_send(struct batch *b)
{
	llama_mail_send(&b->engine->mail, b->events, &b->numbers);
	b->events = NULL;
	b->events_last = &b->events;
}

struct error *error_copy(const struct error *err)
{
	struct error *copy = NEW(struct error);
	*copy = *err;
	return copy;
}

void request_end(struct batch *b, struct llama_request *r, enum engine_finish finish, const struct error *err)
{
	struct llama_event *event = event_new(b, r, LLAMA_DONE, (struct str){0});

	event->finish = finish;
	if (r->thread.answer.hit <= r->copy.params.stop_count) /* the rest are the template's own */
		event->stop = (int32_t)r->thread.answer.hit;
	if (err)
		event->err = error_copy(err);
}

/* ---- logprobs ---------------------------------------------------------------------------------- */

static struct llama_logprob_entry *logprob_entry(struct batch *b, struct llama_logprob_log *log, int32_t token,
                                                 float logprob)
{
	struct str piece = llama_box_piece(b->box, token, true, &b->piece);

	if (log->count == log->room) {
		log->room = log->room ? 2 * log->room : 32;
		log->entries = mem_resize(log->entries, log->room, sizeof(*log->entries));
	}
	struct llama_logprob_entry *entry = &log->entries[log->count++];
	*entry = (struct llama_logprob_entry){
	    .at = (uint32_t)log->bytes.len, .len = (uint32_t)piece.len, .logprob = logprob};
	buf_append_str(&log->bytes, piece);
	return entry;
}

/* From the model's own logits, before penalties and temperature. `top` was chosen then. */
static void logprobs_note(struct batch *b, struct llama_request *r, int32_t token, float logit, float log_sum,
                          const struct sample_candidate *top, size_t top_count)
{
	struct llama_logprob_log *log = &r->thread.logprobs;

	struct llama_logprob_entry *entry = logprob_entry(b, log, token, logit - log_sum);
	entry->top_count = (uint32_t)top_count;
	entry->start = r->thread.answer.decided + r->thread.answer.held.len;
	for (size_t i = 0; i < top_count; i++)
		logprob_entry(b, log, top[i].token, top[i].value - log_sum);
	log->tokens++;
}

/* A stop string was met: tokens that begin behind the text that is shown are not shown either. */
static void logprobs_trim(struct llama_request *r)
{
	struct llama_logprob_log *log = &r->thread.logprobs;

	for (size_t i = 0, tokens = 0; i < log->count; i += 1 + log->entries[i].top_count, tokens++)
		if (log->entries[i].start >= r->thread.answer.decided) {
			log->count = i;
			log->tokens = tokens;
			return;
		}
}

/* The log as one block: tokens, then alternatives, then their bytes. */
static void logprobs_flush(struct llama_request *r, struct llama_event *event)
{
	struct llama_logprob_log *log = &r->thread.logprobs;
	size_t tops = log->count - log->tokens;

	if (!log->tokens)
		return;
	struct engine_logprob *out =
	    mem_new(log->tokens * sizeof(*out) + tops * sizeof(struct engine_logprob_alternative) + log->bytes.len + 1);
	struct engine_logprob_alternative *top = (struct engine_logprob_alternative *)(out + log->tokens);
	char *bytes = (char *)(top + tops);

	if (log->bytes.len)
		memcpy(bytes, log->bytes.base, log->bytes.len);
	for (size_t i = 0; i < log->count; event->logprob_count++) {
		const struct llama_logprob_entry *entry = &log->entries[i++];
		struct engine_logprob *to = &out[event->logprob_count];
		*to = (struct engine_logprob){{bytes + entry->at, entry->len}, entry->logprob, top, entry->top_count};
		for (uint32_t j = 0; j < entry->top_count; j++, i++)
			*top++ = (struct engine_logprob_alternative){{bytes + log->entries[i].at, log->entries[i].len},
			                                             log->entries[i].logprob};
	}
	event->logprobs = out;
	log->count = log->tokens = 0;
	buf_clear(&log->bytes);
}

/* ---- from logits to text ------------------------------------------------------------------------ */

static int32_t request_sample(struct batch *b, struct llama_request *r, float *logits, struct error *err)
{
	struct sample_candidate top[LIMIT_LOGPROBS];
	int32_t wanted = r->copy.params.logprobs, vocab = b->scratch.vocab;
	struct sampler *s = &r->thread.sampler;
	float log_sum = 0, *raw = NULL;
	size_t top_count = 0;

	if (wanted >= 0) {
		log_sum = sample_log_sum(logits, vocab);
		top_count = sample_top(logits, vocab, (size_t)(wanted < LIMIT_LOGPROBS ? wanted : LIMIT_LOGPROBS), top);
		if (s->penalizes || s->params.bias_count || r->thread.grammar) {
			raw = mem_new((size_t)vocab * sizeof(float));
			memcpy(raw, logits, (size_t)vocab * sizeof(float));
		}
	}
	sampler_adjust(s, logits, vocab);
	int32_t token = sampler_pick(s, &b->scratch, logits);
	for (int tries = 0; r->thread.grammar && !chat_grammar_allows(r->thread.grammar, token); tries++) {
		sampler_refuse(s, logits, token);
		if (tries == REFUSE_ONE_BY_ONE)
			chat_grammar_mask(r->thread.grammar, logits, vocab);
		token = sampler_pick(s, &b->scratch, logits);
		if (tries > REFUSE_ONE_BY_ONE)
			break; /* it allows nothing; chat_grammar_accept tells */
	}
	sampler_accept(s, token);
	if (r->thread.grammar && chat_grammar_accept(r->thread.grammar, token, err) < 0)
		token = -1;
	if (wanted >= 0 && token >= 0 && !llama_box_ends(b->box, token))
		logprobs_note(b, r, token, (raw ? raw : logits)[token], log_sum, top, top_count);
	free(raw);
	return token;
}

static bool token_is_shown(const struct llama_request *r, int32_t token)
{
	if (r->prompt)
		for (size_t i = 0; i < r->prompt->shown_count; i++)
			if (r->prompt->shown[i] == token)
				return true;
	return false;
}

static void token_append(struct llama_request *r, int32_t token)
{
	if (r->token_count == r->token_room) {
		r->token_room += r->token_room / 2 + 64;
		r->tokens = mem_resize(r->tokens, (size_t)r->token_room, sizeof(*r->tokens));
	}
	r->tokens[r->token_count++] = token;
}

static void pending_add(struct llama_request *r, int32_t token)
{
	if (r->thread.pending_count == r->thread.pending_room) {
		r->thread.pending_room = r->thread.pending_room ? 2 * r->thread.pending_room : 16;
		r->thread.pending = mem_resize(r->thread.pending, r->thread.pending_room, sizeof(*r->thread.pending));
	}
	r->thread.pending[r->thread.pending_count++] = token;
}

/* All that were drawn, also those whose text is held back: who draws them again holds back the same. */
static void pending_flush(struct llama_request *r, struct llama_event *event)
{
	size_t count = r->thread.pending_count;

	if (!count)
		return;
	event->token_ids = mem_new(count * sizeof(*event->token_ids));
	event->token_count = count;
	memcpy(event->token_ids, r->thread.pending, count * sizeof(*event->token_ids));
	r->thread.pending_count = 0;
}

static void request_tell(struct batch *b, struct llama_request *r, int32_t tokens)
{
	struct str ready = answer_ready(&r->thread.answer);

	/* Logprobs wait with the text that is held back. */
	if (!ready.len && (!r->thread.logprobs.tokens || r->thread.answer.held.len))
		return;
	struct llama_event *event = event_new(b, r, LLAMA_TEXT, ready);
	logprobs_flush(r, event);
	pending_flush(r, event);
	event->tokens = tokens;
	atomic_fetch_add(&r->undelivered, tokens);
	answer_taken(&r->thread.answer);
}

/* ---- the prompt -------------------------------------------------------------------------------- */

bool request_scores(const struct llama_request *r, int32_t position)
{
	return r->thread.scores && position + 1 >= r->thread.scored && position + 1 < r->prompt_count;
}

static void prompt_begins(struct batch *b, struct llama_request *r)
{
	if (r->thread.scored == 0)
		logprobs_note(b, r, r->tokens[0], NAN, 0, NULL, 0);
	r->thread.scored = r->thread.scored ? r->thread.scored : 1;
}

void slot_score(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;
	int32_t vocab = b->scratch.vocab, wanted = r->copy.params.logprobs;
	struct sample_candidate top[LIMIT_LOGPROBS];

	for (int32_t i = 0; i < slot->added; i++) {
		int32_t position = slot->past + i;
		if (!request_scores(r, position))
			continue;
		prompt_begins(b, r);
		const float *logits = llama_core_logits(b->core, slot->first_row + i);
		size_t count =
		    sample_top(logits, vocab, (size_t)(wanted < LIMIT_LOGPROBS ? wanted : LIMIT_LOGPROBS), top);
		int32_t token = r->tokens[position + 1];
		logprobs_note(b, r, token, logits[token], sample_log_sum(logits, vocab), top, count);
		r->thread.scored = position + 2;
	}
}

static void request_echo(struct batch *b, struct llama_request *r)
{
	const struct engine_params *p = &r->copy.params;
	struct error err;

	if (!r->thread.echo_due)
		return;
	r->thread.echo_due = false;
	if (p->prompt_token_count)
		llama_box_detokenize(b->box, p->prompt_tokens, p->prompt_token_count, &r->thread.answer.ready, &err);
	else
		buf_append_str(&r->thread.answer.ready, p->prompt);
	if (r->thread.scores) {
		prompt_begins(b, r);
		request_tell(b, r, 0);
	}
}

/* What resumed tokens say, in one piece: whoever goes on with the answer has shown it. */
static void request_replay(struct batch *b, struct llama_request *r)
{
	struct answer *answer = &r->thread.answer;

	if (!r->thread.replay_due)
		return;
	r->thread.replay_due = false;
	for (int32_t i = r->prompt_count; i < r->token_count; i++)
		if (answer_add(answer,
		               llama_box_piece(b->box, r->tokens[i], token_is_shown(r, r->tokens[i]), &b->piece)))
			break;
	if (!answer_ready(answer).len)
		return;
	event_new(b, r, LLAMA_TEXT, answer_ready(answer))->replayed = true;
	answer_taken(answer);
}

static bool request_is_full(const struct batch *b, const struct llama_request *r)
{
	return r->thread.made == r->copy.params.max_tokens || r->token_count >= b->settings.context_tokens;
}

/* The next token of a request whose logits are there. */
void slot_next(struct batch *b, struct slot *slot)
{
	struct llama_request *r = slot->request;
	struct error err = {0};
	bool ended = true;
	enum engine_finish finish = FINISH_STOP;

	request_echo(b, r);
	request_replay(b, r);
	if (r->thread.answer.stopped) {
		finish = FINISH_STOP;
	} else if (request_is_full(b, r)) {
		finish = FINISH_LENGTH;
	} else {
		int32_t token = request_sample(b, r, llama_core_logits(b->core, slot->row), &err);
		bool stopped = false;
		if (token < 0) {
			finish = FINISH_ERROR;
		} else if (!llama_box_ends(b->box, token)) {
			token_append(r, token);
			pending_add(r, token);
			r->thread.made++;
			stopped = answer_add(&r->thread.answer,
			                     llama_box_piece(b->box, token, token_is_shown(r, token), &b->piece));
			ended = stopped || request_is_full(b, r);
			finish = stopped ? FINISH_STOP : FINISH_LENGTH;
		}
	}
	if (ended)
		answer_end(&r->thread.answer);
	if (r->thread.answer.stopped)
		logprobs_trim(r);
	request_tell(b, r, 1);
	if (ended) {
		drafts_settle(b, slot);
		slot_release(b, slot);
		request_end(b, r, finish, finish == FINISH_ERROR ? &err : NULL);
	}
}
