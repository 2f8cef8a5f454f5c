/* SPDX-License-Identifier: Apache-2.0 */
/* batch_scan.h - a batch's input read through: each line checked and found a place in an index, what was answered
 * already marked.
 *
 * Blocks on the disk: for a job. Owned by whoever started it. Memory: about 48 bytes a line, LIMIT_BATCH_LINES lines.
 */
#ifndef MDN_GATEWAY_BATCH_SCAN_H
#define MDN_GATEWAY_BATCH_SCAN_H

#include "base/digest.h"
#include "base/error.h"
#include "base/str.h"

struct batch_place { /* of a line of the input */
	uint64_t offset;
	uint32_t len, line;
	uint8_t tries;
	bool done;
	uint8_t id[16]; /* the beginning of its custom_id's SHA-256 */
};

struct batch_scan {
	/* given */
	char *input, *output, *errors; /* paths; the latter two may not exist */
	char endpoint[32];
	/* found */
	struct batch_place *places;
	uint32_t count, cap;
	uint32_t *table; /* by id: index + 1, 0 free; a power of two */
	uint32_t table_size;
	uint32_t completed, failed;         /* lines of output and errors */
	uint64_t output_bytes, error_bytes; /* of whole lines */
	struct buf wrong;                   /* JSON objects with commas between: what is wrong with the input */
	uint32_t wrong_count;
	struct error err; /* the input cannot be read */
	bool gone;        /* since it is not there any more */
};

void batch_scan_work(void *scan);
void batch_scan_free(struct batch_scan *scan); /* NULL is fine */

#endif
