/* SPDX-License-Identifier: Apache-2.0 */
/* speculate.c - tokens per second with and without guesses (n-grams), of two engines in turns, one stream.
 *
 *   bench_speculate MODEL [ROUNDS [COPY|FREE]]
 *
 * COPY asks for a text to be written out again, where most guesses come true; FREE for a story, where few do. Greedy,
 * so both give the same text but where two tokens are nearly as likely. Prints what rounds.h says, and what share of
 * the guesses came true.
 */
#include "rounds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 200 };

#define TEXT \
	"The harbour of Lindholm has four piers. The first pier belongs to the fishing fleet, which leaves at five " \
	"in the " \
	"morning and returns before noon. The second pier is for the ferry to the islands of Grena, Tolv and Little " \
	"Ansa. " \
	"The third pier was closed in 1987 after a storm broke its outer wall, and it was opened again in 1994 with " \
	"a new " \
	"wall of granite from the quarry at Morrum. The fourth pier is used by the pilots, the customs boat and the " \
	"harbour " \
	"master, whose name is Ingrid Falkenberg and who has worked there for thirty-one years."

static const char copy[] =
    "[{\"role\":\"user\",\"content\":\"Write out the following text again, word by word, without "
    "changes:\\n\\n" TEXT "\"}]";
static const char story[] = "[{\"role\":\"user\",\"content\":\"Tell me a long story about a lighthouse keeper.\"}]";

struct bench {
	struct engine *engines[2]; /* without guesses, with */
	const char *messages;
};

static int answer(void *arg, int way, int round, struct stream **ret_streams)
{
	static struct stream stream;
	const struct bench *b = arg;
	const struct engine_params params = {
	    .task = ENGINE_CHAT,
	    .messages_json = str_from(b->messages),
	    .max_tokens = TOKENS,
	    .logprobs = -1,
	    .sampling = {.temperature = 0, .top_p = 1, .min_p = -1, .repeat_penalty = 1},
	};

	(void)round;
	rounds_submit(b->engines[way], &params, &stream);
	rounds_wait();
	*ret_streams = &stream;
	return 1;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"without", "with guesses"};
	int rounds = argc > 2 ? atoi(argv[2]) : 5;
	struct bench b = {.messages = argc > 3 && strcmp(argv[3], "FREE") == 0 ? story : copy};

	if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX) {
		fprintf(stderr, "usage: bench_speculate MODEL [ROUNDS [COPY|FREE]]\n");
		return 2;
	}
	for (int i = 0; i < 2; i++)
		b.engines[i] = rounds_engine(argv[1], 1, i ? STR("ngram") : STR("none"));
	rounds_compare(rounds, names, answer, &b);
	struct engine_load load = engine_load(b.engines[1]);
	printf("%llu of %llu guesses came true\n", (unsigned long long)load.accepted_tokens_total,
	       (unsigned long long)load.drafted_tokens_total);
	for (int i = 0; i < 2; i++)
		engine_free(b.engines[i]);
	rounds_end();
	return 0;
}
