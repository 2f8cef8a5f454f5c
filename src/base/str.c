/* SPDX-License-Identifier: Apache-2.0 */
/* How: plain loops over bytes, no locale anywhere. A buffer grows by half its size, so that a chain of small appends
 * costs amortised constant time, and always has one byte to spare for the NUL that vsnprintf wants to write. What
 * this will not do: Unicode case, normalisation, or fractions in sizes and durations.
 */
#include "base/str.h"

#include "base/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool str_equal(struct str a, struct str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.base, b.base, a.len) == 0);
}

static char ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

bool str_equal_nocase(struct str a, struct str b)
{
	if (a.len != b.len)
		return false;
	for (size_t i = 0; i < a.len; i++)
		if (ascii_lower(a.base[i]) != ascii_lower(b.base[i]))
			return false;
	return true;
}

bool str_starts(struct str s, struct str prefix)
{
	return s.len >= prefix.len && str_equal((struct str){s.base, prefix.len}, prefix);
}

bool str_ends(struct str s, struct str suffix)
{
	if (s.len < suffix.len)
		return false;
	return suffix.len == 0 || memcmp(s.base + (s.len - suffix.len), suffix.base, suffix.len) == 0;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

struct str str_trim(struct str s)
{
	while (s.len > 0 && is_blank(s.base[0]))
		s = (struct str){s.base + 1, s.len - 1};
	while (s.len > 0 && is_blank(s.base[s.len - 1]))
		s.len--;
	return s;
}

struct str str_cut(struct str s, char separator, struct str *rest)
{
	const char *at = s.len > 0 ? memchr(s.base, separator, s.len) : NULL;

	if (at == NULL) {
		*rest = (struct str){0};
		return s;
	}
	size_t head = (size_t)(at - s.base);
	*rest = (struct str){at + 1, s.len - head - 1};
	return (struct str){s.base, head};
}

#define DISTANCE_MAX 64

static char distance_fold(char c)
{
	return c == '-' ? '_' : ascii_lower(c);
}

size_t str_distance(struct str a, struct str b)
{
	size_t rows[3][DISTANCE_MAX + 1], *before = rows[0], *last = rows[1], *now = rows[2];

	a.len = a.len < DISTANCE_MAX ? a.len : DISTANCE_MAX;
	b.len = b.len < DISTANCE_MAX ? b.len : DISTANCE_MAX;
	for (size_t j = 0; j <= b.len; j++)
		before[j] = last[j] = j;
	for (size_t i = 1; i <= a.len; i++) {
		now[0] = i;
		for (size_t j = 1; j <= b.len; j++) {
			char x = distance_fold(a.base[i - 1]), y = distance_fold(b.base[j - 1]);
			size_t best = last[j - 1] + (x != y);
			best = last[j] + 1 < best ? last[j] + 1 : best;
			best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
			if (i > 1 && j > 1 && x == distance_fold(b.base[j - 2]) && distance_fold(a.base[i - 2]) == y &&
			    before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		size_t *spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[b.len];
}

char *str_dup(struct str s)
{
	char *copy = mem_resize(NULL, s.len + 1, 1);

	if (s.len > 0)
		memcpy(copy, s.base, s.len);
	copy[s.len] = '\0';
	return copy;
}

bool str_copy(struct str s, char *to, size_t size)
{
	assert(size > 0);
	if (s.len >= size) {
		to[0] = '\0';
		return false;
	}
	if (s.len > 0)
		memcpy(to, s.base, s.len);
	to[s.len] = '\0';
	return true;
}

int str_to_u64(struct str s, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (s.len == 0)
		return E_INVAL;
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		if (c < '0' || c > '9' || __builtin_mul_overflow(value, UINT64_C(10), &value) ||
		    __builtin_add_overflow(value, (uint64_t)(c - '0'), &value))
			return E_INVAL;
	}
	*ret_value = value;
	return 0;
}

int str_to_i64(struct str s, int64_t *ret_value)
{
	bool negative = s.len > 0 && s.base[0] == '-';
	uint64_t size;

	if (str_to_u64(negative ? (struct str){s.base + 1, s.len - 1} : s, &size) != 0)
		return E_INVAL;
	if (size > (uint64_t)INT64_MAX + (negative ? 1 : 0))
		return E_INVAL;
	*ret_value = negative ? (int64_t)(0 - size) : (int64_t)size;
	return 0;
}

int str_to_bytes(struct str s, uint64_t *ret_bytes)
{
	static const char units[] = "kmgt";
	const char *unit = s.len > 0 ? strchr(units, ascii_lower(s.base[s.len - 1])) : NULL;
	uint64_t count;

	if (unit == NULL || *unit == '\0')
		return str_to_u64(s, ret_bytes);
	if (str_to_u64((struct str){s.base, s.len - 1}, &count) != 0)
		return E_INVAL;
	unsigned shift = 10 * ((unsigned)(unit - units) + 1);
	if (count > UINT64_MAX >> shift)
		return E_INVAL;
	*ret_bytes = count << shift;
	return 0;
}

int str_to_duration_us(struct str s, int64_t *ret_us)
{
	static const struct {
		const char *name;
		int64_t us;
	} units[] = {{"us", 1},           {"ms", 1000},       {"s", 1000000},
	             {"m", 60 * 1000000}, {"h", 3600000000L}, {"d", 86400000000L}};
	size_t digits = 0;
	uint64_t count;
	int64_t us;

	while (digits < s.len && s.base[digits] >= '0' && s.base[digits] <= '9')
		digits++;
	if (str_to_u64((struct str){s.base, digits}, &count) != 0 || count > INT64_MAX)
		return E_INVAL;
	struct str unit = {s.base + digits, s.len - digits};
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (!str_equal(unit, str_from(units[i].name)))
			continue;
		if (__builtin_mul_overflow((int64_t)count, units[i].us, &us))
			return E_INVAL;
		*ret_us = us;
		return 0;
	}
	return E_INVAL;
}

void buf_fini(struct buf *b)
{
	if (b == NULL)
		return;
	free(b->base);
	*b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
}

char *buf_reserve(struct buf *b, size_t len)
{
	size_t need;

	if (b->failed || (b->max > 0 && (b->len > b->max || len > b->max - b->len)))
		return NULL;
	if (__builtin_add_overflow(b->len, len, &need) || need > SIZE_MAX / 4)
		abort();
	if (b->base == NULL || need >= b->cap) {
		size_t cap = b->cap + b->cap / 2;
		if (cap < need + 1)
			cap = need + 1;
		if (cap < 64)
			cap = 64;
		b->base = mem_resize(b->base, cap, 1);
		b->cap = cap;
	}
	return b->base + b->len;
}

void buf_append(struct buf *b, const void *data, size_t len)
{
	bool fits = b->max == 0 && len < b->cap - b->len; /* as a rule */
	char *to = fits ? b->base + b->len : buf_reserve(b, len);

	if (to == NULL) {
		b->failed = true;
		return;
	}
	if (len > 0)
		memcpy(to, data, len);
	b->len += len;
}

void buf_append_str(struct buf *b, struct str s)
{
	buf_append(b, s.base, s.len);
}

void buf_printf(struct buf *b, const char *format, ...)
{
	va_list args;

	if (b->failed)
		return;
	/* First into what is there already; only a longer text is formatted twice. */
	size_t space = b->cap > b->len ? b->cap - b->len : 0;
	va_start(args, format);
	int len = vsnprintf(space > 0 ? b->base + b->len : NULL, space, format, args);
	va_end(args);
	assert(len >= 0);
	char *to = buf_reserve(b, (size_t)len);
	if (to == NULL) {
		b->failed = true;
		return;
	}
	if ((size_t)len >= space) {
		va_start(args, format);
		vsnprintf(to, (size_t)len + 1, format, args);
		va_end(args);
	}
	b->len += (size_t)len;
}

void buf_append_escaped(struct buf *b, struct str s, const char *plain)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.base[i];
		if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		    (c && strchr(plain, c)))
			buf_append(b, &c, 1);
		else
			buf_printf(b, "%%%02X", c);
	}
}

void buf_consume(struct buf *b, size_t len)
{
	assert(len <= b->len);
	if (len > 0 && len < b->len)
		memmove(b->base, b->base + len, b->len - len);
	b->len -= len;
}

/* The length of the character at p, or when it is not UTF-8 (RFC 3629, section 4) that of the part that one U+FFFD
 * stands for (Unicode 15, section 3.9, "maximal subpart"). *ret_short: good as far as it goes, but the text ends. */
static size_t utf8_step(const uint8_t *p, size_t len, bool *ret_valid, bool *ret_short)
{
	uint8_t least = 0x80, most = 0xbf;
	size_t want;

	*ret_valid = true;
	*ret_short = false;
	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		want = 2;
	else if ((p[0] & 0xf0) == 0xe0)
		want = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		want = 4;
	else
		want = 1;
	*ret_valid = want > 1;
	if (p[0] == 0xe0)
		least = 0xa0; /* shorter forms exist */
	else if (p[0] == 0xed)
		most = 0x9f; /* surrogates */
	else if (p[0] == 0xf0)
		least = 0x90;
	else if (p[0] == 0xf4)
		most = 0x8f; /* past U+10FFFF */
	for (size_t i = 1; i < want; i++) {
		if (i == len) {
			*ret_valid = false;
			*ret_short = true;
			return i;
		}
		if (p[i] < least || p[i] > most) {
			*ret_valid = false;
			return i;
		}
		least = 0x80;
		most = 0xbf;
	}
	return want;
}

size_t utf8_valid_prefix(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.base;
	bool valid, is_short;
	size_t at = 0;

	while (at < s.len) {
		size_t step = utf8_step(p + at, s.len - at, &valid, &is_short);
		if (!valid)
			break;
		at += step;
	}
	return at;
}

size_t utf8_complete_prefix(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.base;
	size_t from = s.len > 3 ? s.len - 3 : 0;
	bool valid, is_short;

	/* Only the last three bytes can begin a character that the end cuts off. */
	for (size_t at = from; at < s.len; at++) {
		utf8_step(p + at, s.len - at, &valid, &is_short);
		if (is_short)
			return at;
	}
	return s.len;
}

static void append_escape(struct buf *b, unsigned c)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	const char *at = c != 0 && c < 0x80 ? strchr(from, (int)c) : NULL;

	if (at != NULL) {
		char two[2] = {'\\', to[at - from]};
		buf_append(b, two, 2);
	} else {
		buf_printf(b, "\\u%04x", c);
	}
}

/* The good character at p if it is better written as an escape, else -1: what JSON (RFC 8259, section 7) demands, and
 * what other readers take for a control or a line break: C1, U+2028, U+2029, U+FEFF, U+FFFE, U+FFFF. */
static int to_escape(const uint8_t *p, size_t len)
{
	if (len == 1)
		return p[0] < 0x20 || p[0] == '"' || p[0] == '\\' || p[0] == 0x7f ? p[0] : -1;
	if (len == 2)
		return p[0] == 0xc2 && p[1] < 0xa0 ? p[1] : -1;
	if (len == 3) {
		int c = (p[0] & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
		return c == 0x2028 || c == 0x2029 || c == 0xfeff || c >= 0xfffe ? c : -1;
	}
	return -1;
}

void buf_append_json(struct buf *b, struct str s)
{
	const uint8_t *p = (const uint8_t *)s.base;
	bool valid, is_short;
	size_t done = 0, at = 0; /* [done, at) is good as it stands */

	buf_append(b, "\"", 1);
	for (;;) {
		while (at < s.len && p[at] >= 0x20 && p[at] < 0x7f && p[at] != '"' && p[at] != '\\')
			at++; /* most of most texts */
		if (at == s.len)
			break;
		size_t step = utf8_step(p + at, s.len - at, &valid, &is_short);
		int escape = valid ? to_escape(p + at, step) : -1;
		if (!valid || escape >= 0) {
			buf_append(b, p + done, at - done);
			done = at + step;
		}
		if (!valid)
			buf_append(b, "\xef\xbf\xbd", 3);
		else if (escape >= 0)
			append_escape(b, (unsigned)escape);
		at += step;
	}
	if (at > done)
		buf_append(b, p + done, at - done);
	buf_append(b, "\"", 1);
}

void str_blank_controls(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t c = (uint8_t)text[i], next = i + 1 < len ? (uint8_t)text[i + 1] : 0;
		if (c < 0x20 || c == 0x7f)
			text[i] = ' ';
		else if (c == 0xc2 && next >= 0x80 && next < 0xa0)
			text[i] = text[i + 1] = ' ';
	}
}

static void out_of_memory(void)
{
	fputs("mdn: out of memory\n", stderr);
	abort();
}

void *mem_new(size_t size)
{
	void *p = calloc(1, size > 0 ? size : 1);

	if (p == NULL)
		out_of_memory();
	return p;
}

void *mem_resize(void *p, size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total))
		out_of_memory();
	p = realloc(p, total > 0 ? total : 1);
	if (p == NULL)
		out_of_memory();
	return p;
}

void hex_encode(const uint8_t *in, size_t len, char *ret_text)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < len; i++) {
		ret_text[2 * i] = digits[in[i] >> 4];
		ret_text[2 * i + 1] = digits[in[i] & 15];
	}
	ret_text[2 * len] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = ascii_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hex_decode(struct str text, uint8_t *ret_out, size_t size)
{
	if (text.len / 2 != size || text.len % 2 != 0)
		return E_INVAL;
	for (size_t i = 0; i < text.len; i++)
		if (hex_digit(text.base[i]) < 0)
			return E_INVAL;
	for (size_t i = 0; i < size; i++)
		ret_out[i] = (uint8_t)(hex_digit(text.base[2 * i]) << 4 | hex_digit(text.base[2 * i + 1]));
	return 0;
}

static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

size_t base64url_encode(const uint8_t *in, size_t len, char *ret_text)
{
	size_t out = 0;

	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t bits = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
		                (left > 2 ? (uint32_t)in[i + 2] : 0);
		ret_text[out++] = base64url[bits >> 18];
		ret_text[out++] = base64url[bits >> 12 & 63];
		if (left > 1)
			ret_text[out++] = base64url[bits >> 6 & 63];
		if (left > 2)
			ret_text[out++] = base64url[bits & 63];
	}
	ret_text[out] = '\0';
	return out;
}

int base64url_decode(struct str text, uint8_t *ret_out, size_t size, size_t *ret_len)
{
	uint32_t bits = 0;
	unsigned have = 0;
	size_t out = 0;

	/* A lone last character carries no whole byte (RFC 4648, section 5 with 3.5): refused, as are stray bits, so
	 * that every value has exactly one spelling. */
	if (text.len % 4 == 1 || text.len / 4 * 3 + (text.len % 4 * 3) / 4 > size)
		return E_INVAL;
	for (size_t i = 0; i < text.len; i++) {
		const char *at = text.base[i] != '\0' ? strchr(base64url, text.base[i]) : NULL;
		if (at == NULL)
			return E_INVAL;
		bits = bits << 6 | (uint32_t)(at - base64url);
		have += 6;
		if (have >= 8) {
			have -= 8;
			ret_out[out++] = (uint8_t)(bits >> have);
		}
	}
	if ((bits & ((1u << have) - 1)) != 0)
		return E_INVAL;
	*ret_len = out;
	return 0;
}
