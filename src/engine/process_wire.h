/* SPDX-License-Identifier: Apache-2.0 */
/* process_wire.h - engine.h as bytes, between a node and the processes its engines run in.
 *
 * One table of fields for each struct (process_wire.c): who adds a field to engine.h adds its line there, and a test
 * counts the bytes that have none. Both ends are the same binary on the same machine, so numbers are as memory has
 * them; every value takes a multiple of 8 bytes. Decoding trusts nobody: counts are bounded before they are used,
 * numbers are clamped or refused by the ranges of the table, texts are whole UTF-8 where engine.h says so. Decoded
 * arrays and texts lie in the frame or in the memory, and live as long as both. No I/O here; any thread.
 */
#ifndef MDN_ENGINE_PROCESS_WIRE_H
#define MDN_ENGINE_PROCESS_WIRE_H

#include "engine/engine.h"

#define WIRE_FRAME_MAX (64u << 20) /* bytes after a head */

/* Before each frame; size is a multiple of 8. */
struct wire_head {
	uint32_t size;
	uint32_t kind;
	uint64_t request; /* 0: of the engine */
};

enum wire_kind {
	WIRE_OPTIONS = 1, /* to the child, first: engine_options */
	WIRE_SUBMIT,      /* to the child: engine_params */
	WIRE_CANCEL,
	WIRE_PAUSE,
	WIRE_CONTINUE,
	WIRE_STATE, /* to the parent: engine_state, engine_info, error */
	WIRE_LOAD,  /* to the parent: engine_load, and how many SUBMITs it knows of */
	WIRE_EVENT, /* to the parent: engine_event */
};

struct wire_state {
	enum engine_state state;
	struct engine_info info;
	struct error err;
};

struct wire_load {
	struct engine_load load;
	uint64_t submits;
};

/* What arrays of texts and of logprobs are decoded into; one frame at a time. */
struct wire_memory {
	char *base;
	size_t cap, used;
};
void wire_memory_fini(struct wire_memory *memory);

/* Append a whole frame. A text longer than the table allows is cut off by the limit of the frame: false, and nothing
 * was appended. */
bool wire_put_empty(struct buf *out, enum wire_kind kind, uint64_t request);
bool wire_put_options(struct buf *out, const struct engine_options *options);
bool wire_put_params(struct buf *out, uint64_t request, const struct engine_params *params);
bool wire_put_event(struct buf *out, uint64_t request, const struct engine_event *event);
bool wire_put_state(struct buf *out, const struct wire_state *state);
bool wire_put_load(struct buf *out, const struct wire_load *load);

/* A frame that is whole in `in`: its head and body. 0: not yet; E_CORRUPT: never. `in` begins 8-aligned. */
int wire_take(struct str in, struct wire_head *ret_head, struct str *ret_body);
/* E_CORRUPT with words when the body is not one of these. `body` is 8-aligned. */
int wire_get_options(struct str body, struct wire_memory *memory, struct engine_options *ret, struct error *err);
int wire_get_params(struct str body, struct wire_memory *memory, struct engine_params *ret, struct error *err);
/* *ret_err is what ret->err points to, if it has one. */
int wire_get_event(struct str body, struct wire_memory *memory, struct engine_event *ret, struct error *ret_err,
                   struct error *err);
int wire_get_state(struct str body, struct wire_state *ret, struct error *err);
int wire_get_load(struct str body, struct wire_load *ret, struct error *err);

/* For the test that no field is forgotten: sets to 1 each byte of the struct that a line of its table covers. */
enum wire_struct { WIRE_OF_OPTIONS, WIRE_OF_PARAMS, WIRE_OF_EVENT, WIRE_OF_INFO, WIRE_OF_LOAD };
void wire_cover(enum wire_struct which, uint8_t *bytes);

#endif
