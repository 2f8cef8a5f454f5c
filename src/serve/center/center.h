/* SPDX-License-Identifier: Apache-2.0 */
/* center.h - the control plane: CA and join tokens, roster, placement, progress, API keys.
 *
 * Owns its state (store/state) and the CA key in DATA/ca (mode 0600). With etcd several centers share that state: one
 * leads, the others answer 503 and say who does; one that lost etcd shows what it knew last. Loop thread. Wire:
 * docs/wire.md, "Center".
 */
#ifndef MDN_SERVE_CENTER_H
#define MDN_SERVE_CENTER_H

#include "core/report.h"
#include "net/http.h"
#include "store/etcd.h"
#include "store/version.h"

struct center;

/* `mdn init`: makes CA, state, the center's own node identity in DATA/identity, and an operator identity in
 * OPERATOR_DIR (cert.pem, key.pem, ca.pem, center.url, center.id: whom to meet there). E_CONFLICT when DATA already
 * holds a network. */
int center_init(struct str data, struct str domain, struct str center_url, struct str name, struct str site,
                uint32_t roles, struct str operator_dir, struct error *err);

/* Another operator identity, on the center's own machine (the CA key is there). E_CONFLICT when OPERATOR_DIR holds one.
 */
int center_operator_new(struct str data, struct str name, struct str operator_dir, struct error *err);

struct center_options {
	struct str data, domain;
	int64_t token_life_us, cert_life_us;
	struct http_client *client; /* to reach repositories for the catalog feed */
	struct str node_url;        /* others reach this node by; only with etcd */
	/* Several centers share the state there and one of them leads; NULL: DATA/center.db. Its texts live as long as
	 * the center. */
	const struct etcd_options *etcd;
};
int center_new(struct loop *loop, const struct center_options *options, struct center **ret_center, struct error *err);
void center_free(struct center *c); /* after the servers that call it, before the client it uses */
/* Also what anonymous peers may ask (join, renew), so its node port uses TLS_PEER_OPTIONAL. A report with the query
 * ?to=scheduler is left to the scheduler of a node that is both. */
bool center_handle(struct center *c, struct http_exchange *x);
/* What operators may see of nodes, models, roll-outs and limits, for a caller that the wiring has admitted. */
bool center_read(struct center *c, struct http_exchange *x);
/* A node was removed: the wiring cuts its live connections. */
void center_on_removed(struct center *c, void (*fn)(void *arg, struct str identity), void *arg);
void center_set_lives(struct center *c, int64_t token_life_us, int64_t cert_life_us);

#endif
