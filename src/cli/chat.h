/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - one question to an OpenAI server, the answer printed as it comes.
 *
 * Used by `mdn chat` and `mdn dev up`. Blocking. Times are microseconds.
 */
#ifndef MDN_CLI_CHAT_H
#define MDN_CLI_CHAT_H

#include "cli/client.h"

#include <stdio.h>

struct chat_message {
	char *role, *content;
};

struct chat {
	const char *api_url, *key, *model; /* key NULL: none */
	struct chat_message *messages;
	size_t message_count;
	int max_tokens;            /* 0: the server's */
	const double *temperature; /* NULL: the server's */
};

#define CHAT_ROUTES 3
#define CHAT_URL_SIZE 512

struct chat_route {
	char api_urls[CHAT_ROUTES][CHAT_URL_SIZE]; /* the scheduler's choice, then the best of the others */
	size_t count;
};

struct chat_result {
	int64_t ttft_us, total_us;
	int prompt_tokens, completion_tokens;
	char node[160], site[160]; /* who answered */
	struct buf text;
};

void chat_say(struct chat *c, const char *role, struct str content); /* adds a message */
void chat_fini(struct chat *c);
/* Prints to `out` as tokens arrive; the whole text is in *ret_result, which the caller finishes with buf_fini. */
int chat_ask(struct client *client, const struct chat *c, FILE *out, struct chat_result *ret_result, struct error *err);
/* The scheduler's word: whom to ask for that model. E_NOTFOUND and E_UNAVAILABLE carry its reasons. */
int chat_route(struct client *client, const char *scheduler_url, const char *model, struct chat_route *ret_route,
               struct error *err);

#endif
