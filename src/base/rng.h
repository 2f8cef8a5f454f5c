/* SPDX-License-Identifier: Apache-2.0 */
/* rng.h - random numbers: a seeded stream for decisions, and the kernel's for secrets.
 *
 * `struct rng` is xoshiro256** (Blackman & Vigna 2018), seeded by splitmix64; caller's memory, not
 * thread safe, same seed = same numbers. `rng_secret` is getrandom(2); any thread; aborts if refused.
 */
#ifndef MDN_BASE_RNG_H
#define MDN_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t s[4];
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t bound); /* unbiased, [0, bound); bound > 0 */
double rng_unit(struct rng *r);                    /* [0, 1) */
void rng_secret(void *out, size_t len);
uint64_t rng_seed(void); /* a fresh seed from the kernel */

#endif
