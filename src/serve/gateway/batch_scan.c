/* SPDX-License-Identifier: Apache-2.0 */
/* How: files are read by lines through one buffer; of lines of the output only the beginning is kept. A hash table over
 * the custom_ids finds doubles in the input, and the line an answer belongs to. An answer cut off by a crash has no
 * line end: it does not count, and the next answer is written over it.
 */
#include "serve/gateway/batch_scan.h"

#include "base/limits.h"
#include "serve/gateway/batch_line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STEP (256u << 10)
#define BEGINNING 4096 /* of a line of the output: holds any custom_id */

/* ---- lines of a file ---------------------------------------------------------------------------------- */

struct lines {
	int fd;
	size_t keep; /* bytes of a line that are kept */
	char *step;
	size_t step_at, step_len;
	struct buf line;            /* its beginning */
	uint64_t offset, len, next; /* of the line; len without its end */
};

/* 1: a line; 0: the end. *ret_whole: its end was there. */
static int line_next(struct lines *l, bool *ret_whole)
{
	buf_clear(&l->line);
	l->offset = l->next;
	l->len = 0;
	for (;;) {
		if (l->step_at == l->step_len) {
			ssize_t n = read(l->fd, l->step, STEP);
			if (n < 0 && errno == EINTR)
				continue;
			if (n < 0)
				return -1;
			l->step_at = 0;
			l->step_len = (size_t)n;
			if (n == 0) {
				*ret_whole = false;
				return l->len > 0;
			}
		}
		const char *from = l->step + l->step_at;
		size_t left = l->step_len - l->step_at;
		const char *end = memchr(from, '\n', left);
		size_t len = end ? (size_t)(end - from) : left;
		size_t room = l->keep - l->line.len;
		buf_append(&l->line, from, len < room ? len : room);
		l->len += len;
		l->next += len + (end != NULL);
		l->step_at += len + (end != NULL);
		if (end) {
			*ret_whole = true;
			return 1;
		}
	}
}

static int lines_open(struct lines *l, const char *path, size_t keep)
{
	*l = (struct lines){.fd = open(path, O_RDONLY | O_CLOEXEC), .keep = keep};
	if (l->fd < 0)
		return -1;
	l->step = mem_resize(NULL, STEP, 1);
	return 0;
}

static void lines_close(struct lines *l)
{
	close(l->fd);
	free(l->step);
	buf_fini(&l->line);
}

/* ---- the index ------------------------------------------------------------------------------------------ */

static void id_of(struct str custom_id, uint8_t to[16])
{
	struct digest d = digest_of(custom_id.base, custom_id.len);

	memcpy(to, d.bytes, 16);
}

/* Where id is in the table, or would be. */
static uint32_t *slot_of(const struct batch_scan *s, const uint8_t id[16])
{
	uint64_t hash;

	memcpy(&hash, id, sizeof(hash));
	for (uint32_t i = (uint32_t)hash & (s->table_size - 1);; i = (i + 1) & (s->table_size - 1))
		if (!s->table[i] || memcmp(s->places[s->table[i] - 1].id, id, 16) == 0)
			return &s->table[i];
}

static void table_grow(struct batch_scan *s)
{
	free(s->table);
	s->table_size = s->table_size ? s->table_size * 2 : 1024;
	s->table = mem_new(s->table_size * sizeof(*s->table));
	for (uint32_t i = 0; i < s->count; i++)
		*slot_of(s, s->places[i].id) = i + 1;
}

static void wrong(struct batch_scan *s, uint32_t number, const char *code, const char *param, const char *message)
{
	if (s->wrong_count++ >= LIMIT_BATCH_ERRORS)
		return;
	buf_printf(&s->wrong, "%s{\"code\":\"%s\",\"line\":%u,\"message\":", s->wrong.len ? "," : "", code, number);
	buf_append_json(&s->wrong, str_from(message));
	buf_append_str(&s->wrong, STR(",\"param\":"));
	if (param[0])
		buf_append_json(&s->wrong, str_from(param));
	else
		buf_append_str(&s->wrong, STR("null"));
	buf_append(&s->wrong, "}", 1);
}

static void add(struct batch_scan *s, const struct lines *l, struct str custom_id, uint32_t number)
{
	struct batch_place place = {.offset = l->offset, .len = (uint32_t)l->len, .line = number};
	char message[96];

	if ((s->count + 1) * 2 > s->table_size)
		table_grow(s);
	id_of(custom_id, place.id);
	uint32_t *slot = slot_of(s, place.id);
	if (*slot) {
		snprintf(message, sizeof(message), "custom_id is that of line %u, too", s->places[*slot - 1].line);
		wrong(s, number, "duplicate_custom_id", "custom_id", message);
		return;
	}
	if (s->count == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 256;
		s->places = mem_resize(s->places, s->cap, sizeof(*s->places));
	}
	s->places[s->count++] = place;
	*slot = s->count;
}

static void take_line(struct batch_scan *s, const struct lines *l, uint32_t number)
{
	struct batch_line line;
	struct fault fault;

	struct str text = buf_str(&l->line);

	if (text.len && text.base[text.len - 1] == '\r')
		text.len--;
	if (str_trim(text).len == 0)
		return;
	if (l->len > LIMIT_BATCH_LINE) {
		wrong(s, number, "line_too_long", "", "the line is longer than a request of a batch may be");
	} else if (s->count >= LIMIT_BATCH_LINES) {
		wrong(s, number, "too_many_requests", "", "the file has more requests than a batch may; divide it");
		s->wrong_count = LIMIT_BATCH_ERRORS; /* the rest would be the same */
	} else if (batch_line_parse(buf_str(&l->line), str_from(s->endpoint), &line, &fault) < 0) {
		wrong(s, number, fault.code ? fault.code : "invalid_request", fault.param, fault.err.text);
	} else {
		add(s, l, line.custom_id, number);
		batch_line_fini(&line);
	}
}

static void scan_input(struct batch_scan *s)
{
	struct lines l;
	bool whole;
	uint32_t number = 0;
	int rc;

	if (lines_open(&l, s->input, LIMIT_BATCH_LINE) < 0) {
		s->gone = errno == ENOENT;
		error_errno(&s->err, errno, "the input file cannot be read");
		return;
	}
	while ((rc = line_next(&l, &whole)) > 0 && s->wrong_count < LIMIT_BATCH_ERRORS)
		take_line(s, &l, ++number);
	if (rc < 0)
		error_errno(&s->err, errno, "the input file cannot be read");
	lines_close(&l);
	if (!s->err.code && s->count == 0 && s->wrong_count == 0)
		wrong(s, 0, "empty_file", "input_file_id", "the file has no request");
}

/* Of files that came out. */
static uint32_t scan_answers(struct batch_scan *s, const char *path, uint64_t *ret_bytes)
{
	struct lines l;
	struct buf id = {0};
	uint32_t count = 0;
	bool whole;

	if (lines_open(&l, path, BEGINNING) < 0) {
		if (errno != ENOENT)
			error_errno(&s->err, errno, "what was answered cannot be read");
		return 0;
	}
	while (line_next(&l, &whole) > 0 && whole) {
		uint8_t digest[16];

		*ret_bytes = l.next;
		if (!s->count || !batch_line_answered(buf_str(&l.line), &id))
			continue;
		id_of(buf_str(&id), digest);
		uint32_t *slot = slot_of(s, digest);
		if (*slot && !s->places[*slot - 1].done) {
			s->places[*slot - 1].done = true;
			count++;
		}
	}
	buf_fini(&id);
	lines_close(&l);
	return count;
}

void batch_scan_work(void *arg)
{
	struct batch_scan *s = arg;

	scan_input(s);
	if (s->wrong_count)
		return;
	if (s->err.code)
		s->count = 0; /* which lines there are is not known; what was answered is still there */
	s->completed = scan_answers(s, s->output, &s->output_bytes);
	s->failed = scan_answers(s, s->errors, &s->error_bytes);
}

void batch_scan_free(struct batch_scan *s)
{
	if (!s)
		return;
	free(s->input);
	free(s->output);
	free(s->errors);
	free(s->places);
	free(s->table);
	buf_fini(&s->wrong);
	free(s);
}
