/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - reads the header of a safetensors file without trusting it.
 *
 * u64 header length (little-endian), a JSON object {"name": {"dtype", "shape", "data_offsets": [from, to]}, ...,
 * "__metadata__": {text: text}}, then the tensors' bytes. Every tensor must have exactly the bytes its shape says and
 * together they must fill the file without holes or overlaps, so that a file which passes is whole. Memory: at most
 * some ten times the header, which LIMIT_SAFETENSORS_HEADER bounds. Source: the format's README and src/tensor.rs.
 */
#ifndef MDN_STORE_SAFETENSORS_H
#define MDN_STORE_SAFETENSORS_H

#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>

#define SAFETENSORS_DIMS_MAX 16

struct safetensors_tensor {
	struct str name;   /* in the document; unescaped, may hold any character */
	const char *dtype; /* static: "BF16" */
	uint32_t dims;
	uint64_t shape[SAFETENSORS_DIMS_MAX];
	uint64_t elements, from, to; /* from, to: bytes from data_offset on */
};

struct safetensors {
	uint64_t data_offset; /* where the tensors' bytes start */
	uint64_t parameters;  /* sum of elements */
	uint32_t count;
	struct safetensors_tensor *tensors; /* by `from` */
	void *doc;                          /* owns the names */
};

/* Fills `out` with exactly len bytes from offset, or fails. */
typedef int safetensors_read(void *arg, uint64_t offset, void *out, size_t len, struct error *err);
/* Do these first bytes (9 are enough) look like one of so many bytes? Then where its header ends. */
bool safetensors_begins(struct str start, uint64_t file_size, uint64_t *ret_header_end);
/* E_INVAL with the name of the first bad tensor; E_LIMIT past a limit. */
int safetensors_parse(safetensors_read *read, void *arg, uint64_t file_size, struct safetensors *ret_st,
                      struct error *err);
int safetensors_parse_bytes(struct str bytes, struct safetensors *ret_st, struct error *err);
void safetensors_fini(struct safetensors *st);

#endif
