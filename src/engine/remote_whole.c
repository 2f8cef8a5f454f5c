/* SPDX-License-Identifier: Apache-2.0 */
/* remote_whole.c - embeddings, ranks and tokens as vLLM, SGLang, llama-server, Ollama and OpenAI answer them. The peer
 * is a server we do not control: counts must be those asked for, indexes in range and each there, numbers finite. */
#include "engine/remote_private.h"

#include "base/json.h"
#include "base/limits.h"

#include <math.h>
#include <stdlib.h>

enum { VECTOR_MAX = 65536 };

static int broken(struct error *err, const char *what)
{
	return error_set(err, E_PEER, "the remote engine's answer is not what was asked for: %s", what);
}

static bool float_of(yyjson_val *value, float *ret)
{
	double number = yyjson_is_num(value) ? yyjson_get_num(value) : NAN;

	*ret = (float)number;
	return isfinite(*ret);
}

/* Base64 of little-endian floats, as a server may answer whatever was asked for. */
static bool vector_packed(struct str text, float *to, size_t size)
{
	char *url = mem_new(text.len + 1);
	size_t len = 0;
	bool good = true;

	while (text.len && text.base[text.len - 1] == '=')
		text.len--;
	for (size_t i = 0; i < text.len; i++)
		url[i] = text.base[i] == '+' ? '-' : text.base[i] == '/' ? '_' : text.base[i];
	if (base64url_decode((struct str){url, text.len}, (uint8_t *)to, size * sizeof(*to), &len) < 0 ||
	    len != size * sizeof(*to))
		good = false;
	for (size_t i = 0; good && i < size; i++)
		good = isfinite(to[i]);
	free(url);
	return good;
}

static size_t vector_size(yyjson_val *embedding)
{
	if (yyjson_is_arr(embedding))
		return yyjson_arr_size(embedding);
	size_t len = yyjson_is_str(embedding) ? yyjson_get_len(embedding) : 0;
	while (len && yyjson_get_str(embedding)[len - 1] == '=')
		len--;
	return len * 3 / 4 / sizeof(float);
}

static bool vector_read(yyjson_val *embedding, float *to, size_t size)
{
	yyjson_val *number;
	size_t i, n;

	if (vector_size(embedding) != size)
		return false;
	if (yyjson_is_str(embedding))
		return vector_packed((struct str){yyjson_get_str(embedding), yyjson_get_len(embedding)}, to, size);
	yyjson_arr_foreach(embedding, i, n, number)
	{
		if (!float_of(number, &to[i]))
			return false;
	}
	return true;
}

/* The place of an item of a list: its own "index", else where it stands. */
static size_t index_of(yyjson_val *item, size_t at)
{
	yyjson_val *index = yyjson_obj_get(item, "index");

	return yyjson_is_uint(index) ? (size_t)yyjson_get_uint(index) : at;
}

static int parse_vectors(yyjson_val *root, const struct engine_params *p, struct remote_whole *w, struct error *err)
{
	yyjson_val *data = yyjson_obj_get(root, "data"), *item;
	bool *seen;
	size_t i, n;
	int rc = 0;

	if (yyjson_arr_size(data) != p->input_count)
		return broken(err, "one vector for each input");
	w->vector_size = vector_size(yyjson_obj_get(yyjson_arr_get_first(data), "embedding"));
	if (w->vector_size == 0 || w->vector_size > VECTOR_MAX)
		return broken(err, "vectors of some size");
	w->vector_count = p->input_count;
	w->vectors = mem_new(w->vector_count * w->vector_size * sizeof(*w->vectors));
	seen = mem_new(w->vector_count * sizeof(*seen));
	yyjson_arr_foreach(data, i, n, item)
	{
		size_t at = index_of(item, i);
		if (at >= w->vector_count || seen[at] ||
		    !vector_read(yyjson_obj_get(item, "embedding"), w->vectors + at * w->vector_size, w->vector_size)) {
			rc = broken(err, "vectors of one size, of numbers, each once");
			break;
		}
		seen[at] = true;
	}
	free(seen);
	return rc;
}

static int parse_ranks(yyjson_val *root, const struct engine_params *p, struct remote_whole *w, struct error *err)
{
	yyjson_val *results = yyjson_is_arr(root) ? root : yyjson_obj_get(root, "results"), *item;
	bool *seen;
	size_t i, n;
	int rc = 0;

	if (yyjson_arr_size(results) != p->input_count)
		return broken(err, "one rank for each document");
	w->vector_size = 1;
	w->vector_count = p->input_count;
	w->vectors = mem_new(w->vector_count * sizeof(*w->vectors));
	seen = mem_new(w->vector_count * sizeof(*seen));
	yyjson_arr_foreach(results, i, n, item)
	{
		yyjson_val *score = yyjson_obj_get(item, "relevance_score");
		size_t at = index_of(item, i);
		if (at >= w->vector_count || seen[at] ||
		    !float_of(score ? score : yyjson_obj_get(item, "score"), &w->vectors[at])) {
			rc = broken(err, "ranks that are numbers, each once");
			break;
		}
		seen[at] = true;
	}
	free(seen);
	return rc;
}

static struct str text_of(yyjson_val *value)
{
	return yyjson_is_str(value) ? (struct str){yyjson_get_str(value), yyjson_get_len(value)} : (struct str){0};
}

/* vLLM: {"tokens":[1],"token_strs":["a"]}; llama-server: {"tokens":[1]} or {"tokens":[{"id":1,"piece":"a"}]}. */
static int parse_tokens(yyjson_val *root, const struct engine_params *p, struct remote_whole *w, struct error *err)
{
	yyjson_val *tokens = yyjson_obj_get(root, "tokens"), *strs = yyjson_obj_get(root, "token_strs"), *item;
	size_t i, n;

	if (!yyjson_is_arr(tokens))
		return broken(err, "a list of tokens");
	w->tokens = mem_new(yyjson_arr_size(tokens) * sizeof(*w->tokens) + 1);
	w->pieces = mem_new(yyjson_arr_size(tokens) * sizeof(*w->pieces) + 1);
	yyjson_arr_foreach(tokens, i, n, item)
	{
		yyjson_val *id = yyjson_is_obj(item) ? yyjson_obj_get(item, "id") : item;
		if (!yyjson_is_uint(id) || yyjson_get_uint(id) > INT32_MAX)
			return broken(err, "tokens that are numbers");
		w->tokens[w->token_count] = (int32_t)yyjson_get_uint(id);
		w->pieces[w->token_count++].token =
		    text_of(yyjson_is_obj(item) ? yyjson_obj_get(item, "piece") : yyjson_arr_get(strs, i));
	}
	w->piece_count = p->pieces ? w->token_count : 0;
	w->prompt_tokens = (int32_t)w->token_count;
	return 0;
}

/* vLLM: {"prompt"}; llama-server: {"content"}; SGLang: {"text"}. */
static int parse_text(yyjson_val *root, struct remote_whole *w, struct error *err)
{
	static const char *const keys[] = {"prompt", "content", "text"};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (yyjson_is_str(yyjson_obj_get(root, keys[i]))) {
			w->text = text_of(yyjson_obj_get(root, keys[i]));
			return 0;
		}
	return broken(err, "a text");
}

int remote_whole_parse(struct str body, const struct engine_params *p, struct remote_whole *w, struct error *err)
{
	struct error json_err;
	yyjson_doc *doc;
	int64_t told = 0;
	int rc;

	*w = (struct remote_whole){0};
	if (json_parse(body, &doc, &json_err) < 0)
		return error_set(err, E_PEER, "the remote engine sends broken JSON: %s", json_err.text);
	yyjson_val *root = yyjson_doc_get_root(doc), *usage = yyjson_obj_get(root, "usage");
	w->doc = doc;
	if (p->task == ENGINE_EMBED)
		rc = parse_vectors(root, p, w, err);
	else if (p->task == ENGINE_RERANK)
		rc = parse_ranks(root, p, w, err);
	else if (p->task == ENGINE_TOKENIZE)
		rc = parse_tokens(root, p, w, err);
	else
		rc = parse_text(root, w, err);
	if (rc < 0) {
		remote_whole_fini(w);
		return rc;
	}
	json_i64(usage, "total_tokens", 0, INT32_MAX, &told, NULL);
	json_i64(usage, "prompt_tokens", 0, INT32_MAX, &told, NULL);
	w->prompt_tokens = told ? (int32_t)told : w->prompt_tokens;
	return 0;
}

void remote_whole_fini(struct remote_whole *w)
{
	free(w->vectors);
	free(w->tokens);
	free(w->pieces);
	yyjson_doc_free(w->doc);
	*w = (struct remote_whole){0};
}
