/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c - `held` is scanned from its start: the first place where a stop string fits, wholly or up to the end
 * of what there is, bounds what may go. Held text is at most the longest stop plus one piece, so a plain
 * comparison at every place is cheap. */
#include "engine/answer.h"

void answer_init(struct answer *a, const struct str *stops, size_t stop_count)
{
	*a = (struct answer){.stops = stops, .stop_count = stop_count};
}

void answer_fini(struct answer *a)
{
	buf_fini(&a->held);
	buf_fini(&a->ready);
}

/* How many bytes come before the first (possible) stop string; *ret_hit: which it is, from 1, if a whole one. */
static size_t answer_scan(const struct answer *a, size_t *ret_hit)
{
	*ret_hit = 0;
	for (size_t at = 0; at < a->held.len; at++) {
		size_t left = a->held.len - at;
		bool partial = false;

		for (size_t i = 0; i < a->stop_count; i++) {
			struct str stop = a->stops[i];
			size_t n = stop.len < left ? stop.len : left;
			if (!n || memcmp(a->held.base + at, stop.base, n) != 0)
				continue;
			if (n == stop.len) {
				*ret_hit = i + 1;
				return at;
			}
			partial = true;
		}
		if (partial)
			return at;
	}
	return a->held.len;
}

/* Could these bytes be the beginning of one character that is not complete yet? */
static bool answer_is_cut(struct str tail)
{
	return tail.len < 4 && utf8_complete_prefix(tail) == 0;
}

/* Moves up to `len` held bytes to ready as valid UTF-8; a cut character at the end stays when `more` may come. */
static void answer_decide(struct answer *a, size_t len, bool more)
{
	struct str rest = {a->held.base, len};

	while (rest.len) {
		size_t valid = utf8_valid_prefix(rest);
		buf_append(&a->ready, rest.base, valid);
		rest = (struct str){rest.base + valid, rest.len - valid};
		if (!rest.len || (more && answer_is_cut(rest)))
			break;
		size_t bad = 1;
		while (bad < rest.len && bad < 3 && answer_is_cut((struct str){rest.base, bad + 1}))
			bad++;
		buf_append(&a->ready, "\xef\xbf\xbd", 3);
		rest = (struct str){rest.base + bad, rest.len - bad};
	}
	a->decided += len - rest.len;
	buf_consume(&a->held, len - rest.len);
}

bool answer_add(struct answer *a, struct str piece)
{
	size_t hit;

	if (a->stopped)
		return true;
	buf_append_str(&a->held, piece);
	size_t safe = answer_scan(a, &hit);
	/* A cut character before a possible stop string cannot become whole by waiting. */
	answer_decide(a, safe, safe == a->held.len);
	if (hit) {
		a->stopped = true;
		a->hit = hit;
		buf_clear(&a->held);
	}
	return a->stopped;
}

void answer_end(struct answer *a)
{
	if (!a->stopped)
		answer_decide(a, a->held.len, false);
}

void answer_taken(struct answer *a)
{
	buf_clear(&a->ready);
}
