/* SPDX-License-Identifier: Apache-2.0 */
/* How: cells are kept in one array, row after row, the headings first. Before printing every column gets the width
 * of its widest cell; while the whole is wider than the terminal, the widest column that may be shortened
 * loses a character. Wide East Asian characters count as one.
 */
#include "cli/table.h"

#include "base/str.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define GAP 2
#define SHORTEST 6 /* no column gets narrower than this */
#define COLUMNS_MAX 32

struct table {
	unsigned columns;
	struct {
		bool right, may_shrink;
		unsigned width;
	} column[COLUMNS_MAX];
	char **cells;
	size_t cell_count;
};

static unsigned text_width(const char *text)
{
	unsigned width = 0;

	for (; *text != '\0'; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void add_cell(struct table *t, struct str text)
{
	t->cells = mem_resize(t->cells, t->cell_count + 1, sizeof(*t->cells));
	t->cells[t->cell_count] = str_dup(text);
	str_blank_controls(t->cells[t->cell_count++], text.len);
}

struct table *table_new(const char *headings)
{
	struct table *t = NEW(struct table);
	struct str rest = str_from(headings);

	while (rest.len > 0) {
		struct str word = str_cut(rest, ',', &rest);
		assert(t->columns < COLUMNS_MAX && word.len > 0);
		t->column[t->columns].right = word.base[0] == '>';
		t->column[t->columns].may_shrink = word.base[0] == '~';
		if (word.base[0] == '>' || word.base[0] == '~')
			word = (struct str){word.base + 1, word.len - 1};
		add_cell(t, word);
		t->columns++;
	}
	assert(t->columns > 0);
	return t;
}

void table_free(struct table *t)
{
	if (t == NULL)
		return;
	for (size_t i = 0; i < t->cell_count; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}

void table_add(struct table *t, const char *format, ...)
{
	struct buf b = {0};
	va_list args;
	char text[1024];

	va_start(args, format);
	int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	assert(len >= 0);
	if (len == 0)
		buf_append_str(&b, STR("-"));
	else
		buf_append(&b, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1);
	add_cell(t, (struct str){b.base, utf8_complete_prefix(buf_str(&b))});
	buf_fini(&b);
}

static void fit(struct table *t, unsigned width)
{
	unsigned total = GAP * (t->columns - 1);

	for (unsigned c = 0; c < t->columns; c++) {
		t->column[c].width = 0;
		for (size_t i = c; i < t->cell_count; i += t->columns) {
			unsigned w = text_width(t->cells[i]);
			t->column[c].width = w > t->column[c].width ? w : t->column[c].width;
		}
		total += t->column[c].width;
	}
	for (; width > 0 && total > width; total--) {
		unsigned widest = COLUMNS_MAX;
		for (unsigned c = 0; c < t->columns; c++)
			if (t->column[c].may_shrink && t->column[c].width > SHORTEST &&
			    (widest == COLUMNS_MAX || t->column[c].width > t->column[widest].width))
				widest = c;
		if (widest == COLUMNS_MAX)
			return;
		t->column[widest].width--;
	}
}

/* The first `width` characters of text, the last an ellipsis when there are more. */
static void print_cell(FILE *out, const char *text, unsigned width, bool right, bool is_last)
{
	unsigned have = text_width(text);

	if (have > width) {
		unsigned left = width - 1;
		for (; *text != '\0' && (left > 0 || ((unsigned char)*text & 0xc0) == 0x80); text++) {
			fputc(*text, out);
			left -= ((unsigned char)text[1] & 0xc0) != 0x80;
		}
		fputs("…", out);
		have = width;
	} else {
		fprintf(out, "%*s%s", right ? (int)(width - have) : 0, "", text);
	}
	if (!is_last)
		fprintf(out, "%*s", (int)(right ? 0 : width - have) + GAP, "");
}

void table_print_width(struct table *t, FILE *out, unsigned width, bool is_bold)
{
	while (t->cell_count % t->columns != 0)
		table_add(t, "%s", "");
	fit(t, width);
	for (size_t i = 0; i < t->cell_count; i++) {
		unsigned c = (unsigned)(i % t->columns);
		bool is_last = c + 1 == t->columns;
		if (is_bold && i == 0)
			fputs("\033[1m", out);
		print_cell(out, t->cells[i], t->column[c].width, t->column[c].right, is_last);
		if (is_bold && i + 1 == t->columns)
			fputs("\033[0m", out);
		if (is_last)
			fputc('\n', out);
	}
}

void table_print(struct table *t, FILE *out)
{
	struct winsize size = {0};
	int fd = fileno(out);
	bool is_terminal = fd >= 0 && isatty(fd) == 1;

	if (is_terminal && ioctl(fd, TIOCGWINSZ, &size) != 0)
		size.ws_col = 80;
	table_print_width(t, out, is_terminal ? size.ws_col : 0, is_terminal && getenv("NO_COLOR") == NULL);
}
