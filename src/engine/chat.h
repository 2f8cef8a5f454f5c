/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - chat templates, tools, schemas and answer parsing: a C face on llama.cpp's own common library.
 *
 * No exception leaves these functions; what the library throws becomes the caller's error. `struct chat` is immutable
 * and may be used by any thread at once; prompts, grammars and readers belong to one thread at a time.
 * Strings inside a prompt live as long as it; a delta's until the reader's next call.
 */
#ifndef MDN_ENGINE_CHAT_H
#define MDN_ENGINE_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "base/error.h"
#include "base/str.h"

struct llama_model;
struct chat;
struct chat_grammar;
struct chat_pieces;
struct chat_reader;

/* E_NOTFOUND: the model has no template; E_UNSUPPORTED: it has one that cannot be parsed or rendered. */
int chat_new(const struct llama_model *model, struct chat **ret_chat, struct error *err);
void chat_free(struct chat *chat);

struct chat_ask {
	struct str messages_json, tools_json; /* OpenAI's arrays; tools may be empty */
	struct str tool_choice;               /* auto, none, required or empty */
	struct str json_schema;               /* empty: none; "{}": any JSON object */
	bool no_generation_prompt;            /* without the words an answer begins with */
};

struct chat_prompt {
	struct str text;
	const struct str *stops; /* the format's own, besides the request's */
	size_t stop_count;
	const int32_t *shown; /* control tokens that are part of the answer's text (tool call marks), sorted */
	size_t shown_count;
	bool constrained; /* a grammar applies */
	bool parsed;      /* the answer must go through a reader; else it is plain text */
	void *inside;
};

int chat_render(const struct chat *chat, const struct chat_ask *ask, struct chat_prompt **ret_prompt,
                struct error *err);
/* A prompt without template, its answer constrained: for text completions. */
int chat_constrain(const struct llama_model *model, struct str json_schema, struct chat_prompt **ret_prompt,
                   struct error *err);
void chat_prompt_free(struct chat_prompt *prompt);

/* The vocabulary as a tree of beginnings, for masks; made when first used. Any thread; outlives its grammars. */
struct chat_pieces *chat_pieces_new(const struct llama_model *model);
void chat_pieces_free(struct chat_pieces *pieces);

/* Only for constrained prompts. E_INVAL: the grammar made of the schema is not accepted; E_LIMIT: it costs too much. */
int chat_grammar_new(const struct chat_prompt *prompt, struct chat_pieces *pieces, struct chat_grammar **ret_grammar,
                     struct error *err);
void chat_grammar_free(struct chat_grammar *grammar);
bool chat_grammar_allows(struct chat_grammar *grammar, int32_t token);
/* Forbidden tokens get -inf: nearly nothing where few beginnings are allowed, slow where most are. */
void chat_grammar_mask(struct chat_grammar *grammar, float *logits, int32_t vocab);
int chat_grammar_accept(struct chat_grammar *grammar, int32_t token, struct error *err);

struct chat_delta {
	struct str text, reasoning;
	struct str tool_calls_json; /* an array of OpenAI tool call deltas, or empty */
};

/* Ids of tool calls are made of `id`, if there is one: the same for the same. */
struct chat_reader *chat_reader_new(const struct chat_prompt *prompt, struct str id);
void chat_reader_free(struct chat_reader *reader);
/* Feeds answer text; `last` parses it as complete. An answer that has not the form its template promises is
 * given as plain text from there on. */
void chat_reader_add(struct chat_reader *reader, struct str text, bool last, struct chat_delta *ret_delta);
bool chat_reader_has_tool_calls(const struct chat_reader *reader);

#ifdef __cplusplus
}
#endif
#endif
