/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/signatures.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "store/channel.h"
#include "store/envelope.h"

static bool descriptor(yyjson_val *obj, struct digest *ret_digest, uint64_t *ret_size)
{
	struct str digest = {0};
	int64_t size = 0;
	if (!yyjson_is_obj(obj) || json_str(obj, "digest", &digest, NULL) || digest_parse(digest, ret_digest) ||
	    json_i64(obj, "size", 1, LIMIT_SIGNATURE, &size, NULL) || size == 0)
		return false;
	*ret_size = (uint64_t)size;
	return true;
}

/* The subject and the bundle of a manifest that attaches one. */
static bool attaches(struct str body, struct digest *ret_subject, struct version_signature *ret_bundle)
{
	yyjson_doc *doc;
	yyjson_val *root, *layers;
	struct str type = {0};
	uint64_t size;
	if (json_parse(body, &doc, NULL))
		return false;
	root = yyjson_doc_get_root(doc);
	layers = yyjson_obj_get(root, "layers");
	yyjson_val *layer = yyjson_arr_get_first(layers), *subject = yyjson_obj_get(root, "subject");
	struct str digest = {0};
	/* a subject may be larger than a bundle: only its digest is of interest */
	bool good = yyjson_arr_size(layers) == 1 && yyjson_is_obj(layer) &&
	            !json_str(layer, "mediaType", &type, NULL) && str_equal(type, STR(ENVELOPE_TYPE)) &&
	            descriptor(layer, &ret_bundle->digest, &size) && yyjson_is_obj(subject) &&
	            !json_str(subject, "digest", &digest, NULL) && !digest_parse(digest, ret_subject);
	if (good)
		ret_bundle->size = size;
	yyjson_doc_free(doc);
	return good;
}

/* A channel statement's channel and counter; a model signature's are empty and now. False: neither. */
static bool kind_of(struct str bundle, char ret_channel[static 260], uint64_t *ret_rank)
{
	struct envelope e;
	struct channel c;
	struct signed_model m;
	bool good = false;
	ret_channel[0] = 0;
	*ret_rank = (uint64_t)clock_wall_us();
	if (envelope_parse(bundle, &e, NULL))
		return false;
	if (!channel_parse(buf_str(&e.payload), &c, NULL)) {
		good = true;
		memcpy(ret_channel, c.name, sizeof c.name);
		*ret_rank = c.counter;
		channel_fini(&c);
	} else if (!signed_model_parse(buf_str(&e.payload), &m, NULL)) {
		good = true;
		signed_model_fini(&m);
	}
	envelope_fini(&e);
	return good;
}

int signatures_note(struct blob_store *store, struct catalog *catalog, struct str repo, const struct digest *manifest,
                    struct str body, struct error *err)
{
	struct catalog_signature s = {.referrer = *manifest};
	struct buf bundle = {0};
	char channel[260];
	if (!memmem(body.base, body.len, ENVELOPE_TYPE, sizeof ENVELOPE_TYPE - 1) ||
	    !attaches(body, &s.manifest, &s.bundle))
		return 0;
	int rc = blob_read_all(store, &s.bundle.digest, LIMIT_SIGNATURE, &bundle, err);
	if (!rc && kind_of(buf_str(&bundle), channel, &s.rank)) {
		s.channel = str_from(channel);
		rc = catalog_add_signature(catalog, repo, &s, err);
	}
	buf_fini(&bundle);
	return rc;
}
