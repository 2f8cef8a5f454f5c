/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn chat`: talk to a model of the network, once or line by line. */
#include "base/clock.h"
#include "cli/chat.h"
#include "cli/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define API_URL_SIZE 512
#define SCHEDULER_DEFAULT "http://127.0.0.1:8090"

static const char *value_or_env(const struct args *args, const char *option, const char *env, const char *fallback)
{
	const char *value = args_value(args, option);
	if (!value)
		value = getenv(env);
	return value ? value : fallback;
}

/* --api as it is; else the scheduler is asked, anew for each question, for the best node may change. */
static int api_for(struct client *client, const struct args *args, const char *model, char *ret_url, struct error *err)
{
	const char *api = value_or_env(args, "api", "MDN_API", NULL);
	if (api) {
		snprintf(ret_url, API_URL_SIZE, "%s", api);
		size_t len = strlen(ret_url);
		if (len > 3 && strcmp(ret_url + len - 3, "/v1") == 0) /* as OpenAI clients write it */
			ret_url[len - 3] = 0;
		return 0;
	}
	const char *scheduler = value_or_env(args, "scheduler", "MDN_SCHEDULER", SCHEDULER_DEFAULT);
	return chat_route(client, scheduler, model, ret_url, API_URL_SIZE, err);
}

static int ask(struct client *client, const struct args *args, struct chat *chat, struct error *err)
{
	char url[API_URL_SIZE];
	struct chat_result r = {0};
	int rc = api_for(client, args, chat->model, url, err);
	if (rc)
		return rc;
	chat->api_url = url;
	rc = chat_ask(client, chat, stdout, &r, err);
	if (r.text.len)
		printf("\n");
	if (rc == 0 && args_has(args, "stats"))
		fprintf(stderr, "[%s, %s: first token after %.0f ms, %d tokens, %.1f tokens/s]\n",
		        r.node[0] ? r.node : url, r.site[0] ? r.site : "?", (double)r.ttft_us / 1000,
		        r.completion_tokens,
		        r.completion_tokens > 1
		            ? (r.completion_tokens - 1) / ((double)(r.total_us - r.ttft_us) / (double)US_PER_S)
		            : 0.0);
	if (rc == 0)
		chat_say(chat, "assistant", buf_str(&r.text));
	buf_fini(&r.text);
	return rc;
}

static int converse(struct client *client, const struct args *args, struct chat *chat, struct error *err)
{
	char *line = NULL;
	size_t size = 0;
	int rc = 0;
	bool terminal = isatty(STDIN_FILENO);
	if (terminal)
		fprintf(stderr, "Talking to %s. An empty line or Ctrl-D ends it.\n", chat->model);
	for (;;) {
		if (terminal) {
			fprintf(stderr, "> ");
			fflush(stderr);
		}
		ssize_t len = getline(&line, &size, stdin);
		struct str text = {line, len > 0 ? (size_t)len - (line[len - 1] == '\n') : 0};
		if (text.len == 0)
			break;
		chat_say(chat, "user", text);
		rc = ask(client, args, chat, err);
		if (rc)
			break;
	}
	free(line);
	return rc;
}

int cmd_chat(const struct args *args)
{
	struct client *client;
	struct error err = {0};
	uint64_t max_tokens = 0;
	const char *system = args_value(args, "system"), *max = args_value(args, "max-tokens");
	struct chat chat = {.model = args_operand(args, 0), .key = value_or_env(args, "key", "MDN_KEY", NULL)};
	if (max && (str_to_u64(str_from(max), &max_tokens) || max_tokens > INT32_MAX))
		return args_usage(args, "--max-tokens %s is not a number", max);
	chat.max_tokens = (int)max_tokens;
	if (client_open_plain(&client, &err))
		return args_fail(args, &err);
	if (system)
		chat_say(&chat, "system", str_from(system));
	int rc;
	if (args_operand(args, 1)) {
		chat_say(&chat, "user", str_from(args_operand(args, 1)));
		rc = ask(client, args, &chat, &err);
	} else {
		rc = converse(client, args, &chat, &err);
	}
	chat_fini(&chat);
	client_close(client);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
