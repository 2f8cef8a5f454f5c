/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors headers from strangers: what is accepted fills the file without holes; and every file has its cuts,
 * however little of it is there yet. */
#include "base/limits.h"
#include "store/cut.h"
#include "store/safetensors.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_some(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct str *bytes = arg;
	if (offset > bytes->len || len > bytes->len - offset)
		abort();
	memcpy(out, bytes->base + offset, len);
	return 0;
}

static void check_cuts(struct str bytes)
{
	uint64_t *ends = NULL;
	uint32_t count = 0;
	uint64_t held = bytes.len / 2, at = 0;
	struct str some = {bytes.base, held};
	if (!cut_file(read_some, &some, bytes.len, held, 4096, &ends, &count) &&
	    !cut_file(read_some, &bytes, bytes.len, bytes.len, 4096, &ends, &count))
		abort();
	for (uint32_t i = 0; i < count; at = ends[i++])
		if (ends[i] <= at)
			abort();
	if (at != bytes.len || count > LIMIT_CHUNKS)
		abort();
	free(ends);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = {(const char *)data, size};
	struct safetensors st = {0};
	struct error err = {0};
	uint64_t at = 0;
	check_cuts(bytes);
	if (safetensors_parse_bytes(bytes, &st, &err)) {
		if (!err.text[0])
			abort();
		return 0;
	}
	for (uint32_t i = 0; i < st.count; at = st.tensors[i++].to)
		if (st.tensors[i].from != at)
			abort();
	if (st.data_offset + at != size)
		abort();
	safetensors_fini(&st);
	return 0;
}
