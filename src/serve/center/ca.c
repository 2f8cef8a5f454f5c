/* SPDX-License-Identifier: Apache-2.0 */
/* The CA of a network and what `mdn init` makes.
 *
 * The commit point of an init is one rename, DATA/ca.tmp to DATA/ca; what still has to move out of it lies in
 * DATA/ca/init:
 *
 *   ca/cert.pem  ca/key.pem  ca/self.json     stay (a further center has copies)
 *   ca/init/identity/...                      is renamed to DATA/identity
 *   OPERATOR_DIR/...                          is written, key last
 *   ca/init                                   is removed: the network is whole
 *
 * While ca/init exists the network was never used (center_new refuses it), so an init that finds one throws it away and
 * starts anew. DATA/identity and OPERATOR_DIR are only thrown away when they are known to be of that same attempt.
 */
#include "serve/center/inside.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "net/x509.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CA_LIFE_US (10 * 365 * INT64_C(86400) * US_PER_S)
#define OPERATOR_LIFE_US (365 * INT64_C(86400) * US_PER_S)
#define FIRST_LIFE_US (3600 * US_PER_S) /* the center's own; renewed like any other */
#define PEM_MAX 65536

struct paths {
	char *ca, *ca_tmp, *ca_init, *ca_init_identity, *identity;
};

static void paths_init(struct paths *p, struct str data)
{
	p->ca = file_join(data, "ca");
	p->ca_tmp = file_join(data, "ca.tmp");
	p->ca_init = file_join(data, "ca/init");
	p->ca_init_identity = file_join(data, "ca/init/identity");
	p->identity = file_join(data, "identity");
}

static void paths_fini(struct paths *p)
{
	free(p->ca);
	free(p->ca_tmp);
	free(p->ca_init);
	free(p->ca_init_identity);
	free(p->identity);
}

static int write_in(const char *folder, const char *name, unsigned mode, struct str content, struct error *err)
{
	char *path = file_join(str_from(folder), name);
	int rc = file_write(path, mode, content, err);
	free(path);
	return rc;
}

static int read_text(struct str folder, const char *name, char **ret_text, struct error *err)
{
	struct buf b = {0};
	char *path = file_join(folder, name);
	int rc = file_read(path, PEM_MAX, &b, err);
	free(path);
	if (rc == 0)
		*ret_text = str_dup(buf_str(&b));
	if (b.base)
		explicit_bzero(b.base, b.len);
	buf_fini(&b);
	return rc;
}

void ca_fini(struct ca *ca)
{
	if (ca->key_pem)
		explicit_bzero(ca->key_pem, strlen(ca->key_pem));
	free(ca->key_pem);
	free(ca->cert_pem);
	*ca = (struct ca){0};
}

/* The host of an https URL, as the SAN of the center's certificate: joiners know the center by nothing else. */
static void url_host(const char *url, char *ret_host, size_t size, bool *ret_is_ip)
{
	struct str rest = str_from(url);
	rest.base += strlen("https://");
	rest.len -= strlen("https://");
	struct str host;
	if (rest.len && rest.base[0] == '[') {
		struct str after;
		rest.base++, rest.len--;
		host = str_cut(rest, ']', &after);
	} else {
		struct str after;
		host = str_cut(rest, '/', &after);
		host = str_cut(host, ':', &after);
	}
	str_copy(host, ret_host, size);
	struct ip ip;
	*ret_is_ip = ip_parse(host, &ip) == 0;
}

static int issue(const struct ca *ca, const char *identity, struct str csr, const char *center_url, int64_t life_us,
                 char **ret_cert, struct error *err)
{
	char host[NODE_URL_SIZE] = "";
	bool is_ip = false;
	if (center_url)
		url_host(center_url, host, sizeof(host), &is_ip);
	int64_t now = clock_wall_us();
	struct x509_issue what = {
	    .ca_cert_pem = str_from(ca->cert_pem),
	    .ca_key_pem = str_from(ca->key_pem),
	    .csr_pem = csr,
	    .identity = str_from(identity),
	    .dns_name = is_ip ? (struct str){0} : str_from(host),
	    .ip = is_ip ? str_from(host) : (struct str){0},
	    .not_before_wall_us = now - CERT_BACKDATE_US,
	    .not_after_wall_us = now + life_us,
	};
	return x509_issue(&what, ret_cert, err);
}

int ca_issue_node(struct center *c, const char *id, struct str csr, char **ret_cert, int64_t *ret_expires_wall_us,
                  struct error *err)
{
	struct buf identity = {0};
	center_identity(c, "node", id, &identity);
	const struct registered *r = registry_find(c, str_from(id));
	const char *url = strcmp(id, c->self.founder) == 0 ? c->self.center_url : NULL;
	if (!url && r && (r->roles & ROLE_CENTER) && str_starts(str_from(r->node_url), STR("https://")))
		url = r->node_url; /* nodes may join there, too */
	int64_t expires = clock_wall_us() + c->cert_life_us;
	int rc = issue(&c->ca, identity.base, csr, url, c->cert_life_us, ret_cert, err);
	if (rc == 0)
		*ret_expires_wall_us = expires;
	buf_fini(&identity);
	return rc;
}

/* ---- reading ---------------------------------------------------------------------------------- */

static int self_parse(struct str text, struct self *ret_self, struct error *err)
{
	yyjson_doc *doc;
	int rc = json_parse(text, &doc, err);
	if (rc < 0)
		return rc;
	yyjson_val *o = yyjson_doc_get_root(doc);
	struct self s = {0};
	struct str id = {0}, name = {0}, site = {0}, pin = {0}, url = {0}, domain = {0}, roles = {0}, founder = {0};
	if ((rc = json_str(o, "id", &id, err)) < 0 || (rc = json_str(o, "name", &name, err)) < 0 ||
	    (rc = json_str(o, "site", &site, err)) < 0 || (rc = json_str(o, "pin", &pin, err)) < 0 ||
	    (rc = json_str(o, "center_url", &url, err)) < 0 || (rc = json_str(o, "domain", &domain, err)) < 0 ||
	    (rc = json_str(o, "center", &founder, err)) < 0 || (rc = json_str(o, "roles", &roles, err)) < 0 ||
	    (rc = node_roles_parse(roles, &s.roles, err)) < 0)
		goto out;
	if (!str_copy(id, s.id, sizeof(s.id)) || !str_copy(name, s.name, sizeof(s.name)) ||
	    !str_copy(site, s.site, sizeof(s.site)) || !str_copy(pin, s.pin, sizeof(s.pin)) ||
	    !str_copy(url, s.center_url, sizeof(s.center_url)) || !str_copy(domain, s.domain, sizeof(s.domain)) ||
	    !str_copy(founder.len ? founder : id, s.founder, sizeof(s.founder)) || id.len == 0 || domain.len == 0 ||
	    !str_starts(url, STR("https://")))
		rc = error_set(err, E_CORRUPT,
		               "self.json in the center's ca folder is damaged: restore it from a backup");
	else
		*ret_self = s;
out:
	yyjson_doc_free(doc);
	return rc;
}

/* Of a center that was made by copying ca/ to a node that joined, the node's own identity is the truth. */
static int self_load(const struct paths *p, struct self *ret_self, struct error *err)
{
	char *made = NULL, *joined = NULL;
	struct self first = {0}, own = {0};
	int rc = 0;
	if (read_text(str_from(p->ca), "self.json", &made, err) == 0)
		rc = self_parse(str_from(made), &first, err);
	if (rc == 0 && read_text(str_from(p->identity), "node.json", &joined, made ? NULL : err) == 0)
		rc = self_parse(str_from(joined), &own, err);
	if (rc == 0 && !made && !joined)
		rc = err ? err->code : E_IO;
	if (rc == 0)
		*ret_self = made && (!joined || strcmp(first.id, own.id) == 0) ? first : own;
	free(made);
	free(joined);
	return rc;
}

int ca_load(struct str data, struct ca *ret_ca, struct self *ret_self, struct error *err)
{
	struct paths p;
	paths_init(&p, data);
	struct ca ca = {0};
	int rc;
	if (!file_exists(p.ca))
		rc = error_set(err, E_NOTFOUND, STR_FMT " holds no network yet: run `mdn init` first", STR_ARG(data));
	else if (file_exists(p.ca_init))
		rc = error_set(err, E_CONFLICT, "`mdn init` in " STR_FMT " was interrupted: run it again",
		               STR_ARG(data));
	else if ((rc = read_text(str_from(p.ca), "cert.pem", &ca.cert_pem, err)) == 0 &&
	         (rc = read_text(str_from(p.ca), "key.pem", &ca.key_pem, err)) == 0 &&
	         (rc = x509_cert_pin(str_from(ca.cert_pem), ca.pin, err)) == 0)
		rc = self_load(&p, ret_self, err);
	paths_fini(&p);
	if (rc < 0)
		ca_fini(&ca);
	else
		*ret_ca = ca;
	return rc;
}

/* ---- init ------------------------------------------------------------------------------------- */

static int check_names(struct str domain, struct str url, struct str name, struct str site, uint32_t roles,
                       struct error *err)
{
	char scratch[NODE_TEXT_SIZE];
	int rc;
	if ((rc = center_name(name, "the node's name", scratch, sizeof(scratch), err)) < 0 ||
	    (rc = center_name(site, "the site", scratch, sizeof(scratch), err)) < 0)
		return rc;
	bool fine = domain.len > 0 && domain.len < NODE_TEXT_SIZE;
	for (size_t i = 0; fine && i < domain.len; i++)
		fine = (domain.base[i] >= 'a' && domain.base[i] <= 'z') ||
		       (domain.base[i] >= '0' && domain.base[i] <= '9') || domain.base[i] == '.' ||
		       domain.base[i] == '-' || domain.base[i] == '_';
	if (!fine)
		return error_set(err, E_INVAL, "the domain wants lower-case letters, digits, '.', '-' and '_' only");
	if (!str_starts(url, STR("https://")) || url.len <= strlen("https://") || url.len >= NODE_URL_SIZE)
		return error_set(err, E_INVAL, "the center's URL must be https://HOST:PORT");
	if (!(roles & ROLE_CENTER))
		return error_set(err, E_INVAL, "the first node of a network needs the role center");
	return 0;
}

static bool same_file(const char *folder_a, const char *name_a, const char *folder_b, const char *name_b)
{
	char *a = NULL, *b = NULL;
	bool same = read_text(str_from(folder_a), name_a, &a, NULL) == 0 &&
	            read_text(str_from(folder_b), name_b, &b, NULL) == 0 && strcmp(a, b) == 0;
	free(a);
	free(b);
	return same;
}

static const char *const operator_files[] = {"key.pem", "cert.pem", "center.id", "center.url", "ca.pem"};

/* An init that was killed: its traces go, and only its. */
static int discard_half(const struct paths *p, const char *operator_dir, struct error *err)
{
	int rc = folder_remove(p->ca_tmp, err);
	if (rc < 0 || !file_exists(p->ca_init))
		return rc;
	if (!file_exists(p->ca_init_identity))
		rc = folder_remove(p->identity, err);
	if (rc == 0 && same_file(p->ca, "cert.pem", operator_dir, "ca.pem"))
		for (size_t i = 0; i < sizeof(operator_files) / sizeof(*operator_files); i++) {
			char *path = file_join(str_from(operator_dir), operator_files[i]);
			unlink(path);
			free(path);
		}
	return rc < 0 ? rc : folder_remove(p->ca, err);
}

static int check_free(const struct paths *p, const char *operator_dir, struct error *err)
{
	char *key = file_join(str_from(operator_dir), "key.pem");
	int rc = 0;
	if (file_exists(p->ca))
		rc = error_set(err, E_CONFLICT, "%s exists: this folder already holds a network", p->ca);
	else if (file_exists(p->identity))
		rc = error_set(err, E_CONFLICT, "%s exists: this node already belongs to a network", p->identity);
	else if (file_exists(key))
		rc = error_set(err, E_CONFLICT,
		               "%s exists: it is the operator key of another network; move it away first", key);
	free(key);
	return rc;
}

/* A key and a certificate for it. */
static int make_identity(const struct ca *ca, const char *kind, const char *id, struct str domain,
                         const char *center_url, int64_t life_us, char **ret_key, char **ret_cert,
                         char ret_pin[static 65], struct error *err)
{
	char *key = NULL, *csr = NULL;
	struct buf identity = {0};
	buf_printf(&identity, "spiffe://" STR_FMT "/%s/%s", STR_ARG(domain), kind, id);
	int rc;
	if ((rc = x509_key_new(&key, err)) == 0 &&
	    (rc = x509_request_new(str_from(key), str_from(id), &csr, err)) == 0 &&
	    (rc = x509_request_pin(str_from(csr), ret_pin, err)) == 0 &&
	    (rc = issue(ca, identity.base, str_from(csr), center_url, life_us, ret_cert, err)) == 0)
		*ret_key = key;
	else
		free(key);
	free(csr);
	buf_fini(&identity);
	return rc;
}

static int write_operator(const struct ca *ca, const struct self *self, const char *name, const char *folder,
                          struct error *err)
{
	char *key = NULL, *cert = NULL, pin[65];
	struct buf center = {0};
	buf_printf(&center, "spiffe://%s/node/%s", self->domain, self->founder[0] ? self->founder : self->id);
	int rc =
	    make_identity(ca, "operator", name, str_from(self->domain), NULL, OPERATOR_LIFE_US, &key, &cert, pin, err);
	if (rc == 0 && (rc = folder_make(folder, 0700, err)) == 0 &&
	    (rc = write_in(folder, "ca.pem", 0644, str_from(ca->cert_pem), err)) == 0 &&
	    (rc = write_in(folder, "center.url", 0644, str_from(self->center_url), err)) == 0 &&
	    (rc = write_in(folder, "center.id", 0644, buf_str(&center), err)) == 0 &&
	    (rc = write_in(folder, "cert.pem", 0644, str_from(cert), err)) == 0)
		rc = write_in(folder, "key.pem", 0600, str_from(key), err);
	buf_fini(&center);
	free(key);
	free(cert);
	return rc;
}

static void self_format(const struct self *s, bool with_pin, struct buf *out)
{
	struct buf roles = {0};
	node_roles_format(s->roles, &roles);
	buf_printf(out, "{\"id\":\"%s\",\"domain\":\"%s\",\"center_url\":", s->id, s->domain);
	buf_append_json(out, str_from(s->center_url));
	/* For the member of this node, the center is this node. */
	buf_printf(out, ",\"center\":\"%s\",\"name\":\"%s\",\"site\":\"%s\",\"roles\":\"" STR_FMT "\"", s->id, s->name,
	           s->site, STR_ARG(buf_str(&roles)));
	if (with_pin)
		buf_printf(out, ",\"pin\":\"%s\"", s->pin);
	buf_append_str(out, STR("}\n"));
	buf_fini(&roles);
}

static int write_identity(const struct ca *ca, struct self *s, const char *folder, struct error *err)
{
	char *key = NULL, *cert = NULL;
	struct buf node = {0};
	int rc = make_identity(ca, "node", s->id, str_from(s->domain), s->center_url, FIRST_LIFE_US, &key, &cert,
	                       s->pin, err);
	self_format(s, false, &node);
	if (rc == 0 && (rc = folder_make(folder, 0700, err)) == 0 &&
	    (rc = write_in(folder, "key.pem", 0600, str_from(key), err)) == 0 &&
	    (rc = write_in(folder, "cert.pem", 0644, str_from(cert), err)) == 0 &&
	    (rc = write_in(folder, "ca.pem", 0644, str_from(ca->cert_pem), err)) == 0)
		rc = write_in(folder, "node.json", 0644, buf_str(&node), err);
	free(key);
	free(cert);
	buf_fini(&node);
	return rc;
}

static int fill_tmp(const struct paths *p, struct ca *ca, struct self *s, struct error *err)
{
	char *identity = file_join(str_from(p->ca_tmp), "init/identity");
	struct buf self = {0};
	int rc;
	if ((rc = x509_ca_new(str_from(s->domain), clock_wall_us() - CERT_BACKDATE_US, CA_LIFE_US, &ca->cert_pem,
	                      &ca->key_pem, err)) == 0 &&
	    (rc = folder_make(p->ca_tmp, 0700, err)) == 0 &&
	    (rc = write_in(p->ca_tmp, "key.pem", 0600, str_from(ca->key_pem), err)) == 0 &&
	    (rc = write_in(p->ca_tmp, "cert.pem", 0644, str_from(ca->cert_pem), err)) == 0 &&
	    (rc = write_identity(ca, s, identity, err)) == 0) {
		self_format(s, true, &self);
		rc = write_in(p->ca_tmp, "self.json", 0644, buf_str(&self), err);
	}
	buf_fini(&self);
	free(identity);
	return rc;
}

static int rename_folder(const char *from, const char *to, struct str data, struct error *err)
{
	char *folder = str_dup(data);
	int rc = rename(from, to) < 0 ? error_errno(err, errno, "cannot rename %s to %s", from, to)
	                              : folder_sync(folder, err);
	free(folder);
	return rc;
}

int center_init(struct str data, struct str domain, struct str center_url, struct str name, struct str site,
                uint32_t roles, struct str operator_dir, struct error *err)
{
	int rc = check_names(domain, center_url, name, site, roles, err);
	if (rc < 0)
		return rc;
	struct self s = {.roles = roles};
	struct ca ca = {0};
	struct paths p;
	uint8_t random[8];
	char hex[17], *operators = str_dup(operator_dir), *folder = str_dup(data);
	rng_secret(random, sizeof(random));
	hex_encode(random, sizeof(random), hex);
	snprintf(s.id, sizeof(s.id), "n-%s", hex);
	str_copy(name, s.name, sizeof(s.name));
	str_copy(site, s.site, sizeof(s.site));
	str_copy(domain, s.domain, sizeof(s.domain));
	str_copy(center_url, s.center_url, sizeof(s.center_url));
	paths_init(&p, data);

	if ((rc = folder_make(folder, 0700, err)) == 0 && (rc = discard_half(&p, operators, err)) == 0 &&
	    (rc = check_free(&p, operators, err)) == 0 && (rc = fill_tmp(&p, &ca, &s, err)) == 0 &&
	    (rc = rename_folder(p.ca_tmp, p.ca, data, err)) == 0 &&
	    (rc = rename_folder(p.ca_init_identity, p.identity, data, err)) == 0 &&
	    (rc = write_operator(&ca, &s, "admin", operators, err)) == 0)
		rc = folder_remove(p.ca_init, err);
	ca_fini(&ca);
	paths_fini(&p);
	free(operators);
	free(folder);
	return rc;
}

int center_operator_new(struct str data, struct str name, struct str operator_dir, struct error *err)
{
	struct ca ca = {0};
	struct self self;
	char text[NODE_TEXT_SIZE], *folder = str_dup(operator_dir), *key = file_join(operator_dir, "key.pem");
	int rc = center_name(name, "the operator's name", text, sizeof(text), err);
	if (rc == 0 && file_exists(key))
		rc = error_set(err, E_CONFLICT, "%s exists: there is an operator already; move it away first", key);
	if (rc == 0 && (rc = ca_load(data, &ca, &self, err)) == 0)
		rc = write_operator(&ca, &self, text, folder, err);
	ca_fini(&ca);
	free(folder);
	free(key);
	return rc;
}
