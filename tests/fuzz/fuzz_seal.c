/* SPDX-License-Identifier: Apache-2.0 */
/* A sealed file of any bytes: header and segments. The first byte says whether its header is made good first, so that
 * segments are reached, too. */
#include "store/seal.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seal_key key = {.bytes = {1}, .id = {2}};
	struct digest d = {{3}};
	struct seal s = {.key = {4}};
	uint8_t header[SEAL_HEADER];
	char out[4096];
	uint64_t content;
	if (size < 1 + SEAL_HEADER || size > 1 << 20)
		return 0;
	bool good = data[0] & 1;
	data++;
	size--;
	struct str head = {(const char *)data, SEAL_HEADER};
	if (good && seal_content_size(size, &content)) {
		s.size = content;
		seal_header_make(&s, &key, &d, header);
		head.base = (const char *)header;
	}
	if (seal_header_open(head, &key, &d, &s, NULL))
		return 0;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	s.sparse = data[0] & 2;
	for (uint64_t at = 0; at < s.size && at < 1 << 18; at += sizeof out)
		seal_read(&s, fd, at, out, s.size - at < sizeof out ? (size_t)(s.size - at) : sizeof out, NULL);
	close(fd);
	return 0;
}
