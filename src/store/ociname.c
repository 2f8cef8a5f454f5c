/* SPDX-License-Identifier: Apache-2.0 */
/* Hand-written matchers: the grammars are regular and tiny, and a matcher cannot be made slow by its input. */
#include "store/ociname.h"

#include "base/limits.h"

static bool alnum_lower(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Length of a separator at s[i]: ".", "_", "__" or dashes; 0 when there is none. */
static size_t separator_length(struct str s, size_t i)
{
	size_t n = 0;
	if (s.base[i] == '-') {
		while (i + n < s.len && s.base[i + n] == '-')
			n++;
		return n;
	}
	if (s.base[i] == '_')
		return i + 1 < s.len && s.base[i + 1] == '_' ? 2 : 1;
	return s.base[i] == '.' || s.base[i] == '/' ? 1 : 0;
}

bool oci_repo_valid(struct str name)
{
	if (!name.len || name.len > LIMIT_NAME)
		return false;
	size_t i = 0;
	while (i < name.len) {
		if (!alnum_lower(name.base[i]))
			return false;
		while (i < name.len && alnum_lower(name.base[i]))
			i++;
		if (i == name.len)
			return true;
		size_t n = separator_length(name, i);
		if (!n)
			return false;
		i += n;
	}
	return false; /* ended with a separator */
}

bool oci_tag_valid(struct str tag)
{
	if (!tag.len || tag.len > 128 || tag.base[0] == '.' || tag.base[0] == '-')
		return false;
	for (size_t i = 0; i < tag.len; i++) {
		char c = tag.base[i];
		bool word = alnum_lower(c) || (c >= 'A' && c <= 'Z') || c == '_';
		if (!word && c != '.' && c != '-')
			return false;
	}
	return true;
}

bool path_safe(struct str path)
{
	if (!path.len || path.len > 255 || utf8_valid_prefix(path) != path.len)
		return false;
	for (size_t i = 0; i < path.len; i++) {
		unsigned char c = (unsigned char)path.base[i];
		if (c < 0x20 || c == 0x7f || c == '\\')
			return false;
	}
	for (size_t i = 0; i <= path.len;) {
		const char *slash = memchr(path.base + i, '/', path.len - i);
		size_t len = slash ? (size_t)(slash - path.base) - i : path.len - i;
		struct str part = {path.base + i, len};
		if (!len || str_equal(part, STR(".")) || str_equal(part, STR("..")))
			return false;
		i += len + 1;
	}
	return true;
}

bool oci_reference_parse(struct str text, struct str *ret_repo, struct str *ret_tag)
{
	struct str repo = text, tag = STR("latest");
	for (size_t i = text.len; i-- > 0;) {
		if (text.base[i] == '/')
			break;
		if (text.base[i] == ':') {
			repo.len = i;
			tag = (struct str){text.base + i + 1, text.len - i - 1};
			break;
		}
	}
	if (!oci_repo_valid(repo) || !oci_tag_valid(tag))
		return false;
	*ret_repo = repo;
	*ret_tag = tag;
	return true;
}
