/* SPDX-License-Identifier: Apache-2.0 */
/* spread_place.c - what is not understood is refused whole; more parents than this version keeps are passed over. */
#include "core/spread_place.h"

#include "base/json.h"
#include "base/limits.h"

#include <stdlib.h>

void spread_place_format(const struct spread_place *p, struct buf *out)
{
	buf_append_str(out, STR("{\"model\":"));
	buf_append_json(out, str_from(p->model));
	buf_append_str(out, STR(",\"manifest\":"));
	buf_append_json(out, str_from(p->manifest));
	buf_append_str(out, STR(",\"parents\":["));
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++) {
		buf_append_str(out, s ? STR(",[") : STR("["));
		for (uint32_t k = 0; k < SPREAD_PARENTS && p->parents[s][k][0]; k++) {
			buf_append_str(out, k ? STR(",") : STR(""));
			buf_append_json(out, str_from(p->parents[s][k]));
		}
		buf_append_str(out, STR("]"));
	}
	buf_append_str(out, STR("],\"ranks\":["));
	for (uint32_t s = 0; s < SPREAD_STRIPES; s++)
		buf_printf(out, "%s%u", s ? "," : "", p->ranks[s]);
	buf_append_str(out, STR("]}"));
}

static int text_of(yyjson_val *v, char *to, size_t size)
{
	if (!yyjson_is_str(v))
		return E_INVAL;
	return str_copy((struct str){yyjson_get_str(v), yyjson_get_len(v)}, to, size) ? 0 : E_INVAL;
}

static int place_parse(yyjson_val *o, struct spread_place *p, struct error *err)
{
	yyjson_val *parents = yyjson_obj_get(o, "parents"), *ranks = yyjson_obj_get(o, "ranks");
	bool good = text_of(yyjson_obj_get(o, "model"), p->model, sizeof p->model) == 0 &&
	            text_of(yyjson_obj_get(o, "manifest"), p->manifest, sizeof p->manifest) == 0 &&
	            yyjson_arr_size(parents) == SPREAD_STRIPES && yyjson_arr_size(ranks) == SPREAD_STRIPES;
	for (uint32_t s = 0; good && s < SPREAD_STRIPES; s++) {
		yyjson_val *ids = yyjson_arr_get(parents, s), *rank = yyjson_arr_get(ranks, s);
		good = yyjson_is_arr(ids) && yyjson_is_uint(rank) && yyjson_get_uint(rank) <= LIMIT_NODES;
		p->ranks[s] = good ? (uint32_t)yyjson_get_uint(rank) : 0;
		for (uint32_t k = 0; good && k < SPREAD_PARENTS && k < yyjson_arr_size(ids); k++)
			good = text_of(yyjson_arr_get(ids, k), p->parents[s][k], NODE_ID_SIZE) == 0;
	}
	return good ? 0
	            : error_set(err, E_INVAL,
	                        "an item of \"spread\" is not {model, manifest, parents of %u stripes, ranks}",
	                        SPREAD_STRIPES);
}

int spread_places_parse(struct str json, struct spread_place **ret_places, size_t *ret_count, struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *items = NULL, *item;
	size_t i, count;
	struct spread_place *places = NULL;
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	if ((rc = json_arr(yyjson_doc_get_root(doc), "spread", &items, err)) == 0 && !items)
		rc = error_set(err, E_INVAL, "\"spread\" is missing");
	if (rc == 0 && yyjson_arr_size(items) > LIMIT_NODE_MODELS)
		rc = error_set(err, E_LIMIT, "more than %d models are spread to one node", LIMIT_NODE_MODELS);
	if (rc == 0) {
		places = mem_new((yyjson_arr_size(items) + 1) * sizeof *places);
		*ret_count = yyjson_arr_size(items);
		yyjson_arr_foreach(items, i, count, item)
		{
			if ((rc = place_parse(item, &places[i], err)) < 0)
				break;
		}
	}
	yyjson_doc_free(doc);
	if (rc < 0) {
		free(places);
		return rc;
	}
	*ret_places = places;
	return 0;
}
