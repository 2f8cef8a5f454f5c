/* SPDX-License-Identifier: Apache-2.0 */
/* llama_model_quantize tells how far it is only in its log: "[  12/ 290] blk.1.ffn_up.weight - ...", a line begun for
 * each tensor. The last error line is why it failed. */
#include "engine/engine.h"

#include <llama.h>
#include <stdio.h>
#include <strings.h>

#define MEMORY_MAX ((size_t)1 << 30) /* of tensor rows at once */
#define WORDS_SIZE 300

static const struct {
	const char *name;
	enum llama_ftype type;
} types[] = {
    {"f32", LLAMA_FTYPE_ALL_F32},          {"f16", LLAMA_FTYPE_MOSTLY_F16},       {"bf16", LLAMA_FTYPE_MOSTLY_BF16},
    {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},     {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M},
    {"q5_k_s", LLAMA_FTYPE_MOSTLY_Q5_K_S}, {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},     {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},
    {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M}, {"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S}, {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},
    {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"iq4_nl", LLAMA_FTYPE_MOSTLY_IQ4_NL}, {"iq4_xs", LLAMA_FTYPE_MOSTLY_IQ4_XS},
    {"q3_k_l", LLAMA_FTYPE_MOSTLY_Q3_K_L}, {"q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M}, {"q3_k_s", LLAMA_FTYPE_MOSTLY_Q3_K_S},
    {"q2_k", LLAMA_FTYPE_MOSTLY_Q2_K},     {"tq1_0", LLAMA_FTYPE_MOSTLY_TQ1_0},   {"tq2_0", LLAMA_FTYPE_MOSTLY_TQ2_0},
};
#define TYPES (sizeof types / sizeof *types)

static size_t type_find(const char *name)
{
	size_t i = 0;
	while (i < TYPES && strcasecmp(types[i].name, name))
		i++;
	return i;
}

bool engine_quantize_known(const char *type)
{
	return type_find(type) < TYPES;
}

const char *engine_quantize_types(void)
{
	return "f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_0, q5_1, q4_k_m, q4_k_s, q4_0, q4_1, iq4_nl, iq4_xs, "
	       "q3_k_l, q3_k_m, q3_k_s, q2_k, tq1_0, tq2_0";
}

struct watch {
	engine_quantize_progress *progress;
	void *arg;
	char words[WORDS_SIZE];
};

/* "llama_model_quantize: failed to quantize: " is ours to say. */
static void keep_words(struct watch *w, const char *text)
{
	const char *last = strstr(text, "failed to quantize: ");
	size_t len;
	if (last)
		text = last + sizeof "failed to quantize: " - 1;
	len = strcspn(text, "\n");
	if (len && text[0] != '=')
		snprintf(w->words, sizeof w->words, "%.*s", (int)(len < WORDS_SIZE ? len : WORDS_SIZE - 1), text);
}

static void on_log(enum ggml_log_level level, const char *text, void *arg)
{
	struct watch *w = arg;
	int done, total;
	if (level == GGML_LOG_LEVEL_ERROR)
		keep_words(w, text);
	else if (text[0] == '[' && sscanf(text, "[%d/%d]", &done, &total) == 2 && done > 0 && total >= done)
		w->progress(w->arg, done - 1, total);
}

int engine_quantize_file(const char *in, const char *out, const char *type, int threads,
                         engine_quantize_progress *progress, void *arg, struct error *err)
{
	struct watch w = {progress, arg, ""};
	struct llama_model_quantize_params params = llama_model_quantize_default_params();
	size_t i = type_find(type);
	if (i == TYPES)
		return error_set(err, E_INVAL, "`%s` is no type to quantize to; there are: %s", type,
		                 engine_quantize_types());
	params.ftype = types[i].type;
	params.nthread = threads;
	params.max_buf_size = MEMORY_MAX;
	llama_log_set(on_log, &w);
	llama_backend_init();
	int failed = (int)llama_model_quantize(in, out, &params);
	llama_backend_free();
	llama_log_set(NULL, NULL);
	if (failed)
		return error_set(err, E_INVAL, "it cannot be quantized to %s: %s", type,
		                 w.words[0] ? w.words : "llama.cpp gave no reason");
	return 0;
}
