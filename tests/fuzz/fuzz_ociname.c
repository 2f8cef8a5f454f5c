/* SPDX-License-Identifier: Apache-2.0 */
/* Names from strangers: an accepted one can go into a path, a header and a URL as it is. */
#include "base/limits.h"
#include "store/ociname.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_plain(struct str s, const char *also, size_t max)
{
	if (!s.len || s.len > max)
		abort();
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!word && (!c || !strchr(also, c)))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size}, repo, tag;
	if (oci_repo_valid(text))
		check_plain(text, "._-/", LIMIT_NAME);
	if (oci_tag_valid(text))
		check_plain(text, "._-", 128);
	if (path_safe(text) && (text.base[0] == '/' || memchr(text.base, 0, text.len)))
		abort();
	if (oci_reference_parse(text, &repo, &tag)) {
		check_plain(repo, "._-/", LIMIT_NAME);
		check_plain(tag, "._-", 128);
	}
	return 0;
}
