/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/modelpack.h"

bool modelpack_type(struct str media_type, struct str *ret_kind, struct str *ret_form)
{
	static const char *const prefixes[] = {"application/vnd.cncf.model.", "application/vnd.cncf.cnai.model.",
	                                       "application/vnd.cnai.model."};
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
		struct str prefix = str_from(prefixes[i]);
		if (!str_starts(media_type, prefix))
			continue;
		struct str rest = {media_type.base + prefix.len, media_type.len - prefix.len};
		const char *version = memmem(rest.base, rest.len, ".v1", 3);
		size_t kind = version ? (size_t)(version - rest.base) : rest.len;
		size_t form = kind + 4 < rest.len ? kind + 4 : rest.len; /* after ".v1." or ".v1+" */
		*ret_kind = (struct str){rest.base, kind};
		*ret_form = (struct str){rest.base + form, rest.len - form};
		return true;
	}
	return false;
}

const char *modelpack_ending(struct str media_type)
{
	struct str kind, form;
	if (!modelpack_type(media_type, &kind, &form))
		return "";
	return str_equal(form, STR("tar"))        ? ".tar"
	       : str_equal(form, STR("tar+gzip")) ? ".tar.gz"
	       : str_equal(form, STR("tar+zstd")) ? ".tar.zst"
	                                          : "";
}

int modelpack_check(const struct manifest *m, struct error *err)
{
	for (size_t i = m->has_config ? 1 : 0; i < m->item_count; i++) {
		const struct manifest_item *item = &m->items[i];
		struct str type = str_from(item->media_type), kind, form;
		if (!modelpack_type(type, &kind, &form) || !modelpack_ending(type)[0] ||
		    !(str_equal(kind, STR("weight")) || str_equal(kind, STR("weight.config"))))
			continue;
		return error_set(
		    err, E_INVAL,
		    "%s is packed in an archive (%s), out of which no engine can read: pack the model with "
		    "raw layers (modctl build --raw)",
		    item->path[0] ? item->path : "a layer", item->media_type);
	}
	return 0;
}
