/* SPDX-License-Identifier: Apache-2.0 */
/* spool.h - a blob on its way from a place that knows no chunk digests: pieces in any order, checked as a whole.
 *
 * What is kept outlives the process: opening it again goes on. Nothing counts as a blob before spool_finish found
 * the digest right. Pieces are SPOOL_PIECE bytes, the last one may be short. The whole is hashed in order while pieces
 * come, so that the end costs little. Blocks on the disk; several threads may write different pieces at once; has and
 * read may be asked meanwhile. Encrypted like the store it is for.
 */
#ifndef MDN_STORE_SPOOL_H
#define MDN_STORE_SPOOL_H

#include "store/blob.h"

#define SPOOL_PIECE (UINT64_C(4) << 20)

struct spool;
/* E_LIMIT, E_NOSPACE: nothing was begun. */
int spool_open(struct blob_store *s, const struct digest *d, uint64_t size, struct spool **ret_spool,
               struct error *err);
void spool_close(struct spool *p);  /* keeps what is held */
void spool_remove(struct spool *p); /* keeps nothing; p is good until spool_close, for who still reads */
uint64_t spool_size(const struct spool *p);
uint32_t spool_count(const struct spool *p);
bool spool_has(const struct spool *p, uint32_t piece);
uint64_t spool_held(const struct spool *p); /* bytes in whole pieces */
static inline uint64_t spool_length(const struct spool *p, uint32_t piece)
{
	uint64_t left = spool_size(p) - piece * SPOOL_PIECE;
	return left < SPOOL_PIECE ? left : SPOOL_PIECE;
}
/* Within one piece, by one writer at a time. What comes once more for a piece that is held is dropped. */
int spool_write(struct spool *p, uint64_t offset, struct str data, struct error *err);
/* All bytes of the piece are written: from now on it is held, durably. */
int spool_keep(struct spool *p, uint32_t piece, struct error *err);
/* Bytes written before, held or not. */
int spool_read(const struct spool *p, uint64_t offset, void *out, size_t len, struct error *err);
/* All pieces held: checked and made a blob; the caller still closes p. E_CORRUPT: the bytes are not `d`; remove. */
int spool_finish(struct spool *p, struct error *err);

/* Those that this run or an earlier one left. */
struct spool_info {
	uint64_t size, disk_bytes; /* size: of its file */
	int64_t used_us;           /* when it last grew; the clock of blob_store_now_us */
};
void spool_each(struct blob_store *s, void (*fn)(void *arg, const struct digest *d, const struct spool_info *info),
                void *arg);
void spool_forget(struct blob_store *s, const struct digest *d); /* who has it open cannot finish it */

#endif
