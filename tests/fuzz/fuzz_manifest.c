/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests and versions from strangers: titles that are kept are safe, versions survive their wire form. */
#include "base/json.h"
#include "serve/repository/manifest.h"
#include "store/ociname.h"
#include "store/version.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_manifest(struct str text)
{
	struct manifest m;
	struct error err = {0};
	if (manifest_parse(text, &m, &err)) {
		if (!err.text[0])
			abort();
		return;
	}
	if (m.item_count > MANIFEST_LAYERS_MAX + 1 || (m.has_config && !m.item_count))
		abort();
	for (size_t i = 0; i < m.item_count; i++)
		if (m.items[i].path[0] && !path_safe(str_from(m.items[i].path)))
			abort();
	if (m.has_subject) {
		struct buf descriptor = {0};
		yyjson_doc *doc;
		if (manifest_describe(text, &m, &m.subject, str_from(m.media_type), &descriptor, &err) ||
		    json_parse(buf_str(&descriptor), &doc, NULL))
			abort();
		yyjson_doc_free(doc);
		buf_fini(&descriptor);
	}
	manifest_fini(&m);
}

static void check_version(struct str text)
{
	yyjson_doc *doc, *again;
	struct version v, w;
	struct buf a = {0}, b = {0};
	if (json_parse(text, &doc, NULL))
		return;
	if (!version_parse(yyjson_doc_get_root(doc), &v, NULL)) {
		version_format(&v, &a);
		if (json_parse(buf_str(&a), &again, NULL) || version_parse(yyjson_doc_get_root(again), &w, NULL))
			abort();
		version_format(&w, &b);
		if (!str_equal(buf_str(&a), buf_str(&b)))
			abort();
		yyjson_doc_free(again);
		version_fini(&w);
		version_fini(&v);
	}
	yyjson_doc_free(doc);
	buf_fini(&a);
	buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	check_manifest(text);
	check_version(text);
	return 0;
}
