/* SPDX-License-Identifier: Apache-2.0 */
/* Paths of the Hugging Face door, and the names that come out of them. */
#include "serve/repository/hf_path.h"
#include "serve/repository/snapshot.h"
#include "store/ociname.h"

#include <stdlib.h>

static void inside(struct str part, struct str whole)
{
	if (part.len && (part.base < whole.base || part.base + part.len > whole.base + whole.len) &&
	    !str_equal(part, STR("main")))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = mem_new(size + 1), name[129];
	memcpy(text, data, size);
	struct str path = {text, size};
	struct hf_path p = hf_path_parse(path);
	inside(p.id, path);
	inside(p.revision, path);
	inside(p.path, path);
	if (snapshot_name(p.id, name) && !oci_repo_valid(str_from(name)))
		abort();
	free(text);
	return 0;
}
