/* SPDX-License-Identifier: Apache-2.0 */
/* dialect.h - the ways in which one question may be asked and answered: a table of functions for each.
 *
 * A dialect reads the body of its path into a struct api_request and writes a struct api_answer in its own shapes;
 * nothing else of the gateway knows any of them. A new path is a line in gateway.c's table of routes and a dialect in a
 * file of its own. Functions append to `out` and keep nothing but what is in `a`. Nodes pass on body and path
 * as they came, so both ends of a hop read the same dialect.
 */
#ifndef MDN_GATEWAY_DIALECT_H
#define MDN_GATEWAY_DIALECT_H

#include "serve/gateway/answer.h"
#include "serve/gateway/request.h"

struct dialect {
	const char *name;         /* in the access log */
	const char *id_prefix;    /* of an answer's id */
	const char *stream_type;  /* content type of a stream; NULL: never streams */
	const char *prompt_field; /* to blame for a prompt that is too long */
	const char *id_header;    /* what its clients look for the request's id in; NULL: x-request-id only */
	enum engine_task task;
	bool keeps; /* what a stream has said is gathered too, because its last events repeat it */

	int (*parse)(yyjson_val *root, struct api_request *r, struct fault *fault);
	/* Log probabilities in the dialect's shape into the choice, for `whole`; NULL: it has none. */
	void (*gather)(struct api_choice *c, const struct engine_event *e);
	/* The whole answer. Of tasks that do not generate, a->done holds what the engine gave. */
	void (*whole)(struct buf *out, struct api_answer *a);
	/* A stream: what comes before a choice's first words (NULL: nothing), words, a choice's end, the end of all. */
	void (*begin)(struct buf *out, struct api_answer *a, struct api_choice *c);
	void (*text)(struct buf *out, struct api_answer *a, struct api_choice *c, const struct engine_event *e);
	void (*finish)(struct buf *out, struct api_answer *a, struct api_choice *c);
	void (*end)(struct buf *out, struct api_answer *a);
	void (*broken)(struct buf *out, const struct error *err); /* a stream's last words, also of another node's */
	void (*fault)(struct buf *out, const struct fault *fault);

	/* Where the numbers of tokens stand near the end of an answer that another node gave: for the log. */
	struct {
		const char *open, *prompt, *completion, *cached;
		bool cached_apart; /* `prompt` does not count those found in the cache */
	} usage;
	const char *error_mark; /* what an error in a stream begins with */
};

extern const struct dialect dialect_chat, dialect_completion;             /* dialect_openai.c */
extern const struct dialect dialect_responses;                            /* dialect_responses.c */
extern const struct dialect dialect_messages, dialect_count_tokens;       /* dialect_anthropic.c */
extern const struct dialect dialect_ollama_chat, dialect_ollama_generate; /* dialect_ollama.c */
extern const struct dialect dialect_ollama;                               /* only the shape of its errors */
extern const struct dialect dialect_embeddings, dialect_rerank;
extern const struct dialect dialect_tokenize, dialect_detokenize, dialect_render; /* dialect_tokenize.c */

#endif
