/* SPDX-License-Identifier: Apache-2.0 */
/* One pass over the header through a 64 KiB window. Nothing is believed: a count is checked against the bytes that are
 * left before it is used, a length before it is skipped, and the only memory that grows is one 8-byte hash for each key
 * and tensor name really read (to find names that come twice, where two readers could see two different models).
 *
 *   "GGUF" u32 version u64 tensors u64 kvs | kv: str key, u32 type, value | tensor: str name, u32 dims, u64 dim[],
 *   u32 type, u64 offset | padding to the alignment | tensor data, each tensor padded to the alignment
 *
 * It accepts what llama.cpp's own reader accepts, or less: its rules for offsets (a running sum of padded sizes),
 * block sizes, names and alignment are checked here, so that a file which passes has all its tensor bytes.
 */
#include "store/gguf.h"

#include "base/file.h"
#include "base/limits.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW_SIZE 65536
#define KEY_MAX 65535
#define TENSOR_NAME_MAX 63
#define TEMPLATE_MAX (1u << 20)
#define ALIGNMENT_MAX (1u << 20)
#define CANDIDATES_MAX 48

enum gguf_type {
	T_U8,
	T_I8,
	T_U16,
	T_I16,
	T_U32,
	T_I32,
	T_F32,
	T_BOOL,
	T_STRING,
	T_ARRAY,
	T_U64,
	T_I64,
	T_F64,
	T_COUNT
};

static const char *const type_name[T_COUNT] = {"UINT8", "INT8",   "UINT16", "INT16",  "UINT32", "INT32",  "FLOAT32",
                                               "BOOL",  "STRING", "ARRAY",  "UINT64", "INT64",  "FLOAT64"};
static const uint8_t type_size[T_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* ggml.h, enum ggml_type: elements and bytes of a block. Zero: removed or never assigned. */
struct tensor_type {
	const char *name;
	uint16_t block, bytes;
};
static const struct tensor_type tensor_types[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},      [3] = {"Q4_1", 32, 20},
    [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},      [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},
    [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},   [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},    [41] = {"Q1_0", 128, 18},    [42] = {"Q2_0", 64, 18},
};
#define TENSOR_TYPES (sizeof tensor_types / sizeof tensor_types[0])

/* llama.h, enum llama_ftype. */
static const char *const file_types[] = {
    [0] = "F32",     [1] = "F16",     [2] = "Q4_0",       [3] = "Q4_1",    [7] = "Q8_0",     [8] = "Q5_0",
    [9] = "Q5_1",    [10] = "Q2_K",   [11] = "Q3_K_S",    [12] = "Q3_K_M", [13] = "Q3_K_L",  [14] = "Q4_K_S",
    [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M",    [18] = "Q6_K",   [19] = "IQ2_XXS", [20] = "IQ2_XS",
    [21] = "Q2_K_S", [22] = "IQ3_XS", [23] = "IQ3_XXS",   [24] = "IQ1_S",  [25] = "IQ4_NL",  [26] = "IQ3_S",
    [27] = "IQ3_M",  [28] = "IQ2_S",  [29] = "IQ2_M",     [30] = "IQ4_XS", [31] = "IQ1_M",   [32] = "BF16",
    [36] = "TQ1_0",  [37] = "TQ2_0",  [38] = "MXFP4_MOE", [39] = "NVFP4",  [40] = "Q1_0",    [41] = "Q2_0",
};

/* Numbers such as "llama.context_length": which of them counts is known once the architecture is. */
static const char *const number_suffixes[] = {".context_length", ".block_count", ".embedding_length"};
struct candidate {
	uint64_t key_hash, value;
};

struct name_set {
	uint64_t *slots; /* 0: free */
	size_t cap, count;
};

struct parser {
	gguf_read *read;
	void *arg;
	uint64_t size, pos;
	uint64_t window_at;
	size_t window_len;
	struct gguf_info *info;
	gguf_each_tensor *each; /* may be NULL */
	gguf_each_key *each_key;
	void *each_arg;
	struct name_set seen;
	struct candidate candidates[CANDIDATES_MAX];
	size_t candidate_count;
	int64_t file_type; /* -1: not said */
	uint64_t bytes_by_type[TENSOR_TYPES];
	struct error *err;
	uint8_t window[WINDOW_SIZE];
};

#define FAULT(p, at, ...) fault(p, E_INVAL, at, __VA_ARGS__)
static int fault(struct parser *p, int code, uint64_t at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int fault(struct parser *p, int code, uint64_t at, const char *format, ...)
{
	char text[256];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	return error_set(p->err, code, "not a usable GGUF file: at byte %llu: %s", (unsigned long long)at, text);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static int need(struct parser *p, uint64_t len, const char *what)
{
	if (len > p->size - p->pos)
		return FAULT(p, p->pos, "%s needs %llu bytes but the file ends after %llu", what,
		             (unsigned long long)len, (unsigned long long)(p->size - p->pos));
	if (p->pos + len > LIMIT_GGUF_HEADER)
		return fault(p, E_LIMIT, p->pos, "the header is larger than %d bytes", LIMIT_GGUF_HEADER);
	return 0;
}

/* Up to one window, from wherever the parser stands. */
static int fill(struct parser *p)
{
	uint64_t left = p->size - p->pos;
	size_t len = left < WINDOW_SIZE ? (size_t)left : WINDOW_SIZE;
	int rc = p->read(p->arg, p->pos, p->window, len, p->err);
	if (rc)
		return rc;
	p->window_at = p->pos;
	p->window_len = len;
	return 0;
}

/* out NULL skips: bytes that fall behind the window are never read. */
static int take(struct parser *p, void *out, uint64_t len, const char *what)
{
	int rc = need(p, len, what);
	if (rc)
		return rc;
	uint8_t *to = out;
	if (!out) {
		p->pos += len;
		return 0;
	}
	while (len) {
		if (p->pos < p->window_at || p->pos >= p->window_at + p->window_len) {
			rc = fill(p);
			if (rc)
				return rc;
		}
		size_t at = (size_t)(p->pos - p->window_at), n = p->window_len - at;
		if (n > len)
			n = (size_t)len;
		memcpy(to, p->window + at, n);
		to += n;
		p->pos += n;
		len -= n;
	}
	return 0;
}

static uint64_t little(const uint8_t *b, size_t len)
{
	uint64_t v = 0;
	for (size_t i = len; i-- > 0;)
		v = v << 8 | b[i];
	return v;
}

static int take_u32(struct parser *p, uint32_t *ret, const char *what)
{
	uint8_t b[4];
	int rc = take(p, b, sizeof b, what);
	if (!rc)
		*ret = (uint32_t)little(b, sizeof b);
	return rc;
}

static int take_u64(struct parser *p, uint64_t *ret, const char *what)
{
	uint8_t b[8];
	int rc = take(p, b, sizeof b, what);
	if (!rc)
		*ret = little(b, sizeof b);
	return rc;
}

/* The length of a string that really is there; the parser then stands at its first byte. */
static int take_length(struct parser *p, uint64_t max, uint64_t *ret_len, const char *what)
{
	uint64_t at = p->pos, len;
	int rc = take_u64(p, &len, what);
	if (rc)
		return rc;
	if (len > max)
		return FAULT(p, at, "%s claims %llu bytes, at most %llu are allowed", what, (unsigned long long)len,
		             (unsigned long long)max);
	rc = need(p, len, what);
	if (!rc)
		*ret_len = len;
	return rc;
}

/* ---- names that must not come twice ---------------------------------------------------------- */

static uint64_t hash_add(uint64_t h, const void *data, size_t len) /* FNV-1a */
{
	const uint8_t *b = data;
	for (size_t i = 0; i < len; i++)
		h = (h ^ b[i]) * UINT64_C(0x100000001b3);
	return h;
}

static uint64_t hash_of(const void *data, size_t len)
{
	uint64_t h = hash_add(UINT64_C(0xcbf29ce484222325), data, len);
	return h ? h : 1;
}

static bool slot_put(uint64_t *slots, size_t cap, uint64_t h)
{
	size_t i = (size_t)(h ^ h >> 32) & (cap - 1);
	while (slots[i] && slots[i] != h)
		i = (i + 1) & (cap - 1);
	bool is_new = !slots[i];
	slots[i] = h;
	return is_new;
}

/* False when the name was there already. */
static bool name_set_add(struct name_set *set, uint64_t h)
{
	if (set->count * 2 >= set->cap) {
		size_t cap = set->cap ? set->cap * 2 : 256;
		uint64_t *slots = mem_new(cap * sizeof *slots);
		for (size_t i = 0; i < set->cap; i++)
			if (set->slots[i])
				slot_put(slots, cap, set->slots[i]);
		free(set->slots);
		set->slots = slots;
		set->cap = cap;
	}
	bool is_new = slot_put(set->slots, set->cap, h);
	set->count += is_new;
	return is_new;
}

static void name_set_fini(struct name_set *set)
{
	free(set->slots);
	*set = (struct name_set){0};
}

/* ---- metadata -------------------------------------------------------------------------------- */

/* Text for people: cut at a whole character, control bytes as '?' so that no terminal obeys them. */
static int take_words(struct parser *p, char *to, size_t size, const char *what)
{
	uint64_t len;
	int rc = take_length(p, UINT64_MAX, &len, what);
	if (rc)
		return rc;
	size_t keep = len < size - 1 ? (size_t)len : size - 1;
	rc = take(p, to, keep, what);
	if (!rc)
		rc = take(p, NULL, len - keep, what);
	if (rc)
		return rc;
	keep = utf8_valid_prefix((struct str){to, keep});
	to[keep] = 0;
	for (size_t i = 0; i < keep; i++)
		if ((unsigned char)to[i] < 0x20 || to[i] == 0x7f)
			to[i] = '?';
	return 0;
}

static int take_architecture(struct parser *p)
{
	char *name = p->info->architecture;
	uint64_t at = p->pos, len;
	int rc = take_length(p, sizeof p->info->architecture - 1, &len, "general.architecture");
	if (!rc)
		rc = take(p, name, len, "general.architecture");
	if (rc)
		return rc;
	name[len] = 0;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-_.", c)) ||
		    !c)
			return FAULT(p, at, "general.architecture must be letters, digits, '-', '_' and '.'");
	}
	return len ? 0 : FAULT(p, at, "general.architecture is empty");
}

static int take_template(struct parser *p)
{
	uint64_t at = p->pos, len;
	int rc = take_length(p, UINT64_MAX, &len, "tokenizer.chat_template");
	if (rc)
		return rc;
	if (len > TEMPLATE_MAX)
		return fault(p, E_LIMIT, at, "the chat template has %llu bytes, at most %u are allowed",
		             (unsigned long long)len, TEMPLATE_MAX);
	struct buf *text = &p->info->chat_template_text;
	char *to = buf_reserve(text, (size_t)len);
	rc = take(p, to, len, "tokenizer.chat_template");
	if (rc)
		return rc;
	text->len = (size_t)len;
	p->info->chat_template = len > 0;
	return 0;
}

/* An integer of any width; false (and skipped) for other types. */
static int take_integer(struct parser *p, uint32_t type, uint64_t *ret_value, bool *ret_is_integer)
{
	uint8_t b[8];
	uint64_t at = p->pos;
	bool is_signed = type == T_I8 || type == T_I16 || type == T_I32 || type == T_I64;
	*ret_is_integer = type != T_F32 && type != T_F64 && type != T_BOOL;
	int rc = take(p, b, type_size[type], "a number");
	if (rc || !*ret_is_integer)
		return rc;
	if (is_signed && b[type_size[type] - 1] & 0x80)
		return FAULT(p, at, "a size is negative");
	*ret_value = little(b, type_size[type]);
	return 0;
}

static bool is_number_key(struct str key)
{
	for (size_t i = 0; i < sizeof number_suffixes / sizeof *number_suffixes; i++)
		if (str_ends(key, str_from(number_suffixes[i])))
			return true;
	return false;
}

static int skip_scalar(struct parser *p, uint32_t type, const char *what)
{
	if (type != T_STRING)
		return take(p, NULL, type_size[type], what);
	uint64_t len;
	int rc = take_length(p, UINT64_MAX, &len, what);
	return rc ? rc : take(p, NULL, len, what);
}

static int skip_array(struct parser *p)
{
	uint64_t at = p->pos, count;
	uint32_t type;
	int rc = take_u32(p, &type, "an array's type");
	if (!rc)
		rc = take_u64(p, &count, "an array's length");
	if (rc)
		return rc;
	if (type >= T_COUNT || type == T_ARRAY)
		return FAULT(p, at, "an array of type %u, which does not exist", type);
	uint64_t least = type == T_STRING ? 8 : type_size[type];
	if (count > (p->size - p->pos) / least)
		return FAULT(p, at, "an array claims %llu items, more than the rest of the file can hold",
		             (unsigned long long)count);
	if (type != T_STRING)
		return take(p, NULL, count * least, "an array");
	for (uint64_t i = 0; i < count; i++) {
		rc = skip_scalar(p, T_STRING, "a string of an array");
		if (rc)
			return rc;
	}
	return 0;
}

static int must_be(struct parser *p, uint32_t type, uint32_t wanted, struct str key, uint64_t at)
{
	return type == wanted ? 0 : FAULT(p, at, STR_FMT " has type %u, it must be %u", STR_ARG(key), type, wanted);
}

static int take_alignment(struct parser *p)
{
	uint64_t at = p->pos;
	uint32_t a = 0;
	int rc = take_u32(p, &a, "general.alignment");
	if (rc)
		return rc;
	if (!a || a & (a - 1) || a > ALIGNMENT_MAX)
		return FAULT(p, at, "general.alignment is %u, it must be a power of two up to %u", a, ALIGNMENT_MAX);
	p->info->alignment = a;
	return 0;
}

static int take_candidate(struct parser *p, uint32_t type, uint64_t key_hash)
{
	uint64_t value = 0;
	bool is_integer;
	int rc = take_integer(p, type, &value, &is_integer);
	if (!rc && is_integer && p->candidate_count < CANDIDATES_MAX)
		p->candidates[p->candidate_count++] = (struct candidate){key_hash, value};
	return rc;
}

static int take_value(struct parser *p, struct str key, uint64_t key_hash, uint32_t type, uint64_t at)
{
	struct gguf_info *info = p->info;
	int rc = 0;
	if (str_equal(key, STR("general.architecture")))
		return (rc = must_be(p, type, T_STRING, key, at)) ? rc : take_architecture(p);
	if (str_equal(key, STR("general.alignment")))
		return (rc = must_be(p, type, T_U32, key, at)) ? rc : take_alignment(p);
	if (str_equal(key, STR("tokenizer.chat_template")))
		return (rc = must_be(p, type, T_STRING, key, at)) ? rc : take_template(p);
	if (type == T_STRING && str_equal(key, STR("general.name")))
		return take_words(p, info->name, sizeof info->name, "general.name");
	if (type == T_STRING && str_equal(key, STR("general.license")))
		return take_words(p, info->license, sizeof info->license, "general.license");
	if (type == T_ARRAY)
		return skip_array(p);
	if (type != T_STRING && str_equal(key, STR("general.file_type"))) {
		uint64_t value = 0;
		bool is_integer;
		rc = take_integer(p, type, &value, &is_integer);
		if (!rc && is_integer && value < INT32_MAX)
			p->file_type = (int64_t)value;
		return rc;
	}
	if (type != T_STRING && is_number_key(key))
		return take_candidate(p, type, key_hash);
	return skip_scalar(p, type, "a value");
}

static int parse_kv(struct parser *p)
{
	char text[128];
	uint64_t at = p->pos, len;
	int rc = take_length(p, KEY_MAX, &len, "a key");
	if (rc)
		return rc;
	if (!len)
		return FAULT(p, at, "a key is empty");
	/* Keys we know are short; the rest of a long one only goes into the hash. */
	size_t keep = len < sizeof text ? (size_t)len : sizeof text;
	rc = take(p, text, keep, "a key");
	uint64_t h = hash_of(text, keep);
	for (uint64_t left = len - keep; !rc && left;) {
		char more[256];
		size_t n = left < sizeof more ? (size_t)left : sizeof more;
		rc = take(p, more, n, "a key");
		h = hash_add(h, more, rc ? 0 : n);
		left -= n;
	}
	if (rc)
		return rc;
	if (!name_set_add(&p->seen, h ? h : 1))
		return FAULT(p, at, "the key " STR_FMT " comes twice", (int)utf8_valid_prefix((struct str){text, keep}),
		             text);
	uint32_t type;
	uint64_t type_at = p->pos;
	rc = take_u32(p, &type, "a value's type");
	if (rc)
		return rc;
	if (type >= T_COUNT)
		return FAULT(p, type_at, "a value of type %u, which does not exist", type);
	struct str key = len == keep ? (struct str){text, keep} : (struct str){0};
	uint64_t value_at = p->pos;
	rc = take_value(p, key, h, type, type_at);
	if (!rc && p->each_key) {
		text[keep < sizeof text ? keep : sizeof text - 1] = 0;
		p->each_key(p->each_arg, &(struct gguf_key){text, type_name[type], value_at, p->pos - value_at});
	}
	return rc;
}

/* The number under ARCHITECTURE + suffix; 0 when there is none, or when no such thing can be so large. */
static uint32_t number_of(const struct parser *p, const char *suffix)
{
	char key[128];
	int len = snprintf(key, sizeof key, "%s%s", p->info->architecture, suffix);
	uint64_t h = hash_of(key, (size_t)len);
	for (size_t i = 0; i < p->candidate_count; i++)
		if (p->candidates[i].key_hash == h)
			return p->candidates[i].value <= UINT32_MAX ? (uint32_t)p->candidates[i].value : 0;
	return 0;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static int tensor_name(struct parser *p, char name[static TENSOR_NAME_MAX + 1])
{
	uint64_t at = p->pos, len;
	int rc = take_length(p, TENSOR_NAME_MAX, &len, "a tensor's name");
	if (!rc)
		rc = take(p, name, len, "a tensor's name");
	if (rc)
		return rc;
	if (!name_set_add(&p->seen, hash_of(name, (size_t)len)))
		return FAULT(p, at, "two tensors have the same name");
	name[len] = 0;
	return 0;
}

static int tensor_shape(struct parser *p, const char *name, uint64_t *ret_elements, uint64_t *ret_row)
{
	uint64_t at = p->pos, elements = 1, row = 1;
	uint32_t dims;
	int rc = take_u32(p, &dims, "a tensor's dimensions");
	if (rc)
		return rc;
	if (dims > 4)
		return FAULT(p, at, "tensor %s has %u dimensions, at most 4 are allowed", name, dims);
	for (uint32_t i = 0; i < dims; i++) {
		uint64_t d;
		at = p->pos;
		rc = take_u64(p, &d, "a tensor's dimensions");
		if (rc)
			return rc;
		if (d > INT64_MAX || __builtin_mul_overflow(elements, d, &elements) || elements > INT64_MAX)
			return FAULT(p, at, "tensor %s has more elements than any file can hold", name);
		if (!i)
			row = d;
	}
	*ret_elements = elements;
	*ret_row = row;
	return 0;
}

/* Bytes of the tensor: whole blocks, row by row. */
static int tensor_bytes(struct parser *p, const char *name, uint64_t elements, uint64_t row, uint64_t *ret_bytes,
                        const char **ret_type)
{
	uint64_t at = p->pos, bytes;
	uint32_t type;
	int rc = take_u32(p, &type, "a tensor's type");
	if (rc)
		return rc;
	if (type >= TENSOR_TYPES || !tensor_types[type].block)
		return FAULT(p, at, "tensor %s has type %u, which is unknown here; a newer MDN may know it", name,
		             type);
	const struct tensor_type *t = &tensor_types[type];
	if (row % t->block)
		return FAULT(p, at, "tensor %s (%s) has rows of %llu elements, not a multiple of %u", name, t->name,
		             (unsigned long long)row, t->block);
	if (__builtin_mul_overflow(elements / t->block, (uint64_t)t->bytes, &bytes) || bytes > INT64_MAX)
		return FAULT(p, at, "tensor %s has more bytes than any file can hold", name);
	p->bytes_by_type[type] += bytes > p->size ? p->size : bytes;
	*ret_bytes = bytes;
	*ret_type = t->name;
	return 0;
}

/* *end: where the data written so far ends, counted from the data's start and padded; moved on. */
static int parse_tensor(struct parser *p, uint64_t *sum, uint64_t *ret_end)
{
	char name[TENSOR_NAME_MAX + 1];
	const char *type;
	uint64_t elements, row, bytes, offset;
	int rc = tensor_name(p, name);
	if (!rc)
		rc = tensor_shape(p, name, &elements, &row);
	if (!rc)
		rc = tensor_bytes(p, name, elements, row, &bytes, &type);
	if (rc)
		return rc;
	uint64_t at = p->pos;
	rc = take_u64(p, &offset, "a tensor's offset");
	if (rc)
		return rc;
	if (offset != *sum)
		return FAULT(p, at, "tensor %s starts at %llu, it must follow the one before at %llu", name,
		             (unsigned long long)offset, (unsigned long long)*sum);
	if (*sum > p->size || bytes > p->size - *sum)
		return FAULT(p, at, "tensor %s ends past the end of the file; the file is cut short", name);
	if (p->each)
		p->each(p->each_arg, &(struct gguf_tensor){name, type, elements, offset, bytes});
	*ret_end = *sum + bytes;
	*sum += bytes + (-bytes & (p->info->alignment - 1));
	return __builtin_add_overflow(p->info->parameters, elements, &p->info->parameters)
	           ? FAULT(p, at, "the tensors have more elements than can be counted")
	           : 0;
}

static int parse_tensors(struct parser *p)
{
	uint64_t sum = 0, end = 0;
	name_set_fini(&p->seen);
	for (uint64_t i = 0; i < p->info->tensor_count; i++) {
		int rc = parse_tensor(p, &sum, &end);
		if (rc)
			return rc;
	}
	uint64_t at = p->pos, data = at + (-at & (p->info->alignment - 1));
	p->info->data_offset = data;
	if (p->info->tensor_count && (data > p->size || end > p->size - data))
		return FAULT(p, at, "tensor data must end at byte %llu but the file has only %llu; it is cut short",
		             (unsigned long long)(data + end), (unsigned long long)p->size);
	return 0;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int parse_start(struct parser *p)
{
	char magic[4];
	struct gguf_info *info = p->info;
	int rc = take(p, magic, sizeof magic, "the magic");
	if (rc)
		return rc;
	if (memcmp(magic, "GGUF", 4))
		return FAULT(p, 0, "it does not begin with \"GGUF\"");
	rc = take_u32(p, &info->version, "the version");
	if (rc)
		return rc;
	if (!(info->version & 0xffff))
		return FAULT(p, 4, "it is big-endian; convert it to little-endian first");
	if (info->version != 2 && info->version != 3)
		return FAULT(p, 4, "version %u is not 2 or 3; convert the model again with a current tool",
		             info->version);
	rc = take_u64(p, &info->tensor_count, "the number of tensors");
	if (!rc)
		rc = take_u64(p, &info->kv_count, "the number of keys");
	if (rc)
		return rc;
	if (info->tensor_count > LIMIT_GGUF_TENSORS)
		return fault(p, E_LIMIT, 8, "it claims %llu tensors, at most %d are allowed",
		             (unsigned long long)info->tensor_count, LIMIT_GGUF_TENSORS);
	if (info->kv_count > LIMIT_GGUF_KVS)
		return fault(p, E_LIMIT, 16, "it claims %llu keys, at most %d are allowed",
		             (unsigned long long)info->kv_count, LIMIT_GGUF_KVS);
	return 0;
}

static void label_quantization(struct parser *p)
{
	const char *label = NULL;
	if (p->file_type >= 0 && p->file_type < (int64_t)(sizeof file_types / sizeof *file_types))
		label = file_types[p->file_type];
	if (!label) { /* not said, or newer than our table: what most bytes are */
		uint64_t most = 0;
		for (size_t i = 0; i < TENSOR_TYPES; i++) {
			if (p->bytes_by_type[i] > most) {
				most = p->bytes_by_type[i];
				label = tensor_types[i].name;
			}
		}
	}
	str_copy(str_from(label ? label : ""), p->info->quantization, sizeof p->info->quantization);
}

static int parse_all(struct parser *p)
{
	int rc = parse_start(p);
	for (uint64_t i = 0; !rc && i < p->info->kv_count; i++)
		rc = parse_kv(p);
	if (!rc)
		rc = parse_tensors(p);
	if (rc)
		return rc;
	if (p->info->architecture[0]) {
		p->info->context_tokens = number_of(p, number_suffixes[0]);
		p->info->layers = number_of(p, number_suffixes[1]);
		p->info->embedding = number_of(p, number_suffixes[2]);
	}
	label_quantization(p);
	return 0;
}

int gguf_parse(gguf_read *read, void *arg, uint64_t file_size, struct gguf_info *ret_info, struct error *err)
{
	return gguf_parse_tensors(read, arg, file_size, NULL, NULL, ret_info, err);
}

int gguf_parse_tensors(gguf_read *read, void *arg, uint64_t file_size, gguf_each_tensor *fn, void *fn_arg,
                       struct gguf_info *ret_info, struct error *err)
{
	return gguf_parse_keys(read, arg, file_size, NULL, fn, fn_arg, ret_info, err);
}

int gguf_parse_keys(gguf_read *read, void *arg, uint64_t file_size, gguf_each_key *on_key, gguf_each_tensor *on_tensor,
                    void *fn_arg, struct gguf_info *ret_info, struct error *err)
{
	struct gguf_info info = {.alignment = 32};
	struct error dropped;
	struct parser *p = NEW(struct parser);
	*p = (struct parser){.read = read, .arg = arg, .size = file_size, .info = &info, .file_type = -1};
	p->each = on_tensor;
	p->each_key = on_key;
	p->each_arg = fn_arg;
	p->err = err ? err : &dropped;
	int rc = parse_all(p);
	name_set_fini(&p->seen);
	free(p);
	if (rc) {
		gguf_info_fini(&info);
		return rc;
	}
	*ret_info = info;
	return 0;
}

void gguf_info_fini(struct gguf_info *info)
{
	if (!info)
		return;
	buf_fini(&info->chat_template_text);
	*info = (struct gguf_info){0};
}

static int read_fd(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	ssize_t got = file_read_at(*(const int *)arg, offset, out, len);
	if (got < 0)
		return error_errno(err, errno, "cannot read a GGUF file");
	if ((size_t)got < len)
		return error_set(err, E_IO, "a GGUF file became shorter while it was read; push it again");
	return 0;
}

int gguf_parse_fd(int fd, struct gguf_info *ret_info, struct error *err)
{
	struct stat st;
	if (fstat(fd, &st))
		return error_errno(err, errno, "cannot look at a GGUF file");
	return gguf_parse(read_fd, &fd, (uint64_t)st.st_size, ret_info, err);
}

static int read_bytes(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct str *bytes = arg;
	memcpy(out, bytes->base + offset, len); /* the parser stays below the size it was given */
	return 0;
}

int gguf_parse_bytes(struct str bytes, struct gguf_info *ret_info, struct error *err)
{
	return gguf_parse(read_bytes, &bytes, bytes.len, ret_info, err);
}
