/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/node_find.h"

#include "cli/answers.h"

int node_find(struct client *c, const char *name, char *ret_id, size_t id_size, char *ret_url, size_t url_size,
              struct error *err)
{
	yyjson_doc *doc;
	yyjson_val *node;
	size_t i, max;
	int rc = client_json(c, "GET", "/mdn/v1/nodes", STR(""), &doc, err);
	if (rc)
		return rc;
	ret_id[0] = 0;
	yyjson_arr_foreach(yyjson_obj_get(yyjson_doc_get_root(doc), "nodes"), i, max, node)
	{
		struct str id = answer_text(node, "id");
		if (!str_equal(id, str_from(name)) && !str_equal(answer_text(node, "name"), str_from(name)))
			continue;
		str_copy(id, ret_id, id_size);
		str_copy(answer_text(node, "node_url"), ret_url, url_size);
	}
	yyjson_doc_free(doc);
	return ret_id[0] ? 0 : error_set(err, E_NOTFOUND, "no node is called %s: see `mdn nodes`", name);
}
