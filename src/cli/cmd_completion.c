/* SPDX-License-Identifier: Apache-2.0 */
/* How: a script for the shell with the whole table in it, so that completing starts no process. Both scripts find the
 * command among the first two words, then offer its options, the values an option or operand has, or files.
 * Texts of the table are quoted; names are of [a-z0-9-] alone.
 */
#include "cli/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In '...' of both shells */
static void quoted(FILE *out, const char *text)
{
	fputc('\'', out);
	for (; *text != '\0'; text++)
		fprintf(out, *text == '\'' ? "'\\''" : "%c", *text);
	fputc('\'', out);
}

static void words_of_list(FILE *out, const char *list, const char *separators)
{
	for (; *list != '\0'; list++)
		if (strchr(separators, *list) == NULL)
			fputc(*list, out);
		else if (list[1] != ' ')
			fputc(' ', out);
}

static bool is_file(const char *argument)
{
	return argument != NULL && (strstr(argument, "FILE") != NULL || strstr(argument, "DIR") != NULL);
}

static void keys(FILE *out)
{
	for (size_t i = 0; i < config_key_count(); i++)
		fprintf(out, "%s%s", i > 0 ? " " : "", config_key_name(i));
}

/* The first words of all commands, each once. */
static void first_words(FILE *out)
{
	struct str before = {0};

	for (unsigned i = 0; i < command_count; i++) {
		struct str rest, first = str_cut(str_from(commands[i].words), ' ', &rest);
		if (!str_equal(before, first))
			fprintf(out, "%s" STR_FMT, i > 0 ? " " : "", STR_ARG(first));
		before = first;
	}
}

/* What the first operand may be; false, and nothing, when only the user knows. */
static bool operand_words(const struct command *c, FILE *out)
{
	bool required, repeats;
	struct str name;

	if (!command_operand_at(c, 0, &name, &required, &repeats))
		return false;
	if (str_equal(name, STR("KEY"))) {
		keys(out);
	} else if (str_equal(name, STR("COMMAND"))) {
		first_words(out);
	} else if (memchr(name.base, '|', name.len) != NULL) {
		for (size_t i = 0; i < name.len; i++)
			fputc(name.base[i] == '|' ? ' ' : name.base[i], out);
	} else {
		return false;
	}
	return true;
}

static bool takes_file(const struct command *c)
{
	bool required, repeats;
	struct str name;

	for (unsigned i = 0; command_operand_at(c, i, &name, &required, &repeats); i++)
		if (str_equal(name, STR("FILE")))
			return true;
	return false;
}

static void bash_command(const struct command *c, FILE *out)
{
	struct command_option o;

	fprintf(out, "\t'%s')\n\t\tcase $previous in\n", c->words);
	for (unsigned i = 0; command_option_at(c, i, &o); i++) {
		if (o.argument == NULL || o.argument_is_optional)
			continue;
		fprintf(out, "\t\t--%s", o.name);
		if (o.letter != 0)
			fprintf(out, "|-%c", o.letter);
		fputs(") ", out);
		if (o.choices != NULL) {
			fputs("words='", out);
			words_of_list(out, o.choices, ", |");
			fputs("' ;;\n", out);
		} else {
			fputs(is_file(o.argument) ? "files=1 ;;\n" : "return ;;\n", out);
		}
	}
	fputs("\t\t*)\n\t\t\tif [[ $current == -* ]]; then words='", out);
	for (unsigned i = 0; command_option_at(c, i, &o); i++)
		fprintf(out, "--%s ", o.name);
	fputs("'; else ", out);
	if (takes_file(c)) {
		fputs("files=1", out);
	} else {
		fputs("words='", out);
		operand_words(c, out);
		fputs("'", out);
	}
	fputs("; fi ;;\n\t\tesac ;;\n", out);
}

static bool is_first_below(unsigned at, struct str *ret_first)
{
	struct str below, before, first = str_cut(str_from(commands[at].words), ' ', &below);

	*ret_first = first;
	if (below.len == 0)
		return false;
	return at == 0 || !str_equal(str_cut(str_from(commands[at - 1].words), ' ', &before), first);
}

static void second_words(FILE *out, struct str first)
{
	for (unsigned i = 0; i < command_count; i++) {
		struct str below, head = str_cut(str_from(commands[i].words), ' ', &below);
		if (str_equal(head, first) && below.len > 0)
			fprintf(out, STR_FMT " ", STR_ARG(below));
	}
}

static void print_bash(FILE *out)
{
	struct str first;

	fputs("# bash completion for mdn; made by `mdn completion bash`\n_mdn()\n{\n"
	      "\tlocal current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words='' files=''\n"
	      "\tlocal command=${COMP_WORDS[1]}\n\tCOMPREPLY=()\n\tif (( COMP_CWORD == 1 )); then\n\t\tCOMPREPLY=( "
	      "$(compgen -W '",
	      out);
	first_words(out);
	fputs("' -- \"$current\") )\n\t\treturn\n\tfi\n\tcase $command in\n", out);
	for (unsigned i = 0; i < command_count; i++) {
		if (!is_first_below(i, &first))
			continue;
		fprintf(out, "\t" STR_FMT ")\n\t\tif (( COMP_CWORD == 2 )); then words='", STR_ARG(first));
		second_words(out, first);
		fputs("'; else command+=\" ${COMP_WORDS[2]}\"; fi ;;\n", out);
	}
	fputs("\tesac\n\tcase $command in\n", out);
	for (unsigned i = 0; i < command_count; i++)
		bash_command(&commands[i], out);
	fputs("\tesac\n\tif [[ $files ]]; then\n\t\tcompopt -o filenames 2>/dev/null\n"
	      "\t\tCOMPREPLY=( $(compgen -f -- \"$current\") )\n\telse\n"
	      "\t\tCOMPREPLY=( $(compgen -W \"$words\" -- \"$current\") )\n\tfi\n}\ncomplete -F _mdn mdn\n",
	      out);
}

/* One spec of zsh's _arguments: {-c,--config}'[help]:value:_files' */
static void zsh_option(const struct command_option *o, FILE *out)
{
	char *text = NULL;
	size_t len;
	FILE *spec = open_memstream(&text, &len);

	if (spec == NULL)
		abort();
	fputc('[', spec);
	for (const char *p = o->help; *p != '\0'; p++)
		fprintf(spec, "%s%c", strchr("[]:\\", *p) != NULL ? "\\" : "", *p);
	fputc(']', spec);
	if (o->argument != NULL)
		fputs(o->argument_is_optional ? "::value:" : ":value:", spec);
	if (o->choices != NULL) {
		fputc('(', spec);
		words_of_list(spec, o->choices, ", |");
		fputc(')', spec);
	} else if (is_file(o->argument)) {
		fputs("_files", spec);
	}
	fclose(spec);
	if (o->letter != 0)
		fprintf(out, "\t\t\t{-%c,--%s}", o->letter, o->name);
	else
		fprintf(out, "\t\t\t--%s%s", o->name, o->argument_is_optional ? "=-" : "");
	quoted(out, text);
	fputs(" \\\n", out);
	free(text);
}

static void zsh_command(const struct command *c, FILE *out)
{
	struct command_option o;

	fprintf(out, "\t'%s')\n\t\t_arguments -S \\\n", c->words);
	for (unsigned i = 0; command_option_at(c, i, &o); i++)
		zsh_option(&o, out);
	if (takes_file(c)) {
		fputs("\t\t\t'*:file:_files' ;;\n", out);
		return;
	}
	fputs("\t\t\t'*:operand:(", out);
	operand_words(c, out);
	fputs(")' ;;\n", out);
}

/* All first words with what they are, or all second words below one. */
static void zsh_names(FILE *out, struct str below_of)
{
	for (unsigned i = 0; i < command_count; i++) {
		struct str first, below, head = str_cut(str_from(commands[i].words), ' ', &below);
		char *text = NULL;
		size_t len;
		if (below_of.len > 0 ? !str_equal(head, below_of) : (below.len > 0 && !is_first_below(i, &first)))
			continue;
		FILE *name = open_memstream(&text, &len);
		if (name == NULL)
			abort();
		fprintf(name, STR_FMT ":", STR_ARG(below_of.len > 0 ? below : head));
		if (below_of.len == 0 && below.len > 0)
			second_words(name, head);
		else
			fputs(commands[i].summary, name);
		fclose(name);
		fputc(' ', out);
		quoted(out, text);
		free(text);
	}
}

static void print_zsh(FILE *out)
{
	struct str first;

	fputs("#compdef mdn\n# zsh completion for mdn; made by `mdn completion zsh`\n_mdn()\n{\n\tlocal "
	      "command=$words[2]\n"
	      "\tlocal -a names\n\tif (( CURRENT == 2 )); then\n\t\tnames=(",
	      out);
	zsh_names(out, (struct str){0});
	fputs(")\n\t\t_describe command names\n\t\treturn\n\tfi\n\tcase $command in\n", out);
	for (unsigned i = 0; i < command_count; i++) {
		if (!is_first_below(i, &first))
			continue;
		fprintf(out, "\t" STR_FMT ")\n\t\tif (( CURRENT == 3 )); then\n\t\t\tnames=(", STR_ARG(first));
		zsh_names(out, first);
		fputs(")\n\t\t\t_describe command names\n\t\t\treturn\n\t\tfi\n"
		      "\t\tcommand+=\" $words[3]\"\n\t\tshift words\n\t\t(( CURRENT-- )) ;;\n",
		      out);
	}
	fputs("\tesac\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n", out);
	for (unsigned i = 0; i < command_count; i++)
		zsh_command(&commands[i], out);
	fputs("\tesac\n}\nif [ \"$funcstack[1]\" = _mdn ]; then _mdn \"$@\"; else compdef _mdn mdn; fi\n", out);
}

int cmd_completion(const struct args *args)
{
	if (strcmp(args_operand(args, 0), "bash") == 0)
		print_bash(stdout);
	else
		print_zsh(stdout);
	return EXIT_DONE;
}
