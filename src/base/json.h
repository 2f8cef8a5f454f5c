/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - reading JSON from strangers with errors that name the key; thin helpers over yyjson.
 *
 * json_parse checks UTF-8 and depth (LIMIT_JSON_DEPTH), and takes at most 8 bytes of memory for each of the text plus
 * 1 MiB (E_LIMIT); the document
 * owns all strings and is freed with yyjson_doc_free. The getters treat null as absent, refuse a
 * wrong type with E_INVAL naming `key`, and leave *ret untouched when absent (so put defaults there).
 * Writing is done with buf_printf/buf_append_json or yyjson_mut. Any thread.
 */
#ifndef MDN_BASE_JSON_H
#define MDN_BASE_JSON_H

#include "base/error.h"
#include "base/str.h"

#include <yyjson.h>

int json_parse(struct str text, yyjson_doc **ret_doc, struct error *err); /* E_INVAL with line and column */
int json_str(yyjson_val *obj, const char *key, struct str *ret, struct error *err);
int json_bool(yyjson_val *obj, const char *key, bool *ret, struct error *err);
int json_i64(yyjson_val *obj, const char *key, int64_t least, int64_t most, int64_t *ret, struct error *err);
int json_num(yyjson_val *obj, const char *key, double least, double most, double *ret, struct error *err);
int json_obj(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err);
int json_arr(yyjson_val *obj, const char *key, yyjson_val **ret, struct error *err);

#endif
