/* SPDX-License-Identifier: Apache-2.0 */
/* How: text is wrapped at 80 columns, with words never broken, and columns are as wide as their widest name (up to a
 * bound). Configuration keys come after a command's own options, under a heading of their own.
 */
#include "cli/help.h"

#include <string.h>

#define WIDTH 80
#define NAME_WIDTH_MAX 30

/* Writes words from column `at`, each further line from `indent`. */
static void wrap(FILE *out, int at, int indent, const char *text)
{
	struct str rest = str_from(text);

	fprintf(out, "%*s", at < indent ? indent - at : 0, "");
	int column = at < indent ? indent : at;
	bool first = true;
	while (rest.len > 0) {
		struct str word = str_cut(rest, ' ', &rest);
		if (!first && column + 1 + (int)word.len > WIDTH) {
			fprintf(out, "\n%*s", indent, "");
			column = indent;
			first = true;
		}
		fprintf(out, "%s" STR_FMT, first ? "" : " ", STR_ARG(word));
		column += (int)word.len + (first ? 0 : 1);
		first = false;
	}
	fputc('\n', out);
}

/* "  NAME      words": the words on the next line when the name is too long */
static void entry(FILE *out, int name_width, const char *name, const char *words)
{
	int at = fprintf(out, "  %s", name);

	if (at > 2 + name_width) {
		fputc('\n', out);
		at = 0;
	}
	wrap(out, at, 2 + name_width + 2, words);
}

void help_option_text(const struct command_option *o, bool aligned, char *ret_text, size_t size)
{
	char letter[5] = "    ";

	if (o->letter != 0)
		snprintf(letter, sizeof(letter), "-%c, ", o->letter);
	else if (!aligned)
		letter[0] = '\0';
	if (o->argument == NULL)
		snprintf(ret_text, size, "%s--%s", letter, o->name);
	else
		snprintf(ret_text, size, o->argument_is_optional ? "%s--%s[=%s]" : "%s--%s %s", letter, o->name,
		         o->argument);
}

static void list_options(const struct command *c, bool keys, FILE *out)
{
	struct command_option o;
	char text[128];
	int width = 0;

	for (unsigned i = 0; command_option_at(c, i, &o); i++) {
		help_option_text(&o, true, text, sizeof(text));
		if (o.is_key == keys && (int)strlen(text) > width && strlen(text) <= NAME_WIDTH_MAX)
			width = (int)strlen(text);
	}
	for (unsigned i = 0; command_option_at(c, i, &o); i++) {
		if (o.is_key != keys)
			continue;
		help_option_text(&o, true, text, sizeof(text));
		entry(out, width, text, o.help);
	}
}

void help_command(const struct command *c, FILE *out)
{
	const char *line, *what;

	fprintf(out, "%s.\n\nUsage: mdn %s [OPTION...]%s%s\n", c->summary, c->words, c->operands[0] != '\0' ? " " : "",
	        c->operands);
	if (c->details[0] != '\0') {
		fputc('\n', out);
		wrap(out, 0, 0, c->details);
	}
	fputs("\nOptions:\n", out);
	list_options(c, false, out);
	if ((c->sets & with_keys) != 0) {
		fputs("\nConfiguration keys, over those of the file (`mdn config explain` says more):\n", out);
		list_options(c, true, out);
	}
	for (unsigned i = 0; command_example_at(c, i, &line, &what); i++) {
		fprintf(out, "%s  %s\n", i == 0 ? "\nExamples:\n" : "", line);
		wrap(out, 0, 6, what);
	}
}

static void exit_codes(FILE *out)
{
	fputs("\nExit codes:\n", out);
#define X(name, number, words) entry(out, 3, #number, words);
	EXIT_TABLE(X)
#undef X
}

void help_overview(const char *first_word, FILE *out)
{
	const char *group = "";
	size_t width = 0;

	for (unsigned i = 0; i < command_count; i++)
		width = strlen(commands[i].words) > width ? strlen(commands[i].words) : width;
	if (first_word == NULL)
		fputs("mdn - a network that brings models to people, and each request to the node that\n"
		      "answers it best.\n\nUsage: mdn COMMAND [OPTION...] [OPERAND...]\n",
		      out);
	for (unsigned i = 0; i < command_count; i++) {
		const struct command *c = &commands[i];
		if (first_word != NULL && !command_is_below(c, first_word))
			continue;
		if (strcmp(group, c->group) != 0)
			fprintf(out, "\n%s:\n", c->group);
		group = c->group;
		entry(out, (int)width, c->words, c->summary);
	}
	if (first_word == NULL)
		exit_codes(out);
	fputs("\n`mdn help COMMAND` says more, with examples.\n", out);
}

int cmd_help(const struct args *args)
{
	unsigned used;

	if (args_has(args, "man")) {
		help_man(stdout);
		return EXIT_DONE;
	}
	if (args->operand_count == 0) {
		if (args_has(args, "markdown"))
			help_markdown(NULL, stdout);
		else
			help_overview(NULL, stdout);
		return EXIT_DONE;
	}
	const struct command *c = command_find(args->operands, args->operand_count, &used);
	if (c != NULL && used == args->operand_count) {
		(args_has(args, "markdown") ? help_markdown : help_command)(c, stdout);
		return EXIT_DONE;
	}
	for (unsigned i = 0; i < command_count && args->operand_count == 1; i++) {
		if (command_is_below(&commands[i], args->operands[0])) {
			help_overview(args->operands[0], stdout);
			return EXIT_DONE;
		}
	}
	return args_usage(args, "there is no command \"%s\"", args->operands[0]);
}
