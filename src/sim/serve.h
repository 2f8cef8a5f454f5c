/* SPDX-License-Identifier: Apache-2.0 */
/* serve.h - a scenario of users, sites and engines, played in virtual time with the deciding code that ships.
 *
 * Real: node map and reports (with `seen`), ledger, score, DNS answers, zones, admission. A model: users, lengths,
 * engines, resolvers, links without loss. Two ways with the same scenario:
 *
 *   requests  every request by itself: arrival, name, gateway, decision, queue, prefill, tokens
 *   flows     many at once: a city's requests for a model in one step go out in parcels; each parcel is one decision of
 *             the same score over the same map, in which a site's nodes are one of average load. Lengths and waits are
 *             spread over quantiles. For what has too many requests to play one by one.
 *
 * In both, a site has one gateway, and its gateways one ledger. Pure but for the clock that times decisions.
 */
#ifndef MDN_SIM_SERVE_H
#define MDN_SIM_SERVE_H

#include "sim/figures.h"

/* The world that a policy runs in: single_pool has all nodes at a few addresses. */
void sim_serve_world(const struct scenario *s, enum sim_policy policy, struct sim_world *ret_world);
/* ret_figures: figures_fini by the caller. */
void sim_serve(const struct scenario *s, enum sim_policy policy, struct figures *ret_figures);
void sim_serve_requests(const struct sim_world *w, enum sim_policy policy, struct figures *f);
void sim_serve_flows(const struct sim_world *w, enum sim_policy policy, struct figures *f);

#endif
