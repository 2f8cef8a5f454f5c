/* SPDX-License-Identifier: Apache-2.0 */
/* llama.c - the only file that includes llama.h: a model ("box") and its context ("core") with a small face.
 *
 * What llama.cpp would answer with abort() is checked before: file kind, batch sizes, sequence ids. One unified KV
 * cache for all sequences, flash attention on (a unified cache is slow without), one sequence more than slots
 * for moving KV about, our own thread pool. The cache has room for every slot's whole context if a third of the
 * memory now available can hold it; else less, and the batch preempts when it runs out.
 */
#include "engine/llama_parts.h"

#include "base/log.h"
#include "base/memory.h"

#include <assert.h>
#include <errno.h>
#include <ggml-backend.h>
#include <llama.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	CROWD_BYTES = 64 * 1024,
	HUGE_PAGE = 2 << 20,
	DETERMINISTIC_CHUNK = 256,
	EMBED_SEQUENCES = 64, /* in one batch; llama.cpp's own end is 256 */
};

enum { COMPLAINT_SIZE = 256 };

struct llama_box {
	atomic_int refs;
	struct llama_model *model;
	const struct llama_vocab *vocab;
	struct chat *chat;
	struct chat_pieces *pieces;
	int32_t vocab_size, piece_most; /* bytes of the longest token */
	struct str *marks;              /* texts of control tokens and the like; the vocabulary's memory */
	size_t mark_count;
	enum llama_pooling_type pooling; /* NONE: it generates */
	struct box_adapter {
		char *name;
		struct llama_adapter_lora *lora; /* the model's; NULL: `why` tells */
		char why[COMPLAINT_SIZE];
	} * adapters;
	size_t adapter_count;
};

struct llama_core {
	struct llama_box *box;
	struct llama_context *context;
	struct ggml_threadpool *pool; /* NULL: ggml makes one per graph */
	void (*pool_free)(struct ggml_threadpool *pool);
	struct llama_batch batch;
	int32_t batch_room;
	uint64_t kv_bytes;
	int32_t swa;    /* sliding window; 0: none */
	bool divisible; /* each token's KV is its own */
	int32_t spare;  /* the sequence for moving KV about */
	/* Deterministic: each sequence is computed by itself, and its logits are taken away at once. */
	int32_t chunk; /* 0: all together */
	float *rows;
	int32_t *row_of, rows_used; /* row_of: batch_room */
};

/* ---- llama.cpp's log --------------------------------------------------------------------------- */

/* While a model loads, the last complaint of this thread is kept: it says why. */
static _Thread_local char *complaint;

static void llama_logged(enum ggml_log_level level, const char *text, void *arg)
{
	size_t len = strlen(text);
	(void)arg;

	while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
		len--;
	if (level == GGML_LOG_LEVEL_CONT || len < 2) /* progress dots */
		return;
	if (level == GGML_LOG_LEVEL_ERROR && complaint)
		snprintf(complaint, COMPLAINT_SIZE, "%.*s", (int)(len < COMPLAINT_SIZE ? len : COMPLAINT_SIZE - 1),
		         text);
	log_debug("engine", "llama.cpp: %.*s", (int)len, text);
}

static void llama_setup(void)
{
	llama_log_set(llama_logged, NULL);
	llama_backend_init();
}

/* ---- box --------------------------------------------------------------------------------------- */

static int box_check_file(const char *path, struct error *err)
{
	struct stat st;
	unsigned char head[8];
	FILE *file = fopen(path, "rb");

	if (!file)
		return error_errno(err, errno, "cannot open the model file %s", path);
	size_t got = fread(head, 1, sizeof(head), file);
	int rc = fstat(fileno(file), &st);
	fclose(file);
	if (rc < 0 || !S_ISREG(st.st_mode))
		return error_set(err, E_INVAL, "%s is not a file", path);
	if (got < sizeof(head) || memcmp(head, "GGUF", 4) != 0)
		return error_set(err, E_CORRUPT, "%s is not a GGUF file", path);
	if (head[4] < 2 || head[4] > 3 || head[5] || head[6] || head[7])
		return error_set(err, E_UNSUPPORTED, "%s has GGUF version %u; 2 and 3 are supported", path, head[4]);
	return 0;
}

struct box_loading {
	const atomic_bool *stop;
	atomic_int *permille;
};

static bool box_progress(float done, void *arg)
{
	const struct box_loading *loading = arg;

	if (loading->permille)
		atomic_store(loading->permille, (int)(done * 1000));
	return !atomic_load(loading->stop);
}

static const char *box_misfit(const struct llama_box *box)
{
	if (llama_model_has_encoder(box->model) || !llama_model_has_decoder(box->model))
		return "it has an encoder";
	if (llama_model_is_diffusion(box->model))
		return "it generates by diffusion";
	if (llama_vocab_type(box->vocab) == LLAMA_VOCAB_TYPE_NONE || box->vocab_size < 2)
		return "it has no vocabulary";
	return NULL;
}

/* What the file says, else what the operator wants. */
static void box_find_pooling(struct llama_box *box, int32_t wanted)
{
	char architecture[64] = "", key[96], value[32];

	box->pooling = (enum llama_pooling_type)wanted;
	llama_model_meta_val_str(box->model, "general.architecture", architecture, sizeof(architecture));
	snprintf(key, sizeof(key), "%s.pooling_type", architecture);
	if (llama_model_meta_val_str(box->model, key, value, sizeof(value)) <= 0)
		return;
	long told = strtol(value, NULL, 10);
	if (told > LLAMA_POOLING_TYPE_NONE && told <= LLAMA_POOLING_TYPE_RANK)
		box->pooling = (enum llama_pooling_type)told;
}

bool llama_pooling_named(struct str name, int32_t *ret_pooling)
{
	static const struct {
		const char *name;
		enum llama_pooling_type type;
	} table[] = {
	    {"", LLAMA_POOLING_TYPE_NONE},
	    {"mean", LLAMA_POOLING_TYPE_MEAN},
	    {"cls", LLAMA_POOLING_TYPE_CLS},
	    {"last", LLAMA_POOLING_TYPE_LAST},
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (str_equal(name, str_from(table[i].name))) {
			*ret_pooling = (int32_t)table[i].type;
			return true;
		}
	return false;
}

bool llama_box_embeds(const struct llama_box *box)
{
	return box->pooling != LLAMA_POOLING_TYPE_NONE;
}

size_t llama_box_vector_size(const struct llama_box *box)
{
	return (size_t)llama_model_n_embd_out(box->model);
}

static void box_measure_pieces(struct llama_box *box)
{
	char piece[1];

	box->marks = mem_new((size_t)box->vocab_size * sizeof(*box->marks));

	for (int32_t token = 0; token < box->vocab_size; token++) {
		int32_t n = llama_token_to_piece(box->vocab, token, piece, 0, 0, true);
		n = n < 0 ? -n : n;
		box->piece_most = n > box->piece_most ? n : box->piece_most;
		struct str text = str_from(llama_vocab_get_text(box->vocab, token));
		enum llama_token_attr attr = llama_vocab_get_attr(box->vocab, token);
		if ((attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED)) && text.len)
			box->marks[box->mark_count++] = text;
	}
}

/* One that cannot be read fails those that ask for it, not the model. */
static void box_load_adapters(struct llama_box *box, const struct llama_settings *settings)
{
	box->adapters = mem_new(settings->adapter_count * sizeof(*box->adapters) + 1);
	box->adapter_count = settings->adapter_count;
	for (size_t i = 0; i < box->adapter_count; i++) {
		struct box_adapter *a = &box->adapters[i];
		struct error err = {0};

		a->name = str_dup(str_from(settings->adapters[2 * i]));
		if (box_check_file(settings->adapters[2 * i + 1], &err) < 0) {
			snprintf(a->why, sizeof(a->why), "%.255s", err.text);
			continue;
		}
		complaint = a->why;
		a->lora = llama_adapter_lora_init(box->model, settings->adapters[2 * i + 1]);
		complaint = NULL;
		if (!a->lora && !a->why[0])
			snprintf(a->why, sizeof(a->why), "llama.cpp refused it");
		if (!a->lora)
			log_error("engine", "LoRA adapter %s cannot be used: %s", a->name, a->why);
	}
}

int llama_box_adapter(const struct llama_box *box, struct str name, int32_t *ret_adapter, struct error *err)
{
	*ret_adapter = 0;
	if (!name.len)
		return 0;
	for (size_t i = 0; i < box->adapter_count; i++) {
		if (!str_equal(str_from(box->adapters[i].name), name))
			continue;
		if (!box->adapters[i].lora)
			return error_set(err, E_INVAL,
			                 "the LoRA adapter " STR_FMT " cannot be used with this model: %s",
			                 STR_ARG(name), box->adapters[i].why);
		*ret_adapter = (int32_t)i + 1;
		return 0;
	}
	return error_set(err, E_INVAL, "this engine has no LoRA adapter " STR_FMT, STR_ARG(name));
}

size_t llama_box_adapters(const struct llama_box *box)
{
	return box->adapter_count;
}

int llama_box_load(const struct llama_settings *settings, const atomic_bool *stop, struct llama_box **ret_box,
                   struct error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct llama_model_params params = llama_model_default_params();
	struct box_loading loading = {stop, settings->permille};
	char words[COMPLAINT_SIZE] = "";
	struct error chat_err = {0};
	int rc = box_check_file(settings->model_path, err);

	if (rc < 0)
		return rc;
	pthread_once(&once, llama_setup);
	params.progress_callback = box_progress;
	params.progress_callback_user_data = &loading;
	if (settings->mlock)
		params.load_mode = LLAMA_LOAD_MODE_MMAP_MLOCK;
	struct llama_box *box = NEW(struct llama_box);
	atomic_init(&box->refs, 1);
	complaint = words;
	box->model = llama_model_load_from_file(settings->model_path, params);
	complaint = NULL;
	if (!box->model) {
		llama_box_unref(box);
		return error_set(err, atomic_load(stop) ? E_CANCELED : E_CORRUPT, "cannot load %s: %s",
		                 settings->model_path, words[0] ? words : "llama.cpp refused it");
	}
	box->vocab = llama_model_get_vocab(box->model);
	box->vocab_size = llama_vocab_n_tokens(box->vocab);
	box->pieces = chat_pieces_new(box->model);
	const char *misfit = box_misfit(box);
	if (misfit) {
		rc = error_set(err, E_UNSUPPORTED, "%s cannot answer chats or completions: %s", settings->model_path,
		               misfit);
	} else if ((rc = chat_new(box->model, &box->chat, &chat_err)) < 0 && rc != E_NOTFOUND) {
		*err = chat_err;
	} else {
		box_measure_pieces(box);
		box_find_pooling(box, settings->pooling);
		box_load_adapters(box, settings);
		*ret_box = box;
		return 0;
	}
	llama_box_unref(box);
	return rc;
}

void llama_box_ref(struct llama_box *box)
{
	atomic_fetch_add(&box->refs, 1);
}

void llama_box_unref(struct llama_box *box)
{
	if (atomic_fetch_sub(&box->refs, 1) != 1)
		return;
	chat_free(box->chat);
	chat_pieces_free(box->pieces);
	free(box->marks);
	for (size_t i = 0; i < box->adapter_count; i++)
		free(box->adapters[i].name);
	free(box->adapters);
	llama_model_free(box->model); /* with its adapters */
	free(box);
}

const struct chat *llama_box_chat(const struct llama_box *box)
{
	return box->chat;
}

struct chat_pieces *llama_box_pieces(const struct llama_box *box)
{
	return box->pieces;
}

const struct llama_model *llama_box_model(const struct llama_box *box)
{
	return box->model;
}

int32_t llama_box_vocab(const struct llama_box *box)
{
	return box->vocab_size;
}

bool llama_box_ends(const struct llama_box *box, int32_t token)
{
	return llama_vocab_is_eog(box->vocab, token);
}

/* llama.cpp's time grows with the square of the number of control tokens in a text. More of them than `most` fit into
 * no context, so a text made of them is refused before it can hold a thread for minutes. */
static bool box_is_crowded(const struct llama_box *box, struct str text, int32_t most)
{
	int32_t found = 0;

	for (size_t i = 0; i < box->mark_count; i++) {
		struct str rest = text, mark = box->marks[i];
		const char *at;
		while ((at = memmem(rest.base, rest.len, mark.base, mark.len)) != NULL) {
			if (++found > most)
				return true;
			at += mark.len;
			rest = (struct str){at, (size_t)(rest.base + rest.len - at)};
		}
	}
	return false;
}

int llama_box_tokenize_as(const struct llama_box *box, struct str text, int32_t context, bool add_special,
                          bool parse_special, int32_t **ret_tokens, int32_t *ret_count, struct error *err)
{
	/* No token stands for more bytes than piece_most (normalizing tokenizers shrink by less than 4). */
	if (text.len / 4 > (size_t)context * (size_t)box->piece_most ||
	    (text.len > CROWD_BYTES && parse_special && box_is_crowded(box, text, context)))
		return error_set(err, E_LIMIT,
		                 "the prompt has %zu bytes, far more than fit a context of %d tokens: shorten it",
		                 text.len, context);
	int32_t room = (int32_t)(text.len / 3) + 16, len = (int32_t)text.len;
	int32_t *tokens = mem_new((size_t)room * sizeof(*tokens));
	const char *base = text.base ? text.base : "";
	int32_t n = llama_tokenize(box->vocab, base, len, tokens, room, add_special, parse_special);
	if (n < 0 && n != INT32_MIN) {
		tokens = mem_resize(tokens, (size_t)-n, sizeof(*tokens));
		n = llama_tokenize(box->vocab, base, len, tokens, -n, add_special, parse_special);
	}
	if (n < 0) {
		free(tokens);
		return error_set(err, E_INTERNAL, "the prompt cannot be tokenized");
	}
	*ret_tokens = tokens;
	*ret_count = n;
	return 0;
}

int llama_box_tokenize(const struct llama_box *box, struct str text, int32_t context, int32_t **ret_tokens,
                       int32_t *ret_count, struct error *err)
{
	return llama_box_tokenize_as(box, text, context, true, true, ret_tokens, ret_count, err);
}

/* ---- infill ------------------------------------------------------------------------------------ */

static bool box_fills(const struct llama_box *box)
{
	return llama_vocab_fim_pre(box->vocab) != LLAMA_TOKEN_NULL &&
	       llama_vocab_fim_suf(box->vocab) != LLAMA_TOKEN_NULL &&
	       llama_vocab_fim_mid(box->vocab) != LLAMA_TOKEN_NULL;
}

/* PRE prompt SUF suffix MID, as llama-server orders them. */
int llama_box_infill(const struct llama_box *box, const struct engine_params *p, int32_t context, int32_t **ret_tokens,
                     int32_t *ret_count, struct error *err)
{
	const struct llama_vocab *vocab = box->vocab;
	int32_t *before = NULL, *after = NULL, before_count = 0, after_count = 0, n = 0;

	if (!box_fills(box))
		return error_set(err, E_INVAL, "suffix: this model was not trained to fill gaps; leave it out");
	int rc = llama_box_tokenize_as(box, p->suffix, context, false, false, &after, &after_count, err);
	if (rc == 0 && !p->prompt_token_count)
		rc = llama_box_tokenize_as(box, p->prompt, context, false, false, &before, &before_count, err);
	if (rc == 0) {
		const int32_t *begin = p->prompt_token_count ? p->prompt_tokens : before;
		int32_t count = p->prompt_token_count ? (int32_t)p->prompt_token_count : before_count;
		int32_t *tokens = mem_new((size_t)(count + after_count + 4) * sizeof(*tokens));
		if (llama_vocab_get_add_bos(vocab))
			tokens[n++] = llama_vocab_bos(vocab);
		tokens[n++] = llama_vocab_fim_pre(vocab);
		if (count)
			memcpy(tokens + n, begin, (size_t)count * sizeof(*tokens));
		n += count;
		tokens[n++] = llama_vocab_fim_suf(vocab);
		if (after_count)
			memcpy(tokens + n, after, (size_t)after_count * sizeof(*tokens));
		n += after_count;
		tokens[n++] = llama_vocab_fim_mid(vocab);
		*ret_tokens = tokens;
		*ret_count = n;
	}
	free(before);
	free(after);
	return rc;
}

/* ---- queries and documents --------------------------------------------------------------------- */

/* A model that was made from a generating one brings the whole prompt as a template named "rerank". */
static void pair_fill(struct buf *to, const char *template, struct str query, struct str document)
{
	static const struct str marks[] = {{"{query}", 7}, {"{document}", 10}};

	while (*template) {
		size_t i = 0;
		while (i < 2 && strncmp(template, marks[i].base, marks[i].len) != 0)
			i++;
		if (i == 2) {
			buf_append(to, template ++, 1);
			continue;
		}
		buf_append_str(to, i == 0 ? query : document);
		template += marks[i].len;
	}
}

static void pair_mark(int32_t *tokens, int32_t *count, bool wanted, int32_t token)
{
	if (wanted && token != LLAMA_TOKEN_NULL)
		tokens[(*count)++] = token;
}

/* The others are encoders: [CLS] query [SEP] document, with an [SEP] more where the vocabulary ends texts with one; so
 * does llama-server. The texts themselves can hold no separator: a document cannot pretend to be a query. */
static int pair_join(const struct llama_box *box, const int32_t *query, int32_t query_count, const int32_t *document,
                     int32_t document_count, int32_t **ret_tokens)
{
	const struct llama_vocab *vocab = box->vocab;
	int32_t *tokens = mem_new((size_t)(query_count + document_count + 4) * sizeof(*tokens));
	int32_t n = 0, sep = llama_vocab_sep(vocab), eos = llama_vocab_eos(vocab);
	bool ends = llama_vocab_get_add_eos(vocab);

	eos = eos == LLAMA_TOKEN_NULL ? sep : eos;
	pair_mark(tokens, &n, llama_vocab_get_add_bos(vocab), llama_vocab_bos(vocab));
	if (query_count)
		memcpy(tokens + n, query, (size_t)query_count * sizeof(*tokens));
	n += query_count;
	pair_mark(tokens, &n, ends, eos);
	pair_mark(tokens, &n, llama_vocab_get_add_sep(vocab), sep);
	if (document_count)
		memcpy(tokens + n, document, (size_t)document_count * sizeof(*tokens));
	n += document_count;
	pair_mark(tokens, &n, ends, eos);
	*ret_tokens = tokens;
	return n;
}

int llama_box_pair(const struct llama_box *box, struct str query, struct str document, int32_t context,
                   int32_t **ret_tokens, int32_t *ret_count, struct error *err)
{
	const char *template = llama_model_chat_template(box->model, "rerank");
	int32_t *q = NULL, *d = NULL, q_count = 0, d_count = 0;

	if (template) {
		struct buf text = {0};
		pair_fill(&text, template, query, document);
		int rc = llama_box_tokenize_as(box, buf_str(&text), context, false, true, ret_tokens, ret_count, err);
		buf_fini(&text);
		return rc;
	}
	int rc = llama_box_tokenize_as(box, query, context, false, false, &q, &q_count, err);
	if (rc == 0)
		rc = llama_box_tokenize_as(box, document, context, false, false, &d, &d_count, err);
	if (rc == 0)
		*ret_count = pair_join(box, q, q_count, d, d_count, ret_tokens);
	free(q);
	free(d);
	return rc;
}

/* ---- tokens back to text ----------------------------------------------------------------------- */

static void append_valid(struct buf *to, struct str bytes)
{
	while (bytes.len) {
		size_t good = utf8_valid_prefix(bytes);
		buf_append(to, bytes.base, good);
		bytes = (struct str){bytes.base + good, bytes.len - good};
		if (!bytes.len)
			return;
		buf_append(to, "\xef\xbf\xbd", 3);
		bytes = (struct str){bytes.base + 1, bytes.len - 1};
	}
}

int llama_box_detokenize(const struct llama_box *box, const int32_t *tokens, size_t count, struct buf *ret_text,
                         struct error *err)
{
	for (size_t i = 0; i < count; i++)
		if (tokens[i] < 0 || tokens[i] >= box->vocab_size)
			return error_set(err, E_INVAL, "%d is no token of this model (0..%d)", tokens[i],
			                 box->vocab_size - 1);
	if (count > (size_t)INT32_MAX / (size_t)(box->piece_most + 2))
		return error_set(err, E_LIMIT, "%zu tokens are too many at once", count);
	size_t room = count * 8 + 16;
	char *text = mem_new(room);
	int32_t n = llama_detokenize(box->vocab, tokens, (int32_t)count, text, (int32_t)room, false, true);
	if (n < 0) {
		room = (size_t)-n;
		text = mem_resize(text, room, 1);
		n = llama_detokenize(box->vocab, tokens, (int32_t)count, text, (int32_t)room, false, true);
	}
	if (n > 0)
		append_valid(ret_text, (struct str){text, (size_t)n});
	free(text);
	return n < 0 ? error_set(err, E_INTERNAL, "the tokens have no text") : 0;
}

struct str llama_box_piece(const struct llama_box *box, int32_t token, bool special, struct buf *buf)
{
	buf_clear(buf);
	char *room = buf_reserve(buf, (size_t)box->piece_most + 1);
	int32_t n = llama_token_to_piece(box->vocab, token, room, box->piece_most + 1, 0, special);
	return (struct str){room, n > 0 ? (size_t)n : 0};
}

void llama_box_info(const struct llama_box *box, struct engine_info *info)
{
	llama_model_meta_val_str(box->model, "general.architecture", info->architecture, sizeof(info->architecture));
	info->memory_bytes = llama_model_size(box->model);
	info->no_generation = llama_box_embeds(box);
	info->rerank = box->pooling == LLAMA_POOLING_TYPE_RANK;
	info->embedding_size = info->no_generation && !info->rerank ? (int32_t)llama_box_vector_size(box) : 0;
	info->chat = box->chat != NULL && !info->no_generation;
	info->infill = box_fills(box) && !info->no_generation;
}

/* ---- core -------------------------------------------------------------------------------------- */

/* K and V at 16 bits; models with latent attention need less. */
static uint64_t kv_bytes_per_token(const struct llama_model *model)
{
	int32_t heads = llama_model_n_head(model), kv_heads = llama_model_n_head_kv(model);
	int64_t head = heads > 0 ? llama_model_n_embd(model) / heads : llama_model_n_embd(model);
	int64_t bytes = INT64_C(2) * 2 * llama_model_n_layer(model) * (kv_heads > 0 ? kv_heads : 1) * head;

	return bytes > 0 ? (uint64_t)bytes : 1;
}

static int core_size_kv(const struct llama_box *box, struct llama_settings *settings, struct error *err)
{
	int32_t trained = llama_model_n_ctx_train(box->model);

	if (settings->context_tokens <= 0)
		settings->context_tokens = trained > 0 && trained < 4096 ? trained : 4096;
	else if (trained > 0 && settings->context_tokens > trained)
		return error_set(err, E_INVAL, "context_tokens is %d, the model was trained for %d: lower it",
		                 settings->context_tokens, trained);
	uint64_t per_token = kv_bytes_per_token(box->model), available = memory_available();
	int64_t wanted = (int64_t)settings->slots * settings->context_tokens;
	int64_t least = settings->context_tokens + 64 * (int64_t)settings->slots;

	if (settings->deterministic) /* each slot has its own */
		least = wanted = (settings->context_tokens + 255) / 256 * 256 * (int64_t)settings->slots;
	else if (settings->kv_tokens > 0) {
		wanted = settings->kv_tokens;
	} else if (available && wanted > (int64_t)(available / 3 / per_token)) {
		wanted = (int64_t)(available / 3 / per_token);
	}
	wanted = wanted < least ? least : wanted;
	if (wanted > INT32_MAX / 2)
		wanted = INT32_MAX / 2;
	if (available && (uint64_t)wanted * per_token > available)
		return error_set(err, E_UNAVAILABLE,
		                 "the KV cache needs %llu MiB and %llu MiB are free: lower context_tokens or slots",
		                 (unsigned long long)((uint64_t)wanted * per_token >> 20),
		                 (unsigned long long)(available >> 20));
	settings->kv_tokens = (int32_t)((wanted + 255) / 256 * 256);
	return 0;
}

/* An embedding model computes each input in one piece and keeps nothing: the cache holds one batch, and a batch the
 * longest input. `slots` are the sequences of a batch. */
static int core_size_embedding(const struct llama_box *box, struct llama_settings *settings, struct error *err)
{
	int32_t trained = llama_model_n_ctx_train(box->model);
	uint64_t per_token = kv_bytes_per_token(box->model), available = memory_available();

	if (settings->context_tokens <= 0)
		settings->context_tokens = 4096;
	if (trained > 0 && settings->context_tokens > trained)
		settings->context_tokens = trained;
	settings->slots = EMBED_SEQUENCES;
	settings->kv_tokens =
	    settings->batch_tokens > settings->context_tokens ? settings->batch_tokens : settings->context_tokens;
	if (settings->kv_tokens < settings->slots)
		settings->kv_tokens = settings->slots;
	if (available && (uint64_t)settings->kv_tokens * per_token > available)
		return error_set(err, E_UNAVAILABLE,
		                 "inputs of %d tokens do not fit the %llu MiB that are free: "
		                 "lower context",
		                 settings->context_tokens, (unsigned long long)(available >> 20));
	return 0;
}

static int32_t cores(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);

	return n > 0 ? n : 1;
}

static bool core_abort(void *stop)
{
	return atomic_load((const atomic_bool *)stop);
}

static struct llama_context_params core_params(const struct llama_settings *settings, const atomic_bool *stop)
{
	struct llama_context_params params = llama_context_default_params();
	uint32_t batch =
	    (uint32_t)(settings->batch_tokens > settings->slots ? settings->batch_tokens : settings->slots + 1);

	params.n_ctx = (uint32_t)settings->kv_tokens;
	params.n_batch = batch;
	params.n_ubatch = batch < 512 ? batch : 512;
	params.n_seq_max = (uint32_t)settings->slots + 1;
	params.n_outputs_max = params.n_seq_max + LLAMA_SPARE_OUTPUTS; /* fewer than sequences aborts */
	params.n_threads = params.n_threads_batch = settings->threads;
	params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
	params.kv_unified = !settings->deterministic;
	if (settings->deterministic)
		params.n_ctx = (uint32_t)settings->kv_tokens / (uint32_t)settings->slots * params.n_seq_max;
	params.swa_full = false;
	params.no_perf = true;
	params.abort_callback = core_abort;
	params.abort_callback_data = (void *)stop;
	return params;
}

static void core_params_embed(const struct llama_box *box, const struct llama_settings *settings,
                              struct llama_context_params *params)
{
	params->embeddings = true;
	params->pooling_type = box->pooling;
	params->n_batch = params->n_ubatch = (uint32_t)settings->kv_tokens; /* fewer than a whole input aborts */
	params->n_seq_max = (uint32_t)settings->slots;
	params->n_outputs_max = 0; /* every token is one */
	params->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
}

/* The CPU backend may be a plug-in, so its functions are looked up. */
static void core_attach_pool(struct llama_core *core, int32_t threads)
{
	ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
	ggml_backend_reg_t backend = cpu ? ggml_backend_dev_backend_reg(cpu) : NULL;

	if (!backend)
		return;
	struct ggml_threadpool *(*pool_new)(struct ggml_threadpool_params *) =
	    (struct ggml_threadpool * (*)(struct ggml_threadpool_params *))
		ggml_backend_reg_get_proc_address(backend, "ggml_threadpool_new");
	core->pool_free =
	    (void (*)(struct ggml_threadpool *))ggml_backend_reg_get_proc_address(backend, "ggml_threadpool_free");
	if (!pool_new || !core->pool_free)
		return;
	struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
	core->pool = pool_new(&params);
	if (core->pool)
		llama_attach_threadpool(core->context, core->pool, core->pool);
}

/* Windows, recurrent states and the caches of DeepSeek 4 (which aborts when a part is copied) only go whole. */
static bool core_is_divisible(const struct llama_core *core)
{
	const struct llama_model *model = core->box->model;
	char architecture[64] = "";

	llama_model_meta_val_str(model, "general.architecture", architecture, sizeof(architecture));
	return core->swa == 0 && !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model) &&
	       strcmp(architecture, "deepseek4") != 0;
}

static void core_set_apart(struct llama_core *core, const struct llama_settings *settings)
{
	int32_t room = core->batch_room - settings->slots, outputs = settings->slots + 1 + LLAMA_SPARE_OUTPUTS;

	core->chunk = room > DETERMINISTIC_CHUNK ? DETERMINISTIC_CHUNK : room > 0 ? room : 1;
	core->rows = mem_new((size_t)outputs * (size_t)core->box->vocab_size * sizeof(float));
	core->row_of = mem_new((size_t)core->batch_room * sizeof(*core->row_of));
}

int llama_core_new(struct llama_box *box, struct llama_settings *settings, const atomic_bool *stop,
                   struct llama_core **ret_core, struct error *err)
{
	char words[COMPLAINT_SIZE] = "";

	if (settings->threads <= 0)
		settings->threads = cores();
	int rc = llama_box_embeds(box) ? core_size_embedding(box, settings, err) : core_size_kv(box, settings, err);
	if (rc < 0)
		return rc;

	struct llama_context_params params = core_params(settings, stop);
	if (llama_box_embeds(box))
		core_params_embed(box, settings, &params);
	struct llama_core *core = NEW(struct llama_core);
	complaint = words;
	core->context = llama_init_from_model(box->model, params);
	complaint = NULL;
	if (!core->context) {
		free(core);
		return error_set(err, E_UNAVAILABLE, "cannot make a context of %d tokens in %d slots: %s",
		                 settings->context_tokens, settings->slots,
		                 words[0] ? words : "llama.cpp refused; lower context_tokens or slots");
	}
	core_attach_pool(core, settings->threads);
	core->box = box;
	llama_box_ref(box);
	core->batch_room = (int32_t)llama_n_batch(core->context);
	core->batch = llama_batch_init(core->batch_room, 0, 1);
	core->kv_bytes = kv_bytes_per_token(box->model) * (uint64_t)settings->kv_tokens;
	core->swa = llama_model_n_swa(box->model);
	core->divisible = core_is_divisible(core) && !settings->deterministic; /* that has no cells to share */
	if (settings->deterministic)
		core_set_apart(core, settings);
	core->spare = settings->slots;
	*ret_core = core;
	return 0;
}

void llama_core_free(struct llama_core *core)
{
	if (!core)
		return;
	free(core->rows);
	free(core->row_of);
	llama_batch_free(core->batch);
	llama_free(core->context);
	if (core->pool)
		core->pool_free(core->pool);
	llama_box_unref(core->box);
	free(core);
}

uint64_t llama_core_kv_bytes(const struct llama_core *core)
{
	return core->kv_bytes;
}

int32_t llama_core_room(const struct llama_core *core)
{
	return core->batch_room - core->batch.n_tokens;
}

int32_t llama_core_add(struct llama_core *core, int32_t token, int32_t position, int32_t seq, bool wants_logits)
{
	struct llama_batch *batch = &core->batch;
	int32_t row = batch->n_tokens;

	assert(row < core->batch_room && token >= 0 && token < core->box->vocab_size);
	batch->token[row] = token;
	batch->pos[row] = position;
	batch->n_seq_id[row] = 1;
	batch->seq_id[row][0] = seq;
	batch->logits[row] = wants_logits;
	batch->n_tokens++;
	return row;
}

void llama_core_clear(struct llama_core *core)
{
	core->batch.n_tokens = 0;
}

/* One sequence after the other: what is computed for one does not depend on what else is in the batch. */
static int core_decode_apart(struct llama_core *core)
{
	const struct llama_batch *all = &core->batch;
	size_t row_size = (size_t)core->box->vocab_size * sizeof(float);

	core->rows_used = 0;
	for (int32_t from = 0, to; from < all->n_tokens; from = to) {
		for (to = from; to < all->n_tokens && all->seq_id[to][0] == all->seq_id[from][0]; to++)
			;
		struct llama_batch one = {
		    .n_tokens = to - from,
		    .token = all->token + from,
		    .pos = all->pos + from,
		    .n_seq_id = all->n_seq_id + from,
		    .seq_id = all->seq_id + from,
		    .logits = all->logits + from,
		};
		int rc = llama_decode(core->context, one);
		if (rc != 0)
			return rc == 2 ? 2
			               : -1; /* no sequence's cache can be full; some were computed, so no second try */
		for (int32_t row = from; row < to; row++) {
			if (!all->logits[row])
				continue;
			core->row_of[row] = core->rows_used;
			memcpy(core->rows + (size_t)core->rows_used++ * (size_t)core->box->vocab_size,
			       llama_get_logits_ith(core->context, row - from), row_size);
		}
	}
	return 0;
}

int llama_core_decode(struct llama_core *core)
{
	return core->chunk ? core_decode_apart(core) : llama_decode(core->context, core->batch);
}

int32_t llama_core_chunk(const struct llama_core *core)
{
	return core->chunk;
}

int llama_core_speculate(struct llama_core *core, const struct llama_settings *settings, struct speculate **ret,
                         struct error *err)
{
	struct speculate_options options = {
	    .draft_path = settings->speculation == LLAMA_SPECULATE_DRAFT ? settings->draft_path : NULL,
	    .target = core->context,
	    .pool = core->pool,
	    .slots = settings->slots,
	    .threads = settings->threads,
	    .kv_tokens = settings->kv_tokens,
	};

	*ret = NULL;
	if (settings->speculation == LLAMA_SPECULATE_NONE)
		return 0;
	if (!core->divisible)
		return error_set(err, E_UNSUPPORTED,
		                 "speculate: this model's KV cannot step back over a wrong guess; leave it out");
	int rc = options.draft_path ? box_check_file(options.draft_path, err) : 0;
	return rc < 0 ? rc : speculate_new(&options, ret, err);
}

float *llama_core_logits(struct llama_core *core, int32_t row)
{
	float *logits = core->chunk ? core->rows + (size_t)core->row_of[row] * (size_t)core->box->vocab_size
	                            : llama_get_logits_ith(core->context, row);

	assert(logits);
	return logits;
}

void llama_core_adapt(struct llama_core *core, int32_t adapter)
{
	struct llama_adapter_lora *lora = adapter ? core->box->adapters[adapter - 1].lora : NULL;
	float scale = 1;

	llama_set_adapters_lora(core->context, lora ? &lora : NULL, lora != NULL, lora ? &scale : NULL);
}

int32_t llama_core_used(const struct llama_core *core)
{
	return core->batch.n_tokens;
}

const float *llama_core_embedding(struct llama_core *core, int32_t seq)
{
	return llama_get_embeddings_seq(core->context, seq);
}

void llama_core_forget(struct llama_core *core)
{
	llama_memory_t memory = llama_get_memory(core->context);

	if (memory) /* encoders have none */
		llama_memory_clear(memory, false);
}

bool llama_core_divisible(const struct llama_core *core)
{
	return core->divisible;
}

bool llama_core_reaches(const struct llama_core *core, int32_t seq, int32_t past, int32_t position)
{
	const struct llama_model *model = core->box->model;

	if (core->divisible || position == past || position == 0)
		return true;
	if (core->swa == 0 || llama_model_is_hybrid(model) || llama_model_is_recurrent(model))
		return false;
	/* A sliding window's cache has only the last tokens: going back needs those before `position`. */
	llama_pos first = llama_memory_seq_pos_min(llama_get_memory(core->context), seq);
	return first >= 0 && first <= (position > core->swa ? position - core->swa : 0);
}

bool llama_core_keep(struct llama_core *core, int32_t seq, int32_t position)
{
	llama_memory_t memory = llama_get_memory(core->context);

	if (position == 0)
		return llama_memory_seq_rm(memory, seq, -1, -1);
	if (core->swa > 0) {
		llama_pos first = llama_memory_seq_pos_min(memory, seq);
		int32_t needed = position - core->swa > 0 ? position - core->swa : 0;
		if (first < 0 || first > needed) {
			llama_memory_seq_rm(memory, seq, -1, -1);
			return false;
		}
	}
	if (llama_memory_seq_rm(memory, seq, position, -1))
		return true;
	llama_memory_seq_rm(memory, seq, -1, -1);
	return false;
}

void llama_core_share(struct llama_core *core, int32_t from, int32_t to, int32_t count)
{
	assert(core->divisible);
	llama_memory_seq_cp(llama_get_memory(core->context), from, to, 0, count);
}

bool llama_core_idle(const struct llama_core *core)
{
	llama_memory_t memory = llama_get_memory(core->context);

	for (int32_t seq = 0; seq <= core->spare; seq++)
		if (llama_memory_seq_pos_max(memory, seq) >= 0)
			return false;
	return true;
}

static void spare_clear(struct llama_core *core)
{
	llama_memory_seq_rm(llama_get_memory(core->context), core->spare, -1, -1);
}

/* Page faults would cost more than the copy, so large ones ask for huge pages. */
static uint8_t *blob_new(size_t size)
{
	void *blob = NULL;

	if (!size || posix_memalign(&blob, size < HUGE_PAGE ? 64 : HUGE_PAGE, size) != 0)
		return NULL;
	if (size >= HUGE_PAGE)
		madvise(blob, size, MADV_HUGEPAGE);
	return blob;
}

uint8_t *llama_core_export(struct llama_core *core, int32_t seq, int32_t begin, int32_t end, size_t *ret_size)
{
	bool part = core->divisible;

	if (part)
		llama_memory_seq_cp(llama_get_memory(core->context), seq, core->spare, begin, end);
	int32_t from = part ? core->spare : seq;
	size_t size = llama_state_seq_get_size(core->context, from);
	uint8_t *blob = blob_new(size);
	if (blob && llama_state_seq_get_data(core->context, blob, size, from) != size) {
		free(blob);
		blob = NULL;
	}
	if (part)
		spare_clear(core);
	*ret_size = size;
	return blob;
}

bool llama_core_import(struct llama_core *core, int32_t seq, const uint8_t *blob, size_t size)
{
	int32_t to = core->divisible ? core->spare : seq;
	bool good = llama_state_seq_set_data(core->context, blob, size, to) == size;

	if (core->divisible) {
		if (good)
			llama_memory_seq_cp(llama_get_memory(core->context), to, seq, -1, -1);
		spare_clear(core);
	}
	return good;
}

/* The file by its size and samples of its bytes (a store's file also by its name, which is its digest), the library,
 * and what the model made of the first tokens on this machine: whatever changes KV should change that. */
struct digest llama_core_fingerprint(struct llama_core *core, const char *path, int32_t seq)
{
	struct digest_stream *s = digest_stream_new();
	const char *name = strrchr(path, '/');
	char words[256], sample[4096];
	struct stat st = {0};
	FILE *file = fopen(path, "rb");
	size_t size;

	llama_model_desc(core->box->model, words, sizeof(words));
	digest_stream_add(s, words, strlen(words));
	digest_stream_add(s, llama_version(), strlen(llama_version()));
	name = name ? name + 1 : path;
	digest_stream_add(s, name, strlen(name));
	if (file && fstat(fileno(file), &st) == 0)
		for (off_t i = 0; i < 64; i++)
			if (fseeko(file, st.st_size / 64 * i, SEEK_SET) == 0)
				digest_stream_add(s, sample, fread(sample, 1, sizeof(sample), file));
	if (file)
		fclose(file);
	uint64_t numbers[] = {LLAMA_STATE_SEQ_VERSION, llama_model_size(core->box->model),
	                      llama_model_n_params(core->box->model), (uint64_t)st.st_size, core->divisible};
	digest_stream_add(s, numbers, sizeof(numbers));
	uint8_t *blob = llama_core_export(core, seq, 0, INT32_MAX, &size);
	if (blob)
		digest_stream_add(s, blob, size);
	free(blob);
	struct digest digest = digest_stream_end(s);
	digest_stream_free(s);
	return digest;
}
