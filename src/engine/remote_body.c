/* SPDX-License-Identifier: Apache-2.0 */
/* remote_body.c - OpenAI's bodies, with the names of each kind of server for what OpenAI does not have. Servers ignore
 * keys that they do not know, so where two have two names for a thing both are sent. */
#include "engine/remote_private.h"

#include "base/digest.h"

bool remote_task_streams(enum engine_task task)
{
	return task == ENGINE_CHAT || task == ENGINE_COMPLETION;
}

const char *remote_path(enum engine_task task)
{
	static const char *const paths[] = {
	    [ENGINE_CHAT] = "/v1/chat/completions", [ENGINE_COMPLETION] = "/v1/completions",
	    [ENGINE_EMBED] = "/v1/embeddings",      [ENGINE_RERANK] = "/v1/rerank",
	    [ENGINE_TOKENIZE] = "/tokenize",        [ENGINE_DETOKENIZE] = "/detokenize",
	};

	return paths[task];
}

static void body_number(struct buf *b, const char *key, double value)
{
	buf_printf(b, ",\"%s\":%.9g", key, value);
}

static void body_text(struct buf *b, const char *key, struct str text)
{
	buf_printf(b, ",\"%s\":", key);
	buf_append_json(b, text.len ? text : STR(""));
}

static void body_flag(struct buf *b, const char *key, bool value)
{
	buf_printf(b, ",\"%s\":%s", key, value ? "true" : "false");
}

static void body_tokens(struct buf *b, const char *key, const int32_t *tokens, size_t count)
{
	if (key)
		buf_printf(b, ",\"%s\":", key);
	buf_append_str(b, STR("["));
	for (size_t i = 0; i < count; i++)
		buf_printf(b, i ? ",%d" : "%d", tokens[i]);
	buf_append_str(b, STR("]"));
}

static void body_texts(struct buf *b, const char *key, const struct str *texts, size_t count)
{
	buf_printf(b, ",\"%s\":[", key);
	for (size_t i = 0; i < count; i++) {
		buf_append_str(b, i ? STR(",") : STR(""));
		buf_append_json(b, texts[i].len ? texts[i] : STR(""));
	}
	buf_append_str(b, STR("]"));
}

/* ---- what generates ---------------------------------------------------------------------------- */

static void body_sampling(struct buf *b, const struct engine_sampling *s)
{
	body_number(b, "temperature", s->temperature);
	body_number(b, "top_p", s->top_p);
	if (s->min_p > 0)
		body_number(b, "min_p", s->min_p);
	if (s->top_k > 0)
		body_number(b, "top_k", s->top_k);
	if (s->typical_p > 0 && s->typical_p < 1) /* llama-server; the others have no such thing */
		body_number(b, "typical_p", s->typical_p);
	if (s->mirostat) {
		body_number(b, "mirostat", s->mirostat);
		body_number(b, "mirostat_tau", s->mirostat_tau > 0 ? s->mirostat_tau : 5);
		body_number(b, "mirostat_eta", s->mirostat_eta > 0 ? s->mirostat_eta : 0.1);
	}
	if (s->presence_penalty != 0)
		body_number(b, "presence_penalty", s->presence_penalty);
	if (s->frequency_penalty != 0)
		body_number(b, "frequency_penalty", s->frequency_penalty);
	if (s->repeat_penalty > 0 && s->repeat_penalty != 1) { /* vLLM's name, llama-server's name */
		body_number(b, "repetition_penalty", s->repeat_penalty);
		body_number(b, "repeat_penalty", s->repeat_penalty);
	}
	if (s->has_seed)
		buf_printf(b, ",\"seed\":%lld", (long long)(s->seed & INT64_MAX));
	for (size_t i = 0; i < s->bias_count; i++)
		buf_printf(b, "%s\"%d\":%.9g", i ? "," : ",\"logit_bias\":{", s->bias_tokens[i],
		           (double)s->bias_values[i]);
	if (s->bias_count)
		buf_append_str(b, STR("}"));
}

static void body_schema(struct buf *b, struct str schema)
{
	if (str_equal(schema, STR("{}"))) {
		buf_append_str(b, STR(",\"response_format\":{\"type\":\"json_object\"}"));
	} else if (schema.len) {
		buf_append_str(
		    b, STR(",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
		           "\"strict\":true,\"schema\":"));
		buf_append_str(b, schema);
		buf_append_str(b, STR("}}"));
	}
}

static void body_prompt(struct buf *b, const struct engine_params *p)
{
	if (p->task == ENGINE_CHAT) {
		buf_append_str(b, STR(",\"messages\":"));
		buf_append_str(b, p->messages_json);
		if (p->logprobs >= 0)
			buf_printf(b, ",\"logprobs\":true,\"top_logprobs\":%d", p->logprobs);
		return;
	}
	if (p->prompt_tokens)
		body_tokens(b, "prompt", p->prompt_tokens, p->prompt_token_count);
	else
		body_text(b, "prompt", p->prompt);
	if (p->suffix.len)
		body_text(b, "suffix", p->suffix);
	if (p->logprobs >= 0)
		buf_printf(b, ",\"logprobs\":%d", p->logprobs);
}

/* Its cache of prompts is shared by all who ask it. Tenants must not find each other's there, nor who names another
 * tenant as a salt: so it is a digest of which of the two it is, and of that. */
static void body_salt(struct buf *b, const struct engine_params *p)
{
	struct str text = p->cache_salt.len ? p->cache_salt : p->tenant;
	struct buf salt = {0};
	char hex[2 * DIGEST_SIZE + 1];

	if (!text.len)
		return;
	buf_append_str(&salt, p->cache_salt.len ? STR("salt:") : STR("tenant:"));
	buf_append_str(&salt, text);
	struct digest digest = digest_of(salt.base, salt.len);
	buf_fini(&salt);
	hex_encode(digest.bytes, DIGEST_SIZE, hex);
	body_text(b, "cache_salt", str_from(hex));
}

static void body_generate(struct buf *b, const struct remote *e, const struct engine_params *p)
{
	buf_append_str(b, STR(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
	body_prompt(b, p);
	if (p->tools_json.len) {
		buf_append_str(b, STR(",\"tools\":"));
		buf_append_str(b, p->tools_json);
	}
	if (p->tool_choice.len && p->tools_json.len)
		body_text(b, "tool_choice", p->tool_choice);
	body_schema(b, p->json_schema);
	body_sampling(b, &p->sampling);
	if (p->max_tokens >= 0)
		buf_printf(b, ",\"max_tokens\":%d", p->max_tokens);
	if (p->stop_count)
		body_texts(b, "stop", p->stops, p->stop_count);
	if (e->probe.kind == SERVER_VLLM || e->probe.kind == SERVER_MDN)
		body_salt(b, p);
}

/* ---- what does not ----------------------------------------------------------------------------- */

static void body_embed(struct buf *b, const struct engine_params *p)
{
	size_t at = 0;

	buf_append_str(b, STR(",\"encoding_format\":\"float\""));
	if (p->dimensions > 0)
		buf_printf(b, ",\"dimensions\":%d", p->dimensions);
	if (!p->input_lengths) {
		body_texts(b, "input", p->inputs, p->input_count);
		return;
	}
	buf_append_str(b, STR(",\"input\":["));
	for (size_t i = 0; i < p->input_count; at += (size_t)p->input_lengths[i++]) {
		buf_append_str(b, i ? STR(",") : STR(""));
		body_tokens(b, NULL, p->prompt_tokens + at, (size_t)p->input_lengths[i]);
	}
	buf_append_str(b, STR("]"));
}

/* vLLM: prompt or messages; llama-server: content. */
static void body_tokenize(struct buf *b, const struct remote *e, const struct engine_params *p)
{
	bool names = e->probe.kind == SERVER_LLAMA;

	if (p->messages_json.len) {
		buf_append_str(b, STR(",\"messages\":"));
		buf_append_str(b, p->messages_json);
		body_flag(b, "add_generation_prompt", !p->no_generation_prompt);
	} else {
		body_text(b, names ? "content" : "prompt", p->prompt);
	}
	body_flag(b, names ? "add_special" : "add_special_tokens", !p->plain_tokens);
	if (p->pieces)
		body_flag(b, names ? "with_pieces" : "return_token_strs", true);
}

int remote_can(const struct remote *e, const struct engine_params *p, struct error *err)
{
	enum server_kind kind = e->probe.kind;

	if (kind == SERVER_OLLAMA && p->task >= ENGINE_RERANK)
		return error_set(err, E_UNSUPPORTED, "Ollama neither ranks nor tells tokens");
	if (p->task == ENGINE_TOKENIZE && p->messages_json.len && (kind == SERVER_LLAMA || kind == SERVER_SGLANG))
		return error_set(err, E_UNSUPPORTED, "%s tokenizes no messages: send a prompt", e->base.info.server);
	return 0;
}

void remote_body(struct buf *b, const struct remote *e, const struct engine_params *p)
{
	buf_append_str(b, STR("{\"model\":"));
	buf_append_json(b, str_from(e->model));
	switch (p->task) {
	case ENGINE_CHAT:
	case ENGINE_COMPLETION:
		body_generate(b, e, p);
		break;
	case ENGINE_EMBED:
		body_embed(b, p);
		break;
	case ENGINE_RERANK:
		body_text(b, "query", p->prompt);
		body_texts(b, "documents", p->inputs, p->input_count);
		body_flag(b, "return_documents", false);
		break;
	case ENGINE_TOKENIZE:
		body_tokenize(b, e, p);
		break;
	case ENGINE_DETOKENIZE:
		body_tokens(b, "tokens", p->prompt_tokens, p->prompt_token_count);
		break;
	}
	buf_append_str(b, STR("}"));
}
