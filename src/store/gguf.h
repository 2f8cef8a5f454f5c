/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - reads a GGUF header (v2, v3, little-endian) without trusting it.
 *
 * Every count and length is checked against the file's size and the limit table before use; nothing
 * is allocated in proportion to a number that was only claimed. Pure over a reader callback. Source: ggml docs/gguf.md.
 */
#ifndef MDN_STORE_GGUF_H
#define MDN_STORE_GGUF_H

#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

struct gguf_info {
	uint32_t version;
	uint64_t tensor_count, kv_count;
	uint64_t data_offset; /* where tensor data starts */
	uint64_t parameters;  /* sum of tensor elements */
	char architecture[64], name[128], quantization[32], license[64];
	uint32_t context_tokens, layers, embedding;
	uint32_t alignment;
	bool chat_template;
	struct buf chat_template_text; /* owned; up to 1 MiB */
};

/* Fills `out` with exactly len bytes from offset, or fails. */
typedef int gguf_read(void *arg, uint64_t offset, void *out, size_t len, struct error *err);
/* E_INVAL with the offset of the first fault; E_LIMIT past a limit. */
int gguf_parse(gguf_read *read, void *arg, uint64_t file_size, struct gguf_info *ret_info, struct error *err);
/* The same, and every tensor is shown as it is read: what came before a fault is void. */
struct gguf_tensor {
	const char *name, *type; /* only during the call */
	uint64_t elements;
	uint64_t offset, bytes; /* offset: from data_offset on */
};
typedef void gguf_each_tensor(void *arg, const struct gguf_tensor *t);
int gguf_parse_tensors(gguf_read *read, void *arg, uint64_t file_size, gguf_each_tensor *fn, void *fn_arg,
                       struct gguf_info *ret_info, struct error *err);
/* And every key, with where its value is: a string's and an array's with their lengths before them. */
struct gguf_key {
	const char *key;    /* only during the call; the first 127 bytes of a longer one */
	const char *type;   /* "UINT32", "STRING", "ARRAY" */
	uint64_t at, bytes; /* of the value */
};
typedef void gguf_each_key(void *arg, const struct gguf_key *k);
int gguf_parse_keys(gguf_read *read, void *arg, uint64_t file_size, gguf_each_key *on_key, gguf_each_tensor *on_tensor,
                    void *fn_arg, struct gguf_info *ret_info, struct error *err);
int gguf_parse_fd(int fd, struct gguf_info *ret_info, struct error *err);
int gguf_parse_bytes(struct str bytes, struct gguf_info *ret_info, struct error *err);
void gguf_info_fini(struct gguf_info *info);

#endif
