/* SPDX-License-Identifier: Apache-2.0 */
/* table.h - rows under headings: fitted to the terminal's width, or whole and without colours when piped.
 *
 * The table owns copies of all texts. Widths count characters, not bytes; control characters of cells become spaces.
 * For people: programs get --json.
 */
#ifndef MDN_CLI_TABLE_H
#define MDN_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

struct table;

/* Headings, separated by commas: "NAME,>SIZE,~MODELS". `>`: numbers, aligned to the right. `~`: shortened with an
 * ellipsis when the terminal is too narrow (the widest of them first). */
struct table *table_new(const char *headings);
void table_free(struct table *t);
/* The next cell; the one after the last heading begins a row. "" is shown as "-". */
void table_add(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Asks `out` for its width; a row that was begun is filled up. */
void table_print(struct table *t, FILE *out);
/* width 0: as wide as it gets. */
void table_print_width(struct table *t, FILE *out, unsigned width, bool is_bold);

#endif
