/* SPDX-License-Identifier: Apache-2.0 */
/* answers.h - reading our own nodes' JSON for display: a missing or odd value shows as empty or 0.
 *
 * Only for what is printed; what is acted upon is read with json.h and its errors.
 */
#ifndef MDN_CLI_ANSWERS_H
#define MDN_CLI_ANSWERS_H

#include "base/json.h"

static inline struct str answer_text(yyjson_val *o, const char *key)
{
	struct str s = STR("");
	json_str(o, key, &s, NULL);
	return s;
}

static inline int64_t answer_number(yyjson_val *o, const char *key)
{
	int64_t n = 0;
	json_i64(o, key, 0, INT64_MAX, &n, NULL);
	return n;
}

static inline double answer_rate(yyjson_val *o, const char *key)
{
	double n = 0;
	json_num(o, key, 0, 1e18, &n, NULL);
	return n;
}

#endif
