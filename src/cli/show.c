/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/show.h"

#include "cli/client.h"

#include <stdio.h>

int center_show(const struct args *args, const char *path, void (*print)(yyjson_val *root))
{
	struct client *c;
	struct error err = {0};
	struct buf answer = {0};
	yyjson_doc *doc = NULL;
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	struct client_call call = {.url = path};
	int rc = client_run(c, &call, NULL, &answer, &err);
	if (rc == 0 && args_has(args, "json"))
		printf(STR_FMT "\n", STR_ARG(buf_str(&answer)));
	else if (rc == 0 && (rc = json_parse(buf_str(&answer), &doc, &err)) == 0)
		print(yyjson_doc_get_root(doc));
	yyjson_doc_free(doc);
	buf_fini(&answer);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
