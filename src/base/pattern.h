/* SPDX-License-Identifier: Apache-2.0 */
/* pattern.h - patterns of texts: `*` stands for any text, also none; nothing else is special. Pure; any thread. */
#ifndef MDN_BASE_PATTERN_H
#define MDN_BASE_PATTERN_H

#include "base/str.h"

bool pattern_match(struct str pattern, struct str text);
bool pattern_match_nocase(struct str pattern, struct str text); /* ASCII only */

#endif
