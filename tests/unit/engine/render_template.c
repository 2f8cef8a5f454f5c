/* SPDX-License-Identifier: Apache-2.0 */
/* render_template.c - prints the prompt that a model's chat template makes of messages: render_template MODEL <
 * request.
 *
 * stdin: {"messages": [...], "tools": [...]}, or an array of such objects; stdout: {"prompt"} or {"error"}, one a line.
 * The e2e tests compare it with Python's jinja2.
 */
#include "engine/llama_parts.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>

/* The value as JSON text; heap, NULL when absent. */
static char *text_of(yyjson_val *object, const char *key)
{
	yyjson_val *value = yyjson_obj_get(object, key);

	return value ? yyjson_val_write(value, 0, NULL) : NULL;
}

static void render(const struct llama_box *box, yyjson_val *request)
{
	char *messages = text_of(request, "messages"), *tools = text_of(request, "tools");
	struct chat_ask ask = {.messages_json = str_from(messages), .tools_json = str_from(tools)};
	struct chat_prompt *prompt = NULL;
	struct error err = {0};
	struct buf out = {0};

	if (!llama_box_chat(box))
		error_set(&err, E_NOTFOUND, "the model has no chat template");
	else
		chat_render(llama_box_chat(box), &ask, &prompt, &err);
	buf_append_str(&out, err.code ? STR("{\"error\":") : STR("{\"prompt\":"));
	buf_append_json(&out, err.code ? str_from(err.text) : prompt->text);
	printf(STR_FMT "}\n", STR_ARG(out));
	buf_fini(&out);
	chat_prompt_free(prompt);
	free(messages);
	free(tools);
}

int main(int argc, char **argv)
{
	struct llama_settings settings = {.model_path = argc > 1 ? argv[1] : "", .context_tokens = 512};
	atomic_bool stop = false;
	struct llama_box *box;
	struct buf in = {0};
	struct error err;
	yyjson_doc *doc;
	char piece[4096];
	size_t n;

	while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0)
		buf_append(&in, piece, n);
	if (json_parse(buf_str(&in), &doc, &err) < 0 || llama_box_load(&settings, &stop, &box, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	yyjson_val *root = yyjson_doc_get_root(doc), *request;
	size_t i, most;
	if (!yyjson_is_arr(root))
		render(box, root);
	else
		yyjson_arr_foreach(root, i, most, request) render(box, request);
	yyjson_doc_free(doc);
	llama_box_unref(box);
	buf_fini(&in);
	return 0;
}
