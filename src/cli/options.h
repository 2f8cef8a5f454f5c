/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the table of subcommands (commands.def) and the arguments of one call, parsed by it.
 *
 * A command is `int cmd_ID(const struct args *args)`; it returns a code of exit.h. Its operands are already counted
 * against the table and its options known, so a body only asks for values. All of `args` lives as long as the call;
 * texts point into argv. Naming an option that the table does not have is our mistake and aborts.
 */
#ifndef MDN_CLI_OPTIONS_H
#define MDN_CLI_OPTIONS_H

#include "base/config.h"
#include "cli/exit.h"

struct args {
	const struct command *command;
	char **operands;
	unsigned operand_count;
	struct given_option *options; /* in the order given */
	unsigned option_count;
	struct config_override *overrides; /* the configuration keys among the options */
	unsigned override_count;
};

struct given_option {
	const char *name, *value; /* value NULL: it takes none */
};

/* ---- for command bodies ---- */

bool args_has(const struct args *a, const char *option);
const char *args_value(const struct args *a, const char *option);           /* the last one; NULL: not given */
const char *args_nth(const struct args *a, const char *option, unsigned n); /* of a repeated one; NULL: no more */
const char *args_operand(const struct args *a, unsigned n);                 /* NULL: not given */
/* The configuration in force, and the file it reads (NULL: none); for commands with_keys. */
int args_config(const struct args *a, struct config **ret_config, struct error *err);
const char *args_config_path(const struct args *a);
/* "mdn push: WORDS" on stderr; returns the exit code that fits err->code: `return args_fail(args, &err);` */
int args_fail(const struct args *a, const struct error *err);
/* The same where words of the command line are judged later, by a parser or the center: E_INVAL is EXIT_USAGE. */
int args_fail_words(const struct args *a, const struct error *err);
/* The same for a wrong command line, pointing to --help; returns EXIT_USAGE. */
int args_usage(const struct args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- the table, for help, man page and completion ---- */

enum command_set_index {
#define SET(id) INDEX_##id,
#include "cli/commands.def"
};

enum command_set {
#define SET(id) id = 1 << INDEX_##id,
#include "cli/commands.def"
};

struct command {
	const char *id, *group, *words, *operands;
	unsigned sets; /* of enum command_set; with_help is in all */
	const char *summary, *details;
	int (*run)(const struct args *args);
};

struct command_option {
	char letter; /* 0: none */
	const char *name, *argument, *help;
	const char *choices;       /* "a, b, c" of a key, "a|b|c" of another, or NULL: any */
	bool argument_is_optional; /* --open, --open=false */
	bool is_key;               /* a configuration key, written with `-` */
};

extern const struct command commands[];
extern const unsigned command_count;

/* The i-th option, configuration keys last; false past the end. */
bool command_option_at(const struct command *c, unsigned i, struct command_option *ret_option);
bool command_example_at(const struct command *c, unsigned i, const char **ret_line, const char **ret_what);
/* The command that the first words name, and how many words that took; NULL: none. */
const struct command *command_find(char *const *words, unsigned count, unsigned *ret_used);
/* Whether the command's first word is `word` and it has two: `mdn config` is not yet a command. */
bool command_is_below(const struct command *c, const char *word);
/* The i-th operand of the table: its name without brackets and dots; false past the end. */
bool command_operand_at(const struct command *c, unsigned i, struct str *ret_name, bool *ret_required,
                        bool *ret_repeats);

/* All of main: finds the command, parses, runs it; returns the exit code. */
int options_main(int argc, char **argv);

#define COMMAND(id, group, words, operands, sets, summary, details) int cmd_##id(const struct args *args);
#include "cli/commands.def"

#endif
