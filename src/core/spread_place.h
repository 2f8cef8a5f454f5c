/* SPDX-License-Identifier: Apache-2.0 */
/* spread_place.h - one node's place in the spreading of one version, as the center tells it: both ways between values
 * and JSON. Ids of nodes, best first, empty beyond the last. Pure. Wire: docs/wire.md, "Spread".
 */
#ifndef MDN_CORE_SPREAD_PLACE_H
#define MDN_CORE_SPREAD_PLACE_H

#include "core/report.h"
#include "core/spread.h"

struct spread_place {
	char model[NODE_TEXT_SIZE]; /* "name:tag" */
	char manifest[72];          /* "sha256:..." */
	char parents[SPREAD_STRIPES][SPREAD_PARENTS][NODE_ID_SIZE];
	uint32_t ranks[SPREAD_STRIPES];
};

void spread_place_format(const struct spread_place *p, struct buf *out);
/* The document: {"version":N,"spread":[...]}. The caller frees the array. E_INVAL, E_LIMIT (LIMIT_NODE_MODELS). */
int spread_places_parse(struct str json, struct spread_place **ret_places, size_t *ret_count, struct error *err);

#endif
