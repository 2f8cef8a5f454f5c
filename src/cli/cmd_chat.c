/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn chat`: talk to a model of the network, once or line by line. */
#include "base/clock.h"
#include "cli/chat.h"
#include "cli/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SCHEDULER_DEFAULT "http://127.0.0.1:8090"

static const char *value_or_env(const struct args *args, const char *option, const char *env, const char *fallback)
{
	const char *value = args_value(args, option);
	if (!value)
		value = getenv(env);
	return value ? value : fallback;
}

/* --api as it is; else the scheduler is asked, anew for each question, for the best node may change. */
static int route_for(struct client *client, const struct args *args, const char *model, struct chat_route *ret_route,
                     struct error *err)
{
	const char *api = value_or_env(args, "api", "MDN_API", NULL);
	if (api) {
		char *url = ret_route->api_urls[0];
		ret_route->count = 1;
		snprintf(url, CHAT_URL_SIZE, "%s", api);
		size_t len = strlen(url);
		if (len > 3 && strcmp(url + len - 3, "/v1") == 0) /* as OpenAI clients write it */
			url[len - 3] = 0;
		return 0;
	}
	const char *scheduler = value_or_env(args, "scheduler", "MDN_SCHEDULER", SCHEDULER_DEFAULT);
	return chat_route(client, scheduler, model, ret_route, err);
}

static void print_stats(const struct chat *chat, const struct chat_result *r)
{
	double seconds = (double)(r->total_us - r->ttft_us) / (double)US_PER_S;
	fprintf(stderr, "[%s, %s: first token after %.0f ms, %d tokens, %.1f tokens/s]\n",
	        r->node[0] ? r->node : chat->api_url, r->site[0] ? r->site : "?", (double)r->ttft_us / 1000,
	        r->completion_tokens, r->completion_tokens > 1 ? (r->completion_tokens - 1) / seconds : 0.0);
}

/* The scheduler hears of a node's death a moment late: as long as nothing was said, the next best node is asked. */
static int ask(struct client *client, const struct args *args, struct chat *chat, struct error *err)
{
	struct chat_route route = {0};
	struct chat_result r = {0};
	int rc = route_for(client, args, chat->model, &route, err);
	for (size_t i = 0; i < route.count && rc == 0; i++) {
		chat->api_url = route.api_urls[i];
		rc = chat_ask(client, chat, stdout, &r, err);
		if ((rc != E_PEER && rc != E_UNAVAILABLE) || r.text.len || i + 1 == route.count)
			break;
		fprintf(stderr, "[%s does not answer; asking the next best]\n", chat->api_url);
		buf_fini(&r.text);
		rc = 0;
	}
	if (r.text.len) {
		printf("\n");
		fflush(stdout);
	}
	if (rc == 0 && args_has(args, "stats"))
		print_stats(chat, &r);
	if (rc == 0)
		chat_say(chat, "assistant", buf_str(&r.text));
	buf_fini(&r.text);
	chat->api_url = NULL;
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
	double temperature;
	const char *system = args_value(args, "system"), *max = args_value(args, "max-tokens");
	const char *heat = args_value(args, "temperature");
	struct chat chat = {.model = args_operand(args, 0), .key = value_or_env(args, "key", "MDN_KEY", NULL)};
	if (max && (str_to_u64(str_from(max), &max_tokens) || max_tokens > INT32_MAX))
		return args_usage(args, "--max-tokens %s is not a number", max);
	chat.max_tokens = (int)max_tokens;
	if (heat) {
		char *end;
		temperature = strtod(heat, &end);
		if (end == heat || *end || !(temperature >= 0 && temperature <= 2))
			return args_usage(args, "--temperature %s is not a number of 0 to 2", heat);
		chat.temperature = &temperature;
	}
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
	if (err.code == E_AUTH)
		error_set(&err, E_AUTH, "%s; see `mdn key new`",
		          chat.key && *chat.key ? "the network does not know this API key (--key, MDN_KEY)"
		                                : "an API key is needed: --key or MDN_KEY");
	chat_fini(&chat);
	client_close(client);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
