/* SPDX-License-Identifier: Apache-2.0 */
/* constrained.c - tokens per second with and without a JSON schema, of one engine in turns.
 *
 *   bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]
 *
 * The same prompt and seeds for both; see rounds.h.
 */
#include "rounds.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 160, STREAMS_MAX = 64 };

static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"people\":{\"type\":\"array\",\"minItems\":8,\"maxItems\":12,\"items\":{"
    "\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":24},\"age\":{\"type\":\"integer\"}"
    ","
    "\"city\":{\"enum\":[\"Paris\",\"Rome\",\"Berlin\",\"Madrid\"]},\"tags\":{\"type\":\"array\",\"items\":{\"type\":"
    "\"string\",\"maxLength\":12},\"minItems\":1,\"maxItems\":3}},\"required\":[\"name\",\"age\",\"city\",\"tags\"],"
    "\"additionalProperties\":false}}},\"required\":[\"people\"],\"additionalProperties\":false}";

struct bench {
	struct engine *engine;
	int streams;
};

static int answer(void *arg, int constrained, int round, struct stream **ret_streams)
{
	static struct stream all[STREAMS_MAX];
	const struct bench *b = arg;
	struct engine_params params = {
	    .task = ENGINE_CHAT,
	    .messages_json = STR("[{\"role\":\"user\",\"content\":\"List ten invented people as a JSON object with "
	                         "the key people: name, age, city (Paris, Rome, Berlin or Madrid) and tags.\"}]"),
	    .json_schema = str_from(constrained ? schema : ""),
	    .max_tokens = TOKENS,
	    .logprobs = -1,
	    .sampling = {.temperature = 0.8, .top_p = 0.95, .min_p = -1, .repeat_penalty = 1, .has_seed = true},
	};

	for (int i = 0; i < b->streams; i++) {
		params.sampling.seed = (uint64_t)(round * STREAMS_MAX + i);
		rounds_submit(b->engine, &params, &all[i]);
	}
	rounds_wait();
	*ret_streams = all;
	return b->streams;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"free", "constrained"};
	int rounds = argc > 2 ? atoi(argv[2]) : 5;
	struct bench b = {.streams = argc > 3 ? atoi(argv[3]) : 1};

	if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX || b.streams < 1 || b.streams > STREAMS_MAX) {
		fprintf(stderr, "usage: bench_constrained MODEL [ROUNDS [STREAMS [SPECULATE]]]\n");
		return 2;
	}
	b.engine = rounds_engine(argv[1], b.streams, str_from(argc > 4 ? argv[4] : ""));
	rounds_compare(rounds, names, answer, &b);
	engine_free(b.engine);
	rounds_end();
	return 0;
}
