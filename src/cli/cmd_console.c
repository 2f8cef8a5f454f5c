/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn console`: asks the center for a URL that signs a browser in, and opens it. */
#include "cli/client.h"
#include "cli/options.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern char **environ;

static bool has_display(void)
{
	const char *x = getenv("DISPLAY"), *wayland = getenv("WAYLAND_DISPLAY");
	return isatty(STDOUT_FILENO) && ((x && *x) || (wayland && *wayland));
}

/* The URL was printed: when this does not work, nothing is lost. */
static void open_browser(char *url)
{
	char *argv[] = {"xdg-open", url, NULL};
	posix_spawn_file_actions_t files;
	pid_t pid;
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	if (posix_spawnp(&pid, argv[0], &files, NULL, argv, environ) == 0)
		printf("Opening it in your browser.\n");
	posix_spawn_file_actions_destroy(&files);
}

static int print_url(const struct args *args, yyjson_doc *doc, struct error *err)
{
	struct str url = STR("");
	int rc = json_str(yyjson_doc_get_root(doc), "url", &url, err);
	if (rc)
		return rc;
	char *text = str_dup(url);
	str_blank_controls(text, url.len);
	if (args_has(args, "json")) {
		struct buf out = {0};
		buf_append_json(&out, url);
		printf("{\"url\":" STR_FMT "}\n", STR_ARG(buf_str(&out)));
		buf_fini(&out);
	} else {
		printf("%s\n", text);
		if (!args_has(args, "print")) {
			printf("It works once, within five minutes.\n");
			if (has_display() && (str_starts(url, STR("http://")) || str_starts(url, STR("https://"))))
				open_browser(text);
		}
	}
	free(text);
	return 0;
}

int cmd_console(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	yyjson_doc *doc = NULL;
	int rc;
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	if (args_has(args, "end")) {
		rc = client_json(c, "DELETE", "/mdn/v1/console/session", STR(""), NULL, &err);
		if (rc == 0 && !args_has(args, "json"))
			printf("All sessions of the console are ended.\n");
	} else {
		rc = client_json(c, "POST", "/mdn/v1/console/session", STR("{}"), &doc, &err);
		if (rc == 0)
			rc = print_url(args, doc, &err);
	}
	yyjson_doc_free(doc);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
