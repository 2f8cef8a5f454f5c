/* SPDX-License-Identifier: Apache-2.0 */
/* GGUF headers from strangers: what is accepted keeps the promises of gguf.h, what is refused says why. */
#include "store/gguf.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gguf_info info = {0};
	struct error err = {0};
	if (gguf_parse_bytes((struct str){(const char *)data, size}, &info, &err)) {
		if (!err.text[0])
			abort();
		return 0;
	}
	if (info.tensor_count && info.data_offset > size)
		abort();
	if (!info.alignment || info.alignment & (info.alignment - 1) || info.data_offset % info.alignment)
		abort();
	if (utf8_valid_prefix(str_from(info.name)) != strlen(info.name))
		abort();
	gguf_info_fini(&info);
	return 0;
}
