/* SPDX-License-Identifier: Apache-2.0 */
/* How: roff by man(7)'s macros only, so that man-db, mandoc and groff agree; a backslash, a leading dot and a hyphen
 * are escaped. Markdown for the documentation, which is compared with the table by a test.
 */
#include "cli/help.h"

#include <string.h>

static void roff(FILE *out, const char *text)
{
	if (text[0] == '.' || text[0] == '\'')
		fputs("\\&", out);
	for (; *text != '\0'; text++) {
		if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '-')
			fputs("\\-", out);
		else
			fputc(*text, out);
	}
	fputc('\n', out);
}

static void roff_entry(FILE *out, const char *name, const char *words)
{
	fputs(".TP\n.B ", out);
	roff(out, name);
	roff(out, words);
}

static void man_command(const struct command *c, FILE *out)
{
	const char *line, *what;
	struct command_option o;
	char text[256];

	snprintf(text, sizeof(text), "mdn %s [OPTION...] %s", c->words, c->operands);
	fputs(".SS ", out);
	roff(out, text);
	fprintf(out, "%s.\n", c->summary);
	if (c->details[0] != '\0')
		roff(out, c->details);
	for (unsigned i = 0; command_option_at(c, i, &o) && !o.is_key; i++) {
		help_option_text(&o, false, text, sizeof(text));
		roff_entry(out, text, o.help);
	}
	if ((c->sets & with_keys) != 0)
		roff_entry(out, "--KEY VALUE", "Any configuration key, written with hyphens; see CONFIGURATION.");
	for (unsigned i = 0; command_example_at(c, i, &line, &what); i++) {
		fputs(i == 0 ? ".PP\nExamples:\n" : "", out);
		roff_entry(out, line, what);
	}
}

static void man_keys(FILE *out)
{
	char text[512];

	fputs(".SH CONFIGURATION\n"
	      "One YAML file, given by \\fB\\-\\-config\\fP, else by $MDN_CONFIG, else mdn.yaml in the working "
	      "directory.\n"
	      "Options go before the file, the file before the defaults. SIGHUP applies the keys marked live.\n",
	      out);
	for (size_t i = 0; i < config_key_count(); i++) {
		const char *rule = config_key_rule(i), *fallback = config_key_fallback(i);
		snprintf(text, sizeof(text), "%s (%s%s%s, default %s, %s)", config_key_help(i), config_key_kind(i),
		         rule != NULL ? ": " : "", rule != NULL ? rule : "", fallback[0] != '\0' ? fallback : "empty",
		         config_key_is_live(i) ? "live" : "restart");
		roff_entry(out, config_key_name(i), text);
	}
}

void help_man(FILE *out)
{
	fputs(".TH MDN 1 \"\" \"mdn " MDN_VERSION "\" \"User Commands\"\n"
	      ".SH NAME\nmdn \\- a content delivery network for inference with language models\n"
	      ".SH SYNOPSIS\n.B mdn\nCOMMAND [OPTION...] [OPERAND...]\n"
	      ".SH DESCRIPTION\n"
	      "mdn brings models to the nodes of a network, and each request to the node that answers it best.\n"
	      ".SH COMMANDS\n",
	      out);
	for (unsigned i = 0; i < command_count; i++)
		man_command(&commands[i], out);
	man_keys(out);
	fputs(".SH EXIT STATUS\n", out);
#define X(name, number, words) roff_entry(out, #number, words);
	EXIT_TABLE(X)
#undef X
}

static void markdown_command(const struct command *c, FILE *out)
{
	const char *line, *what;
	struct command_option o;
	char text[128];

	fprintf(out, "### mdn %s\n\n`mdn %s [OPTION...]%s%s`\n\n%s.%s%s\n\n", c->words, c->words,
	        c->operands[0] != '\0' ? " " : "", c->operands, c->summary, c->details[0] != '\0' ? " " : "",
	        c->details);
	fputs("| option | |\n|---|---|\n", out);
	for (unsigned i = 0; command_option_at(c, i, &o) && !o.is_key; i++) {
		help_option_text(&o, false, text, sizeof(text));
		fprintf(out, "| `%s` | %s |\n", text, o.help);
	}
	if ((c->sets & with_keys) != 0)
		fputs("| `--KEY VALUE` | Any [configuration key](configuration.md), written with hyphens. |\n", out);
	fputc('\n', out);
	for (unsigned i = 0; command_example_at(c, i, &line, &what); i++)
		fprintf(out, "%s- `%s`: %s\n", i == 0 ? "Examples:\n\n" : "", line, what);
	fputs(c != &commands[command_count - 1] ? "\n" : "", out);
}

void help_markdown(const struct command *c, FILE *out)
{
	if (c != NULL) {
		markdown_command(c, out);
		return;
	}
	fputs("# Commands\n\n<!-- Made by `mdn help --markdown`; do not edit. -->\n\n", out);
	for (unsigned i = 0; i < command_count; i++) {
		if (i == 0 || strcmp(commands[i].group, commands[i - 1].group) != 0)
			fprintf(out, "## %s\n\n", commands[i].group);
		markdown_command(&commands[i], out);
	}
	fputs("\n## Exit codes\n\n| code | meaning |\n|---|---|\n", out);
#define X(name, number, words) fprintf(out, "| %d | %s |\n", number, words);
	EXIT_TABLE(X)
#undef X
}

void help_markdown_keys(FILE *out)
{
	fputs(
	    "# Configuration\n\n<!-- Made by `mdn config explain --markdown`; do not edit. -->\n\n"
	    "One YAML file a node. Each key is also an option of `mdn serve`, with `-` for `_`. Options go before the\n"
	    "file, the file before the defaults. *Live* keys are applied on SIGHUP; the others need a restart, and "
	    "SIGHUP\n"
	    "says so.\n\n| key | kind | default | reload | meaning |\n|---|---|---|---|---|\n",
	    out);
	for (size_t i = 0; i < config_key_count(); i++) {
		const char *rule = config_key_rule(i), *fallback = config_key_fallback(i);
		fprintf(out, "| `%s` | %s%s%s | %s%s%s | %s | %s |\n", config_key_name(i), config_key_kind(i),
		        rule != NULL ? ": " : "", rule != NULL ? rule : "", fallback[0] != '\0' ? "`" : "", fallback,
		        fallback[0] != '\0' ? "`" : "", config_key_is_live(i) ? "live" : "restart", config_key_help(i));
	}
}
