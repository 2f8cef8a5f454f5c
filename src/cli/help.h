/* SPDX-License-Identifier: Apache-2.0 */
/* help.h - the table of commands for people: on the terminal, as a man page, as Markdown. */
#ifndef MDN_CLI_HELP_H
#define MDN_CLI_HELP_H

#include "cli/options.h"

#include <stdio.h>

/* "-c, --config FILE"; aligned: with room for a letter that there is not. */
void help_option_text(const struct command_option *o, bool aligned, char *ret_text, size_t size);
void help_command(const struct command *c, FILE *out);
/* All commands by group; first_word not NULL: only those that begin with it. */
void help_overview(const char *first_word, FILE *out);
void help_man(FILE *out);                               /* mdn(1), in roff */
void help_markdown(const struct command *c, FILE *out); /* NULL: all commands */
void help_markdown_keys(FILE *out);                     /* the configuration reference */

#endif
