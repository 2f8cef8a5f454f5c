/* SPDX-License-Identifier: Apache-2.0 */
/* What a model takes, from its header: the bytes of its files (they are mapped, and must stay in memory to be fast), a
 * KV cache of slots x context tokens in 16 bits, recurrent states, and llama.cpp's compute buffers.
 *
 *   KV a token   sum over layers of KV heads x (key length + value length) x 2 bytes; a sliding window takes less
 *   compute      ubatch x (embedding, feed-forward and attention rows that live at the same time) x 4 bytes, logits of
 *                one row a sequence, and a mask of ubatch x KV tokens. An upper estimate; docs/rooms/gateway.md has one
 *                beside what llama.cpp allocates.
 *
 * The KV cache gets a third of the budget at most, as the engine itself would give, and less where the weights leave
 * less; the least is one whole context and a little for each slot. Numbers in the header are not believed: sums
 * saturate, and the largest claim only makes a model that does not fit.
 */
#include "serve/gateway/models.h"

#include "base/limits.h"
#include "store/gguf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LAYERS_MAX = 4096, UBATCH = 512, LIVE_ROWS = 6 };
#define SPARE_BYTES (UINT64_C(16) << 20) /* graphs, tokenizer, thread stacks */

struct header {
	int fd;
	uint64_t heads, kv_heads_sum, kv_heads_count, key, value, feed, vocabulary, experts_used;
	uint64_t ssm_conv, ssm_inner, ssm_state, ssm_group;
	uint64_t tokens; /* entries of the tokenizer's list */
	uint32_t layers;
	bool adapter;
};

/* ---- saturating arithmetic --------------------------------------------------------------------- */

static uint64_t mul(uint64_t a, uint64_t b)
{
	uint64_t r;

	return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t r;

	return __builtin_add_overflow(a, b, &r) ? UINT64_MAX : r;
}

/* ---- the header -------------------------------------------------------------------------------- */

static size_t width_of(const char *type)
{
	return strstr(type, "64") ? 8 : strstr(type, "32") ? 4 : strstr(type, "16") ? 2 : strstr(type, "8") ? 1 : 0;
}

static uint64_t read_number(const struct header *h, uint64_t at, size_t width)
{
	uint64_t value = 0;

	return width && pread(h->fd, &value, width, (off_t)at) == (ssize_t)width ? value : 0;
}

/* An array's value: u32 type, u64 count, then the items. */
static void read_kv_heads(struct header *h, const struct gguf_key *k)
{
	static const size_t widths[] = {1, 1, 2, 2, 4, 4};
	uint64_t type = read_number(h, k->at, 4), count = read_number(h, k->at + 4, 8);

	if (strcmp(k->type, "ARRAY") != 0) {
		h->kv_heads_sum = read_number(h, k->at, width_of(k->type));
		h->kv_heads_count = 1;
		return;
	}
	if (type >= sizeof(widths) / sizeof(widths[0]) || count > LAYERS_MAX)
		return;
	h->kv_heads_sum = 0;
	h->kv_heads_count = count;
	for (uint64_t i = 0; i < count; i++)
		h->kv_heads_sum = add(h->kv_heads_sum, read_number(h, k->at + 12 + i * widths[type], widths[type]));
}

static bool ends_with(const char *text, const char *end)
{
	size_t a = strlen(text), b = strlen(end);

	return a >= b && strcmp(text + a - b, end) == 0;
}

static void on_key(void *arg, const struct gguf_key *k)
{
	struct header *h = arg;
	const struct {
		const char *end;
		uint64_t *to;
	} numbers[] = {
	    {".attention.head_count", &h->heads},   {".attention.key_length", &h->key},
	    {".attention.value_length", &h->value}, {".feed_forward_length", &h->feed},
	    {".vocab_size", &h->vocabulary},        {".expert_used_count", &h->experts_used},
	    {".ssm.conv_kernel", &h->ssm_conv},     {".ssm.inner_size", &h->ssm_inner},
	    {".ssm.state_size", &h->ssm_state},     {".ssm.group_count", &h->ssm_group},
	};
	char text[8] = "";

	if (ends_with(k->key, ".attention.head_count_kv")) {
		read_kv_heads(h, k);
	} else if (strcmp(k->key, "tokenizer.ggml.tokens") == 0 && strcmp(k->type, "ARRAY") == 0) {
		h->tokens = read_number(h, k->at + 4, 8);
	} else if (strcmp(k->key, "general.type") == 0 && strcmp(k->type, "STRING") == 0 && k->bytes == 8 + 7) {
		h->adapter = pread(h->fd, text, 7, (off_t)k->at + 8) == 7 && memcmp(text, "adapter", 7) == 0;
	} else {
		for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
			if (ends_with(k->key, numbers[i].end)) /* an array: of the first layer */
				*numbers[i].to = strcmp(k->type, "ARRAY") == 0
				                     ? read_number(h, k->at + 12, 4)
				                     : read_number(h, k->at, width_of(k->type));
	}
}

static int read_at(void *arg, uint64_t offset, void *out, size_t len, struct error *err)
{
	const struct header *h = arg;
	ssize_t got = pread(h->fd, out, len, (off_t)offset);

	return got == (ssize_t)len ? 0 : error_set(err, E_CORRUPT, "the file ends early");
}

/* ---- files ------------------------------------------------------------------------------------- */

static uint64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* "x-00001-of-00003.gguf": all three. */
static uint64_t weights_of(const char *path)
{
	size_t len = strlen(path);
	unsigned parts = 0;
	uint64_t sum = 0;
	char *part;

	if (len < 20 || sscanf(path + len - 20, "-00001-of-%5u.gguf", &parts) != 1 || parts < 2 || parts > 99999)
		return size_of(path);
	part = str_dup(str_from(path));
	for (unsigned i = 1; i <= parts && i <= LIMIT_CHUNKS; i++) {
		snprintf(part + len - 20, 21, "-%05u-of-%05u.gguf", i % 100000, parts % 100000);
		uint64_t bytes = size_of(part);
		if (!bytes)
			break;
		sum = add(sum, bytes);
	}
	free(part);
	return sum;
}

/* ---- sums -------------------------------------------------------------------------------------- */

static uint64_t or_one(uint64_t value)
{
	return value ? value : 1;
}

static void fit_compute(struct model_fit *f, const struct header *h, const struct gguf_info *info,
                        const struct engine_options *options)
{
	uint64_t layers = info->layers, embedding = info->embedding, heads = or_one(h->heads);
	uint64_t key = h->key ? h->key : embedding / heads, value = h->value ? h->value : embedding / heads;
	uint64_t kv_heads =
	    h->kv_heads_count > 1 ? h->kv_heads_sum : mul(layers, h->kv_heads_count ? h->kv_heads_sum : heads);
	uint64_t sequences = (uint64_t)(options->slots > 0 ? options->slots : 8) + 1;
	uint64_t batch = (uint64_t)(options->batch_tokens > 0 ? options->batch_tokens : 512);
	uint64_t rows = batch < sequences ? sequences : batch < UBATCH ? batch : UBATCH;
	uint64_t vocabulary = h->vocabulary > h->tokens ? h->vocabulary : h->tokens;
	uint64_t width =
	    add(mul(LIVE_ROWS, embedding), add(mul(2 * or_one(h->experts_used), h->feed), mul(heads, add(key, value))));

	f->kv_per_token = mul(mul(kv_heads, add(key, value)), 2);
	f->compute_per_token = mul(rows, 2); /* the mask, in 16 bits */
	f->fixed = add(SPARE_BYTES, mul(mul(rows, width), 4));
	f->fixed = add(f->fixed, mul(mul(sequences, vocabulary), 2 * 4));
	if (h->ssm_inner) {
		uint64_t conv = mul(h->ssm_conv, add(h->ssm_inner, mul(2 * or_one(h->ssm_group), h->ssm_state)));
		f->fixed =
		    add(f->fixed, mul(mul(mul(layers, sequences), 4), add(conv, mul(h->ssm_state, h->ssm_inner))));
	}
	f->trained_tokens = info->context_tokens < INT32_MAX ? (int32_t)info->context_tokens : INT32_MAX;
	f->adapter = h->adapter;
	f->read = true;
}

/* A template that does something with tools has been made for a model that can call them. */
static void fit_describe_model(struct model_fit *f, const struct gguf_info *info)
{
	struct str text = info->chat_template_text.base ? buf_str(&info->chat_template_text) : STR("");

	f->parameters = info->parameters;
	memcpy(f->architecture, info->architecture, sizeof(f->architecture));
	memcpy(f->quantization, info->quantization, sizeof(f->quantization));
	f->calls_tools = text.len && memmem(text.base, text.len, "tools", 5);
	f->thinks = text.len &&
	            (memmem(text.base, text.len, "<think>", 7) || memmem(text.base, text.len, "enable_thinking", 15));
}

void fit_read(struct model_fit *f, const char *path, const struct engine_options *options)
{
	struct header h = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
	struct gguf_info info = {0};

	*f = (struct model_fit){.weights = weights_of(path)};
	f->need = f->weights;
	if (h.fd < 0)
		return;
	if (gguf_parse_keys(read_at, &h, size_of(path), on_key, NULL, &h, &info, NULL) == 0) {
		fit_compute(f, &h, &info, options);
		fit_describe_model(f, &info);
		gguf_info_fini(&info);
	}
	close(h.fd);
}

static int32_t context_of(const struct model_fit *f, const struct engine_options *options)
{
	if (options->context_tokens > 0)
		return options->context_tokens;
	return f->trained_tokens > 0 && f->trained_tokens < 4096 ? f->trained_tokens : 4096;
}

void fit_choose(struct model_fit *f, const struct engine_options *options, uint64_t budget)
{
	uint64_t context = (uint64_t)context_of(f, options),
		 slots = (uint64_t)(options->slots > 0 ? options->slots : 8);
	uint64_t least = context + 64 * slots, tokens = context * slots,
		 cost = add(f->kv_per_token, f->compute_per_token);
	uint64_t other = add(f->weights, f->fixed), left = budget > other ? budget - other : 0;

	if (!f->read || f->adapter) {
		f->need = f->weights;
		return;
	}
	if (f->kv_per_token && tokens > budget / 3 / f->kv_per_token)
		tokens = budget / 3 / f->kv_per_token;
	if (tokens > left / or_one(cost))
		tokens = left / or_one(cost);
	if (options->kv_tokens > 0)
		tokens = (uint64_t)options->kv_tokens;
	else
		tokens = tokens / 256 * 256 > least ? tokens / 256 * 256 : (least + 255) / 256 * 256;
	if (tokens > INT32_MAX / 2)
		tokens = INT32_MAX / 2;
	f->kv_tokens = (int32_t)tokens;
	f->need = add(other, mul(tokens, cost));
}

static unsigned long long mib(uint64_t bytes)
{
	return bytes >> 20;
}

void fit_describe(const struct model_fit *f, uint64_t budget, char *to, size_t size)
{
	uint64_t kv = mul((uint64_t)f->kv_tokens, f->kv_per_token), rest = f->need - f->weights;

	kv = kv < rest ? kv : rest;

	snprintf(to, size,
	         "it needs %llu MiB (weights %llu, KV cache %llu, computing %llu) and models here may take %llu MiB",
	         mib(f->need), mib(f->weights), mib(kv), mib(f->need - f->weights - kv), mib(budget));
}
