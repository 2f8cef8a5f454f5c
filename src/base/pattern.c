/* SPDX-License-Identifier: Apache-2.0 */
/* Going back to the last `*` is enough: what an earlier one could match, the last one can, too. */
#include "base/pattern.h"

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool match(struct str pattern, struct str text, bool nocase)
{
	size_t p = 0, t = 0, star = SIZE_MAX, mark = 0;

	while (t < text.len) {
		char is = text.base[t], wants = p < pattern.len ? pattern.base[p] : '\0';

		if (p < pattern.len && wants == '*') {
			star = p++;
			mark = t;
		} else if (p < pattern.len && (nocase ? lower(wants) == lower(is) : wants == is)) {
			p++;
			t++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			t = ++mark;
		} else {
			return false;
		}
	}
	while (p < pattern.len && pattern.base[p] == '*')
		p++;
	return p == pattern.len;
}

bool pattern_match(struct str pattern, struct str text)
{
	return match(pattern, text, false);
}

bool pattern_match_nocase(struct str pattern, struct str text)
{
	return match(pattern, text, true);
}
