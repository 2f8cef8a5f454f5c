/* SPDX-License-Identifier: Apache-2.0 */
/* Digests as clients write them, and what we keep under them: SHA-256 is our own name of content, a SHA-512 stands in
 * the catalog once content was pushed under it. */
#include "serve/repository/manifest.h"
#include "serve/repository/repository_private.h"

bool oci_name(struct repository *r, struct http_exchange *x, struct str text, struct oci_name *ret_name)
{
	struct oci_name n = {0};
	int rc = digest_name_parse(text, &n.name);
	if (rc) {
		oci_error(x, 400, "DIGEST_INVALID",
		          rc == E_UNSUPPORTED ? "only sha256 and sha512 digests are kept here"
		                              : "a digest is sha256: and 64, or sha512: and 128 lower case hex digits");
		return false;
	}
	n.known = !catalog_find_name(r->catalog, &n.name, &n.digest, NULL);
	*ret_name = n;
	return true;
}

void oci_add_name(struct http_exchange *x, const char *header, const struct digest_name *name)
{
	char text[DIGEST_NAME_SIZE];
	digest_name_format(name, text);
	http_add_header(x, header, str_from(text));
}

void oci_add_digest(struct http_exchange *x, const struct digest *d)
{
	struct digest_name name = digest_name_of(d);
	oci_add_name(x, "Docker-Content-Digest", &name);
}

void manifest_resolve(struct manifest *m, struct catalog *catalog)
{
	for (size_t i = 0; i < m->item_count; i++)
		if (m->items[i].name.sha512)
			catalog_find_name(catalog, &m->items[i].name, &m->items[i].digest, NULL);
}
