/* SPDX-License-Identifier: Apache-2.0 */
/* A file of the prefix cache: whatever it says of itself, lengths fit, and its name and tokens can be read. */
#include "engine/llama_disk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct digest fingerprint = {{0}};
	struct kv_file file;
	char name[KV_FILE_NAME_SIZE];

	memcpy(fingerprint.bytes, "fingerprint-of-a-model-and-more.", DIGEST_SIZE);
	if (kv_file_parse(data, size, size, &fingerprint, &file, NULL) < 0)
		return 0;
	assert(file.count > 0 && file.begin >= 0 && file.begin < file.count);
	assert(file.blob_size + KV_FILE_HEAD + (uint64_t)file.count * sizeof(int32_t) == size);
	disk_name(&file, name);
	assert(strlen(name) == KV_FILE_NAME_SIZE - 1);
	free(file.tokens);
	return 0;
}
