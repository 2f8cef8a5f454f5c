/* SPDX-License-Identifier: Apache-2.0 */
/* str.h - a borrowed run of bytes, and a growing buffer that knows its limit.
 *
 * `struct str` never owns; whoever hands it out says how long it lives. `struct buf` owns its
 * memory, starts zeroed ({0} is valid, max 0 = no limit but memory), and latches an overflow in
 * `failed` so that a chain of appends is checked once at the end. Not thread safe. Sizes in bytes.
 */
#ifndef MDN_BASE_STR_H
#define MDN_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
	const char *base;
	size_t len;
};

#define STR(literal) ((struct str){("" literal), sizeof(literal) - 1})
#define STR_FMT "%.*s"
#define STR_ARG(s) ((int)(s).len), ((s).base ? (s).base : "")

static inline struct str str_from(const char *text)
{
	return (struct str){text, text ? strlen(text) : 0};
}
bool str_equal(struct str a, struct str b);
bool str_equal_nocase(struct str a, struct str b); /* ASCII only */
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
struct str str_trim(struct str s); /* spaces and tabs */
/* Cuts at the first `separator`; the rest (without it) goes to *rest, empty when none was found. */
struct str str_cut(struct str s, char separator, struct str *rest);
/* Letters to insert, drop, change or swap to get from a to b (Damerau-Levenshtein, at most 64 bytes each are looked
 * at); case is ignored and `-` is `_`. */
size_t str_distance(struct str a, struct str b);
char *str_dup(struct str s);                        /* NUL-terminated heap copy; aborts when memory is out */
bool str_copy(struct str s, char *to, size_t size); /* NUL-terminated; false (and "") when too long */
int str_to_u64(struct str s, uint64_t *ret_value);  /* decimal only; E_INVAL */
int str_to_i64(struct str s, int64_t *ret_value);
/* Bytes with an optional K, M, G, T (powers of 1024) suffix, either case. */
int str_to_bytes(struct str s, uint64_t *ret_bytes);
/* Durations: 250us, 30ms, 10s, 5m, 1h, 1d; a bare number is refused. Microseconds. */
int str_to_duration_us(struct str s, int64_t *ret_us);

struct buf {
	char *base;
	size_t len;
	size_t cap;
	size_t max;  /* 0: none */
	bool failed; /* an append would have passed max; base keeps what fitted before it */
};

void buf_fini(struct buf *b);
void buf_clear(struct buf *b); /* keeps the memory */
void buf_append(struct buf *b, const void *data, size_t len);
void buf_append_str(struct buf *b, struct str s);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. Good YAML and JavaScript too. */
void buf_append_json(struct buf *b, struct str s);
/* Percent-encoded (RFC 3986): all but ASCII letters, digits and what stands in `plain`. */
#define URL_SEGMENT "-._~" /* nothing that ends a path segment, or a query value */
#define URL_PATH "-._~/"
void buf_append_escaped(struct buf *b, struct str s, const char *plain);
void buf_consume(struct buf *b, size_t len); /* drops the first len bytes */
/* Room for len more, to be counted by `b->len +=`; NULL past max, which does not latch `failed`. */
char *buf_reserve(struct buf *b, size_t len);
static inline struct str buf_str(const struct buf *b)
{
	return (struct str){b->base, b->len};
}

/* Heap helpers that abort when memory is out: for small things only. */
void *mem_new(size_t size); /* zeroed */
void *mem_resize(void *p, size_t count, size_t size);
#define NEW(type) ((type *)mem_new(sizeof(type)))

/* A length of valid UTF-8 at the start of s (whole characters only). */
size_t utf8_valid_prefix(struct str s);
/* All of s but a last character that is cut off: what a stream may pass on now, good or bad. */
size_t utf8_complete_prefix(struct str s);
/* Control characters (C0, DEL, C1) become spaces: for words that may quote a peer and end up on a terminal. */
void str_blank_controls(char *text, size_t len);
void hex_encode(const uint8_t *in, size_t len, char *ret_text /* 2*len+1 */);
int hex_decode(struct str text, uint8_t *ret_out, size_t size); /* exactly 2*size digits */
size_t base64url_encode(const uint8_t *in, size_t len, char *ret_text /* (len+2)/3*4+1, no padding */);
int base64url_decode(struct str text, uint8_t *ret_out, size_t size, size_t *ret_len);

#endif
