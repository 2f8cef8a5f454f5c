/* SPDX-License-Identifier: Apache-2.0 */
/* How: member_new reads the disk and makes the TLS context; everything that talks begins in the first turn of the loop,
 * so that the wiring has its pointers before the first callback. The other files each run one conversation with the
 * center or the nodes. */
#include "serve/member/inside.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <stdlib.h>

/* Renewal sends nothing secret and believes only what is signed for our key, so the center's certificate may be of any
 * age: a center that was off for a week renews its own node, too, through its own port. */
#define RENEW_SKEW_US (3650 * INT64_C(86400) * US_PER_S)

void member_identity_of(const struct member *m, const char *id, struct buf *out)
{
	buf_printf(out, "spiffe://%s/node/%s", m->self.domain, id);
}

int64_t member_jitter(struct member *m, int64_t us)
{
	return us - us / 4 + (int64_t)rng_below(&m->rng, (uint64_t)(us / 2) + 1);
}

static struct center_place configured(const struct member *m)
{
	struct center_place p = {0};
	str_copy(str_from(m->self.center_id), p.id, sizeof(p.id));
	str_copy(str_from(m->self.center_url), p.url, sizeof(p.url));
	return p;
}

/* One after the other is enough of an order: the pauses between tries are random, and only one of them leads. */
struct center_place member_center(const struct member *m, size_t turn)
{
	struct center_place all[1 + CENTERS_MAX];
	size_t count = 0, first = 0;
	all[count++] = configured(m);
	for (size_t i = 0; i < m->roster.node_count && count < 1 + CENTERS_MAX; i++) {
		const struct roster_node *n = &m->roster.nodes[i];
		if (!(n->roles & ROLE_CENTER) || strcmp(n->id, all[0].id) == 0)
			continue;
		str_copy(str_from(n->id), all[count].id, sizeof(all[count].id));
		str_copy(str_from(n->node_url), all[count].url, sizeof(all[count].url));
		count++;
	}
	for (size_t i = 0; i < count; i++)
		if (strcmp(all[i].id, m->center.id) == 0)
			first = i;
	return all[(first + turn) % count];
}

void member_center_now(const struct member *m, struct str *ret_url, struct str *ret_id)
{
	*ret_url = str_from(m->center.url);
	*ret_id = str_from(m->center.id);
}

static struct str text_or(struct str given, const char *fallback)
{
	struct str s = given.len ? given : str_from(fallback);
	return (struct str){str_dup(s), s.len};
}

/* A center shows its CA, too: joiners know nothing of it but the key's hash. */
int member_tls_set(struct member *m, struct error *err)
{
	struct buf chain = {0};
	buf_append_str(&chain, str_from(m->self.cert_pem));
	if (m->roles & ROLE_CENTER)
		buf_append_str(&chain, str_from(m->self.ca_pem));
	struct buf nodes = {0};
	member_identity_of(m, "", &nodes);
	struct tls_options own = {
	    .cert_pem = buf_str(&chain),
	    .key_pem = str_from(m->self.key_pem),
	    .ca_pem = str_from(m->self.ca_pem),
	    .peer = m->roles & ROLE_CENTER ? TLS_PEER_OPTIONAL : TLS_PEER_REQUIRED,
	    .skew_us = CERT_GRACE_US,
	    .skew_for = buf_str(&nodes),
	};
	int rc = m->tls ? tls_context_replace(m->tls, &own, err) : tls_context_new(&own, &m->tls, err);
	buf_fini(&chain);
	buf_fini(&nodes);
	return rc;
}

static int make_tls(struct member *m, struct error *err)
{
	struct tls_options anonymous = {
	    .ca_pem = str_from(m->self.ca_pem), .peer = TLS_PEER_NONE, .skew_us = RENEW_SKEW_US};
	int rc = member_tls_set(m, err);
	if (rc < 0 || (rc = tls_context_new(&anonymous, &m->renew_tls, err)) < 0)
		return rc;
	m->client = http_client_new(m->loop, &(struct http_client_options){.tls = m->tls});
	m->bulk_client = http_client_new(m->loop, &(struct http_client_options){.tls = m->tls, .background = true});
	m->renew_client = http_client_new(m->loop, &(struct http_client_options){.tls = m->renew_tls});
	return 0;
}

static void on_start(void *arg)
{
	struct member *m = arg;
	reports_retarget(m);
	pings_retarget(m);
	documents_deliver_saved(m);
	renew_start(m);
	watch_start(m);
	reports_start(m);
	pings_start(m);
}

static void take_options(struct member *m, const struct member_options *o)
{
	m->data = str_dup(o->data);
	m->control = file_join(o->data, "control");
	m->fill_report = o->fill_report;
	m->on_roster = o->on_roster;
	m->on_assign = o->on_assign;
	m->on_spread = o->on_spread;
	m->on_drain = o->on_drain;
	m->arg = o->arg;
	m->name = text_or(o->name, m->self.name);
	m->site = text_or(o->site, m->self.site);
	m->node_url = text_or(o->node_url, "");
	m->api_url = text_or(o->api_url, "");
	m->roles = o->roles ? o->roles : m->self.roles;
	if (o->center_url.len)
		str_copy(o->center_url, m->self.center_url, sizeof(m->self.center_url));
	m->center = configured(m);
}

int member_new(struct loop *loop, const struct member_options *options, struct member **ret_member, struct error *err)
{
	struct identity self;
	int rc = identity_load(options->data, &self, err);
	if (rc < 0)
		return rc;
	struct member *m = NEW(struct member);
	m->loop = loop;
	m->self = self;
	rng_init(&m->rng, rng_seed());
	take_options(m, options);
	m->start = loop_timer_new(loop, on_start, m);
	renew_init(m);
	watch_init(m);
	pings_init(m);
	if ((rc = make_tls(m, err)) < 0 || (rc = documents_load(m, err)) < 0 || (rc = reports_init(m, err)) < 0) {
		member_free(m);
		return rc;
	}
	loop_timer_start(m->start, 0, 0);
	*ret_member = m;
	return 0;
}

void member_free(struct member *m)
{
	if (!m)
		return;
	loop_timer_free(m->start);
	renew_fini(m);
	watch_fini(m);
	reports_fini(m);
	pings_fini(m);
	documents_free(m);
	http_client_free(m->client);
	http_client_free(m->bulk_client);
	http_client_free(m->renew_client);
	tls_context_free(m->tls);
	tls_context_free(m->renew_tls);
	identity_fini(&m->self);
	free((char *)m->name.base);
	free((char *)m->site.base);
	free((char *)m->node_url.base);
	free((char *)m->api_url.base);
	free(m->control);
	free(m->data);
	free(m);
}

struct tls_context *member_tls(struct member *m)
{
	return m->tls;
}
struct http_client *member_client(struct member *m)
{
	return m->client;
}
struct http_client *member_bulk_client(struct member *m)
{
	return m->bulk_client;
}
struct str member_id(const struct member *m)
{
	return str_from(m->self.id);
}
struct str member_domain(const struct member *m)
{
	return str_from(m->self.domain);
}
const struct roster *member_roster(const struct member *m)
{
	return &m->roster;
}

/* What follows spiffe://DOMAIN/KIND/; false when the identity is none of this kind. */
static bool identity_part(const struct member *m, struct str identity, const char *kind, struct str *ret_part)
{
	struct str rest = {0}, domain = str_from(m->self.domain);
	if (!str_starts(identity, STR("spiffe://")))
		return false;
	rest = (struct str){identity.base + 9, identity.len - 9};
	if (!str_starts(rest, domain) || rest.len <= domain.len || rest.base[domain.len] != '/')
		return false;
	rest = (struct str){rest.base + domain.len + 1, rest.len - domain.len - 1};
	struct str part, said = str_cut(rest, '/', &part);
	if (!str_equal(said, str_from(kind)) || part.len == 0)
		return false;
	*ret_part = part;
	return true;
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(a, b);
}

bool member_is_removed(const struct member *m, struct str identity)
{
	struct str id;
	char text[NODE_ID_SIZE];
	if (m->roster.removed_count == 0 || !identity_part(m, identity, "node", &id) ||
	    !str_copy(id, text, sizeof(text)))
		return false;
	return bsearch(text, m->roster.removed, m->roster.removed_count, sizeof(*m->roster.removed), compare_ids) !=
	       NULL;
}

int member_admit(const struct member *m, struct str identity, struct error *err)
{
	struct str part;
	if (identity.len == 0)
		return error_set(err, E_AUTH,
		                 "this port is for the nodes and operators of %s: show a certificate of that network",
		                 m->self.domain);
	if (!identity_part(m, identity, "node", &part) && !identity_part(m, identity, "operator", &part))
		return error_set(err, E_FORBIDDEN, "this certificate is not of the network %s", m->self.domain);
	if (member_is_removed(m, identity))
		return error_set(err, E_FORBIDDEN, "node " STR_FMT " was removed from this network", STR_ARG(part));
	return 0;
}
