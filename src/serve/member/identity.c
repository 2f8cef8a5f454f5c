/* SPDX-License-Identifier: Apache-2.0 */
/* DATA/identity, and what centers answer.
 *
 *   key.pem    0600, made before the first request, so that a repeat after a lost reply shows the same key
 *   ca.pem     trust anchors
 *   cert.pem   renewed in place
 *   node.json  {"id","domain","center_url","center","name","site","roles"}; written last: while it is missing, the node
 * has not joined
 */
#include "serve/member/inside.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "net/x509.h"

#include <stdlib.h>

#define PEM_MAX 65536

static char *path_of(struct str data, const char *name)
{
	struct buf b = {0};
	buf_printf(&b, STR_FMT "/identity/%s", STR_ARG(data), name);
	return b.base;
}

static int read_part(struct str data, const char *name, char **ret_text, struct error *err)
{
	struct buf b = {0};
	char *path = path_of(data, name);
	int rc = file_read(path, PEM_MAX, &b, err);
	if (rc == 0)
		*ret_text = str_dup(buf_str(&b));
	if (b.base)
		explicit_bzero(b.base, b.len);
	buf_fini(&b);
	free(path);
	return rc;
}

static int write_part(struct str data, const char *name, unsigned mode, struct str content, struct error *err)
{
	char *path = path_of(data, name);
	int rc = file_write(path, mode, content, err);
	free(path);
	return rc;
}

bool identity_exists(struct str data)
{
	char *path = path_of(data, "node.json");
	bool exists = file_exists(path);
	free(path);
	return exists;
}

void identity_fini(struct identity *i)
{
	if (i->key_pem)
		explicit_bzero(i->key_pem, strlen(i->key_pem));
	free(i->key_pem);
	free(i->cert_pem);
	free(i->ca_pem);
	*i = (struct identity){0};
}

/* Text that goes into identities, URLs and file names: nothing odd in it. */
static bool is_plain(struct str s)
{
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '.' &&
		    c != '-' && c != '_')
			return false;
	}
	return true;
}

static int take_plain(yyjson_val *o, const char *key, bool needed, char *to, size_t size, struct error *err)
{
	struct str text = {0};
	int rc = json_str(o, key, &text, err);
	if (rc < 0)
		return rc;
	if (needed && text.len == 0)
		return error_set(err, E_INVAL, "\"%s\" is missing", key);
	if (!is_plain(text) || !str_copy(text, to, size))
		return error_set(err, E_INVAL, "\"%s\" is too long or has odd characters", key);
	return 0;
}

static int parse_node(struct str json, struct identity *i, struct error *err)
{
	yyjson_doc *doc;
	struct str url = {0}, roles = {0};
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = take_plain(o, "id", true, i->id, sizeof(i->id), err)) == 0 &&
	    (rc = take_plain(o, "domain", true, i->domain, sizeof(i->domain), err)) == 0 &&
	    (rc = take_plain(o, "center", false, i->center_id, sizeof(i->center_id), err)) == 0 &&
	    (rc = take_plain(o, "name", true, i->name, sizeof(i->name), err)) == 0 &&
	    (rc = take_plain(o, "site", true, i->site, sizeof(i->site), err)) == 0 &&
	    (rc = json_str(o, "center_url", &url, err)) == 0 && (rc = json_str(o, "roles", &roles, err)) == 0 &&
	    (rc = node_roles_parse(roles, &i->roles, err)) == 0 && !str_copy(url, i->center_url, sizeof(i->center_url)))
		rc = error_set(err, E_INVAL, "\"center_url\" is too long");
	yyjson_doc_free(doc);
	return rc;
}

int identity_load(struct str data, struct identity *ret_identity, struct error *err)
{
	struct identity i = {0};
	char *node = NULL;
	int rc;
	if (!identity_exists(data))
		return error_set(
		    err, E_NOTFOUND,
		    "this node has not joined a network: run `mdn join URL TOKEN` (a first node: `mdn init`)");
	if ((rc = read_part(data, "node.json", &node, err)) == 0 &&
	    (rc = read_part(data, "key.pem", &i.key_pem, err)) == 0 &&
	    (rc = read_part(data, "cert.pem", &i.cert_pem, err)) == 0 &&
	    (rc = read_part(data, "ca.pem", &i.ca_pem, err)) == 0 &&
	    (rc = x509_cert_pin(str_from(i.cert_pem), i.pin, err)) == 0)
		rc = parse_node(str_from(node), &i, err);
	if (rc < 0) {
		error_prefix(err,
		             "the identity in " STR_FMT
		             " is damaged; restore it, or delete its identity folder and join again",
		             STR_ARG(data));
		identity_fini(&i);
	} else {
		*ret_identity = i;
	}
	free(node);
	return rc;
}

int identity_key(struct str data, char **ret_key, struct error *err)
{
	char *folder = file_join(data, "identity"), *key = NULL;
	struct error why = {0};
	int rc = read_part(data, "key.pem", ret_key, &why);
	if (rc < 0 && rc != E_NOTFOUND && err)
		*err = why;
	if (rc == E_NOTFOUND && (rc = folder_make(folder, 0700, err)) == 0 && (rc = x509_key_new(&key, err)) == 0 &&
	    (rc = write_part(data, "key.pem", 0600, str_from(key), err)) == 0) {
		*ret_key = key;
		key = NULL;
	} else if (rc < 0) {
		error_prefix(err, "cannot read or make %s/key.pem", folder);
	}
	free(key);
	free(folder);
	return rc;
}

int identity_write_cert(struct str data, const struct identity *i, struct error *err)
{
	int rc = write_part(data, "ca.pem", 0644, str_from(i->ca_pem), err);
	return rc < 0 ? rc : write_part(data, "cert.pem", 0644, str_from(i->cert_pem), err);
}

int identity_write(struct str data, const struct identity *i, struct error *err)
{
	struct buf node = {0}, roles = {0};
	int rc = identity_write_cert(data, i, err);
	node_roles_format(i->roles, &roles);
	buf_printf(&node, "{\"id\":\"%s\",\"domain\":\"%s\",\"center_url\":", i->id, i->domain);
	buf_append_json(&node, str_from(i->center_url));
	buf_printf(&node, ",\"center\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"roles\":\"" STR_FMT "\"}\n",
	           i->center_id, i->name, i->site, STR_ARG(buf_str(&roles)));
	if (rc == 0)
		rc = write_part(data, "node.json", 0644, buf_str(&node), err);
	buf_fini(&node);
	buf_fini(&roles);
	return rc;
}

/* ---- a center's answers ----------------------------------------------------------------------------------- */

static int check_certificate(const struct identity *i, const char *id, const char *domain, struct str cert,
                             struct error *err)
{
	char pin[65], said[TLS_IDENTITY_SIZE];
	struct buf wanted = {0};
	int64_t not_before, not_after;
	buf_printf(&wanted, "spiffe://%s/node/%s", domain, id);
	int rc;
	if ((rc = x509_cert_pin(cert, pin, err)) == 0 &&
	    (rc = x509_cert_info(cert, said, sizeof(said), &not_before, &not_after, err)) == 0) {
		if (strcmp(pin, i->pin) != 0)
			rc = error_set(err, E_PEER, "the center's certificate is for another key");
		else if (!str_equal(str_from(said), buf_str(&wanted)))
			rc = error_set(err, E_PEER, "the center's certificate is for another node");
	}
	buf_fini(&wanted);
	return rc;
}

/* Whom we trust does not change by an answer: a center's old key, stolen, must not bring a CA of its own. */
static int check_ca(const struct identity *i, struct str ca, struct error *err)
{
	char pin[65], ours[65];
	int rc = x509_cert_pin(ca, pin, err);
	if (rc == 0 && i->ca_pem && (rc = x509_cert_pin(str_from(i->ca_pem), ours, err)) == 0 && strcmp(pin, ours) != 0)
		rc = error_set(err, E_PEER, "the center answered with another CA than this network's");
	return rc;
}

int identity_take(struct identity *i, struct str json, struct error *err)
{
	yyjson_doc *doc;
	struct str cert = {0}, ca = {0};
	char id[NODE_ID_SIZE] = "", domain[NODE_TEXT_SIZE] = "", center[NODE_ID_SIZE] = "";
	int rc = json_parse(json, &doc, err);
	if (rc < 0)
		return error_prefix(err, "the center's answer is damaged");
	yyjson_val *o = yyjson_doc_get_root(doc);
	if ((rc = take_plain(o, "id", true, id, sizeof(id), err)) < 0 ||
	    (rc = take_plain(o, "domain", true, domain, sizeof(domain), err)) < 0 ||
	    (rc = take_plain(o, "center", false, center, sizeof(center), err)) < 0 ||
	    (rc = json_str(o, "certificate", &cert, err)) < 0 || (rc = json_str(o, "ca", &ca, err)) < 0) {
		error_prefix(err, "the center's answer is damaged");
		goto out;
	}
	if (i->id[0] && (strcmp(i->id, id) != 0 || strcmp(i->domain, domain) != 0)) {
		rc = error_set(err, E_PEER, "the center answered for node %s of %s, not for %s", id, domain, i->id);
		goto out;
	}
	if ((rc = check_ca(i, ca, err)) < 0 || (rc = check_certificate(i, id, domain, cert, err)) < 0)
		goto out;
	str_copy(str_from(id), i->id, sizeof(i->id));
	str_copy(str_from(domain), i->domain, sizeof(i->domain));
	if (center[0] && !i->center_id[0]) /* renewals may be by another center */
		str_copy(str_from(center), i->center_id, sizeof(i->center_id));
	free(i->cert_pem);
	free(i->ca_pem);
	i->cert_pem = str_dup(cert);
	i->ca_pem = str_dup(ca);
out:
	yyjson_doc_free(doc);
	return rc;
}

static int code_of(int status)
{
	switch (status) {
	case 400:
		return E_INVAL;
	case 401:
		return E_AUTH;
	case 403:
		return E_FORBIDDEN;
	case 404:
		return E_NOTFOUND;
	case 409:
		return E_CONFLICT;
	case 429:
		return E_BUSY;
	case 503:
		return E_UNAVAILABLE;
	default:
		return E_PEER;
	}
}

int identity_refusal(int status, struct str body, struct error *err)
{
	yyjson_doc *doc = NULL;
	yyjson_val *error = NULL;
	struct str message = {0};
	if (body.len && json_parse(body, &doc, NULL) == 0 &&
	    json_obj(yyjson_doc_get_root(doc), "error", &error, NULL) == 0 && error)
		json_str(error, "message", &message, NULL);
	int rc = message.len ? error_set(err, code_of(status), "the center refuses: %.*s",
	                                 (int)(message.len < 400 ? message.len : 400), message.base)
	                     : error_set(err, code_of(status),
	                                 "the center answered with status %d: is this the URL of a center?", status);
	yyjson_doc_free(doc);
	return rc;
}

int identity_token_pin(struct str token, char ret_hex[static 65], struct error *err)
{
	struct str rest, pin, extra = {0};
	uint8_t bytes[48];
	size_t len = 0;
	struct str head = str_cut(token, '.', &rest);
	str_cut(rest, '.', &rest);
	str_cut(rest, '.', &rest);
	pin = str_cut(rest, '.', &extra);
	if (!str_equal(head, STR("mdn1")) || pin.len != rest.len ||
	    base64url_decode(pin, bytes, sizeof(bytes), &len) < 0 || len != DIGEST_SIZE)
		return error_set(
		    err, E_AUTH,
		    "this is not a join token: those look like mdn1.ID.SECRET.PIN; make one with `mdn token` at the "
		    "center and copy all of it");
	hex_encode(bytes, DIGEST_SIZE, ret_hex);
	return 0;
}
