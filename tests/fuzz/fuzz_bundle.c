/* SPDX-License-Identifier: Apache-2.0 */
/* A tar from a stranger, the list of contents, and the list of what a place has. What a scan lets through lies in the
 * file and has a name of ours. */
#include "store/bundle.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_data(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct str *all = arg;
	if (offset > all->len || len > all->len - offset)
		abort();
	memcpy(out, all->base + offset, len);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str all = {(const char *)data, size};
	struct bundle_reader reader = {read_data, &all, size};
	struct bundle_entry *entries;
	struct bundle_contents contents;
	struct bundle_have have;
	size_t count;
	struct error err = {0};
	if (!bundle_scan(&reader, &entries, &count, &err)) {
		for (size_t i = 0; i < count; i++)
			if (entries[i].offset > size || entries[i].size > size - entries[i].offset ||
			    strstr(entries[i].name, "..") || entries[i].name[0] == '/')
				abort();
		free(entries);
	} else if (!err.text[0]) {
		abort();
	}
	if (!bundle_contents_parse(all, &contents, NULL))
		bundle_contents_fini(&contents);
	if (!bundle_have_parse(all, &have, NULL))
		bundle_have_fini(&have);
	return 0;
}
