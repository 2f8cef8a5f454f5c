/* SPDX-License-Identifier: Apache-2.0 */
/* affinity.h - which node lately computed which beginning of a prompt, and where a session was last answered.
 *
 * A prompt is known by chained hashes of its blocks: each stands for the whole beginning up to its end. They are made
 * with a secret of this dispatcher, the model, and the tenant's salt, so that one tenant's prompts say nothing of
 * another's. Blocks are short at first and longer further on (affinity_block_end), so that the first turns are told
 * apart and 240 KB of text still cost 256 hashes; what comes after is not looked at.
 *
 * Bounded: AFFINITY_PAIRS_MAX (block, node) pairs and AFFINITY_NODES_MAX nodes, the least recently used go, and all
 * after AFFINITY_AGE_US: an engine's cache has forgotten them by then. A node that restarted (boot) has forgotten at
 * once. Owns its memory. Pure; one thread; times are the caller's microseconds.
 */
#ifndef MDN_CORE_AFFINITY_H
#define MDN_CORE_AFFINITY_H

#include "core/report.h"

#define AFFINITY_PAIRS_MAX 131072 /* 8 MiB */
#define AFFINITY_NODES_MAX 4096
#define AFFINITY_BLOCKS_MAX 256
#define AFFINITY_KEY_BLOCKS 4  /* a prompt's key is made of so many: 1 KiB */
#define AFFINITY_HOLDERS_MAX 8 /* of a prompt, those that hold the most */
#define AFFINITY_AGE_US (900 * INT64_C(1000000))
#define AFFINITY_TOKEN_BYTES 4 /* a token of text, by rule of thumb */

struct affinity;

/* A prompt as it is fed in; caller's memory. */
struct affinity_prompt {
	uint64_t blocks[AFFINITY_BLOCKS_MAX];
	uint32_t count, filled;    /* whole blocks; bytes in the one that is being filled */
	uint64_t chain, plain;     /* of the whole blocks: with the secret; without, of the first few */
	uint64_t part, word;       /* of the one that is being filled; its last few bytes */
	uint64_t session;          /* 0: none */
	uint64_t key, session_key; /* what dispatchers that do not know each other agree on; 0: none */
};

/* A node that has computed part of a prompt. */
struct route_warm {
	char id[NODE_ID_SIZE];
	uint64_t boot;  /* the life in which it did */
	int32_t tokens; /* of the prompt's beginning; 0: none that is known */
	bool session;   /* and the session was there last */
};

struct affinity *affinity_new(uint64_t secret);
void affinity_free(struct affinity *a); /* NULL is fine */

void affinity_begin(const struct affinity *a, struct affinity_prompt *p, struct str model, struct str tenant,
                    struct str salt);
void affinity_feed(struct affinity_prompt *p, const void *bytes, size_t len); /* whatever a prompt is made of */
void affinity_session(struct affinity_prompt *p, struct str session);         /* empty: none. After affinity_begin */
uint32_t affinity_block_end(uint32_t block);                                  /* bytes before it ends */
/* Those that hold some of it, the most first; how many. */
size_t affinity_find(struct affinity *a, const struct affinity_prompt *p, int64_t now_us,
                     struct route_warm ret_warm[static AFFINITY_HOLDERS_MAX]);
/* The node (in this life of it) computes that prompt now. */
void affinity_learn(struct affinity *a, const struct affinity_prompt *p, struct str node, uint64_t boot,
                    int64_t now_us);
size_t affinity_count(const struct affinity *a); /* pairs */

#endif
