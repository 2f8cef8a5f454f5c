/* SPDX-License-Identifier: Apache-2.0 */
#include "store/blob_answer.h"

#include "net/http_range.h"

#include <fcntl.h>
#include <stdio.h>

static int read_blob(void *arg, uint64_t offset, void *out, size_t len)
{
	return blob_file_read(arg, offset, out, len, NULL);
}

static void close_blob(void *arg)
{
	blob_file_close(arg);
}

void blob_answer_as(struct http_exchange *x, struct blob_file *f, int status, const char *content_type, uint64_t from,
                    uint64_t length)
{
	int fd = blob_file_fd(f) < 0 ? -1 : fcntl(blob_file_fd(f), F_DUPFD_CLOEXEC, 0);
	if (fd < 0) { /* encrypted, or no descriptor left: then it is read through f's own */
		http_respond_source(x, status, content_type, &(struct http_source){read_blob, close_blob, f}, from,
		                    length);
		return;
	}
	blob_file_close(f);
	http_respond_file(x, status, content_type, fd, from, length);
}

void blob_answer(struct http_exchange *x, struct blob_file *f, bool part, uint64_t from, uint64_t length)
{
	uint64_t size = blob_file_size(f);
	http_add_header(x, "Accept-Ranges", STR("bytes"));
	if (part)
		http_add_content_range(x, from, length, size);
	blob_answer_as(x, f, part ? 206 : 200, "application/octet-stream", part ? from : 0, part ? length : size);
}
