/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_build.h - writes small GGUF files, good and bad, for tests. Header only. */
#ifndef MDN_TESTS_STORE_GGUF_BUILD_H
#define MDN_TESTS_STORE_GGUF_BUILD_H

#include "base/str.h"

enum { G_U32 = 4, G_I32 = 5, G_F32 = 6, G_STRING = 8, G_ARRAY = 9, G_U64 = 10 };

static inline void gguf_u32(struct buf *b, uint32_t v)
{
	buf_append(b, &v, sizeof v);
}

static inline void gguf_u64(struct buf *b, uint64_t v)
{
	buf_append(b, &v, sizeof v);
}

static inline void gguf_text(struct buf *b, const char *text)
{
	gguf_u64(b, strlen(text));
	buf_append(b, text, strlen(text));
}

static inline void gguf_start(struct buf *b, uint32_t version, uint64_t tensors, uint64_t kvs)
{
	buf_append(b, "GGUF", 4);
	gguf_u32(b, version);
	gguf_u64(b, tensors);
	gguf_u64(b, kvs);
}

static inline void gguf_key(struct buf *b, const char *key, uint32_t type)
{
	gguf_text(b, key);
	gguf_u32(b, type);
}

static inline void gguf_kv_text(struct buf *b, const char *key, const char *value)
{
	gguf_key(b, key, G_STRING);
	gguf_text(b, value);
}

static inline void gguf_kv_u32(struct buf *b, const char *key, uint32_t value)
{
	gguf_key(b, key, G_U32);
	gguf_u32(b, value);
}

static inline void gguf_tensor(struct buf *b, const char *name, uint32_t type, uint64_t width, uint64_t height,
                               uint64_t offset)
{
	gguf_text(b, name);
	gguf_u32(b, 2);
	gguf_u64(b, width);
	gguf_u64(b, height);
	gguf_u32(b, type);
	gguf_u64(b, offset);
}

static inline void gguf_pad(struct buf *b, size_t alignment)
{
	while (b->len % alignment)
		buf_append(b, "", 1);
}

/* A whole small model: two tensors, F32 4x3 (48 bytes) and Q8_0 64x2 (136 bytes, at 64), `filler` as their bytes. */
static inline void gguf_small(struct buf *b, char filler)
{
	gguf_start(b, 3, 2, 8);
	gguf_kv_text(b, "general.architecture", "llama");
	gguf_kv_text(b, "general.name", "Small Test");
	gguf_kv_text(b, "general.license", "apache-2.0");
	gguf_kv_u32(b, "general.file_type", 7);
	gguf_kv_u32(b, "llama.context_length", 2048);
	gguf_kv_u32(b, "llama.block_count", 2);
	gguf_key(b, "tokenizer.ggml.tokens", G_ARRAY);
	gguf_u32(b, G_STRING);
	gguf_u64(b, 2);
	gguf_text(b, "a");
	gguf_text(b, "b");
	gguf_kv_text(b, "tokenizer.chat_template", "{{ messages }}");
	gguf_tensor(b, "token_embd.weight", 0, 4, 3, 0);
	gguf_tensor(b, "blk.0.weight", 8, 64, 2, 64);
	gguf_pad(b, 32);
	for (int i = 0; i < 64 + 136; i++)
		buf_append(b, &filler, 1);
}

#endif
