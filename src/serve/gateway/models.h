/* SPDX-License-Identifier: Apache-2.0 */
/* models.h - the models of this node, inside the room: which are loaded, which wait on disk, who may ask which.
 *
 *   models.c         the list: models and their versions come and go
 *   models_switch.c  one version after another
 *   models_room.c    memory: loading on demand, who goes for whom, unloading the idle
 *   models_fit.c     what a model needs, read from its file before it is loaded
 *   models_lora.c    LoRA adapters: models that another one's engine answers
 *   models_list.c    what clients and operators see
 *   waiting.c        requests that wait until a model is loaded
 *
 * One that fits beside what is loaded is loaded when it comes; others stay on disk (CACHED) and are loaded when they
 * are asked for, after the least recently used of the idle ones have gone (core/residence.h). The fit is computed, so
 * one that can never be loaded is FAILED with figures and nothing is found out by running out of memory.
 */
#ifndef MDN_GATEWAY_MODELS_H
#define MDN_GATEWAY_MODELS_H

#include "core/report.h"
#include "core/residence.h"
#include "engine/engine.h"

struct gateway;
struct model_metrics;

struct model_sums { /* of one version, since its engine was made: what tells it from another version */
	uint64_t served, errors, ttft_us, tokens, decode_us;
};

/* ---- models_fit.c: pure but for reading the file ------------------------------------------------ */

struct model_fit {
	uint64_t weights;           /* bytes of its files */
	uint64_t kv_per_token;      /* of all layers, K and V at 16 bits */
	uint64_t fixed;             /* recurrent states and compute buffers */
	uint64_t compute_per_token; /* of the KV cache: attention masks */
	int32_t trained_tokens;
	bool read;    /* the header could be read; else only the weights count, and the engine will say what is wrong */
	bool adapter; /* a LoRA adapter: needs a base */
	/* what it is, as its header says */
	uint64_t parameters;
	char architecture[64], quantization[32];
	bool calls_tools, thinks; /* by its chat template */
	/* chosen for a budget */
	int32_t kv_tokens; /* 0: as the engine likes */
	uint64_t need;
};
void fit_read(struct model_fit *f, const char *path, const struct engine_options *options); /* blocks; any thread */
void fit_choose(struct model_fit *f, const struct engine_options *options, uint64_t budget);
void fit_describe(const struct model_fit *f, uint64_t budget, char *to, size_t size);

/* ---- one model ---------------------------------------------------------------------------------- */

/* One version of a model. The list holds those that answer, one a name. Another version that comes is its `next`:
 * loaded beside it where memory allows, given a rising part of the new requests once ready, then in its place; else it
 * waits until the old one has yielded (no new requests, idle) and comes after it. Versions replaced live on in
 * `leaving` until their last stream ends. */
struct model {
	struct gateway *g;
	struct model *following; /* in the list */
	char name[NODE_TEXT_SIZE], digest[72];
	char *path;
	char fingerprint[16];  /* system_fingerprint */
	struct engine *engine; /* NULL: on disk, or could not be made; error tells why */
	enum model_state state;
	char error[256];
	uint32_t requests; /* being answered with it */
	bool removing;
	struct model *next;  /* the version on its way, or that failed; NULL */
	bool waits;          /* a next one that has no engine for want of memory */
	int64_t yielding_us; /* since when it lets others answer, so that next can come; 0: not */
	int64_t shared_us;   /* since when next takes a part of the requests; 0: not */
	bool came_after;     /* the one before had to go first: requests wait for this one */
	struct model_metrics *metrics;
	struct model_sums sums;
	/* memory */
	struct model_fit fit;
	struct measuring *measuring; /* its file is being looked at; nothing is decided before */
	bool misfit;                 /* FAILED because it does not fit: looked at again when others go */
	bool gives_way;              /* busy, takes no more requests: another one waits for its room */
	int64_t asked_us, wanted_us; /* last asked for while not loaded; since when in line for memory, 0: not */
	int64_t begun_us, loaded_us; /* this loading began; ended */
	int64_t load_us;             /* how long the last loading took; 0: never loaded */
	int64_t used_us;             /* a request came or ended; 0: none yet */
	int64_t used_wall_us;
	/* LoRA adapters */
	char base[NODE_TEXT_SIZE]; /* what it was made from, as its version says; matters to adapters only */
	char **adapters;           /* that its engine has read */
	size_t adapter_count;
};
struct model *model_find(const struct gateway *g,
                         struct str name);    /* "name" is "name:latest"; not those being removed */
struct model *model_pick(struct model *m);    /* it, or the next version when that takes its turn; counts as used */
bool model_answers(const struct model *m);    /* now */
bool model_comes(const struct model *m);      /* it does not, but requests may wait for it */
bool model_takes_hops(const struct model *m); /* it answers, or others cannot know yet that it yields */
struct model *model_enter(struct model *m);   /* one request more; whose engine answers: it, or its base. NULL: none */
void model_leave(struct model *m);            /* one request less */
void model_fill_report(const struct model *m, struct model_report *ret_report);
double model_progress(const struct model *m); /* of its loading, 0..1 */
int model_start(struct model *m, struct error *err);
void model_stop(struct model *m);
void models_settle(struct gateway *g); /* replaces, loads, unloads, frees */
void models_settle_soon(struct gateway *g);
void models_tick(struct gateway *g);
void models_free(struct gateway *g);

/* ---- models_switch.c ---------------------------------------------------------------------------- */

void model_settle(struct model *m);          /* goes on with the switch to m->next, if there is one */
void model_renew(struct model *m);           /* loads the same version once more, in its place */
bool model_switching(const struct model *m); /* another version is on its way to its place */
void model_next_drop(struct model *m);       /* there is no next version any more */
void model_depart(struct model *m);          /* out of the list already; freed when idle */

/* ---- models_room.c ------------------------------------------------------------------------------ */

struct model_room {
	uint64_t max; /* 0: what the machine has */
	int64_t idle_unload_us;
	char **pins;
	size_t pin_count;
	double load_rate; /* bytes of weights a second, measured; 0: nothing loaded yet */
	uint64_t loads, unloads;
	bool line; /* some model waits for memory */
};
bool model_is_pinned(const struct model *m);
void model_measure(struct model *m); /* its file, in the job pool; then it is settled */
void model_measure_stop(struct model *m);
/* Memory for m: unloads idle ones if `evict`. `instead`: counts as gone already; may be NULL. FITS: load it now. */
enum residence room_make(struct model *m, const struct model *instead, bool evict);
void room_refuse(struct model *m, enum residence why); /* NEVER, PINNED: FAILED with figures */
void model_want(struct model *m);                      /* a request waits for it */
void model_unload(struct model *m, const char *why);   /* stays on disk */
void room_settle(struct gateway *g, bool freed);       /* freed: what did not fit may fit now */
void room_tick(struct gateway *g);
void room_fini(struct gateway *g);
int64_t model_load_us(const struct model *m); /* until it answers if asked now; 0: it does not come */
uint64_t model_memory(const struct model *m); /* that it takes now */

/* ---- models_lora.c ------------------------------------------------------------------------------ */

#define LORA_KEY_SIZE (NODE_TEXT_SIZE + 73)
struct lora_list { /* what an engine is told; names are the model's */
	struct str *names, *paths;
};
void lora_list_init(struct lora_list *list, struct model *base, struct engine_options *options);
void lora_list_fini(struct lora_list *list);
void lora_forget(struct model *base); /* its engine goes */
void lora_settle(struct gateway *g);
uint64_t lora_bytes(const struct model *base); /* of all its adapters */
struct model *lora_base(const struct model *m);
struct model *lora_runs(const struct model *m);               /* who answers for an adapter now; NULL: nobody */
bool lora_comes(const struct model *m);                       /* somebody will */
void lora_name(const struct model *m, char *to, size_t size); /* for its requests; "": no adapter */

/* ---- models_list.c ------------------------------------------------------------------------------ */

void models_list(struct gateway *g, struct buf *out);                        /* GET /v1/models */
bool models_one(struct gateway *g, struct str name, struct buf *out);        /* GET /v1/models/NAME */
void models_names(struct gateway *g, struct str separator, struct buf *out); /* for error texts */
bool models_any_ready(struct gateway *g);

#endif
