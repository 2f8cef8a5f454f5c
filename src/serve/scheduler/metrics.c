/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics in Prometheus' text format 0.0.4. */
#include "serve/scheduler/scheduler_internal.h"

#include <stdio.h>

static const char *const rcode_names[24] = {
    [0] = "NOERROR", [1] = "FORMERR", [2] = "SERVFAIL", [3] = "NXDOMAIN",
    [4] = "NOTIMP",  [5] = "REFUSED", [16] = "BADVERS",
};

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void labelled(struct buf *out, const char *name, const char *label, const char *value, uint64_t number)
{
	buf_printf(out, "%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)number);
}

static void put_nodes(const struct scheduler *s, struct buf *out)
{
	size_t counts[3] = {0};
	int64_t now = loop_now_us(s->loop);
	for (size_t i = 0; i < node_map_count(s->map); i++)
		counts[node_map_health(s->map, node_map_at(s->map, i), now)]++;
	head(out, "mdn_scheduler_nodes", "gauge", "Nodes in the map by health.");
	for (int h = NODE_UP; h <= NODE_DOWN; h++)
		labelled(out, "mdn_scheduler_nodes", "health", node_health_name((enum node_health)h), counts[h]);
	head(out, "mdn_scheduler_map_version", "counter", "Version of the map.");
	buf_printf(out, "mdn_scheduler_map_version %llu\n", (unsigned long long)node_map_version(s->map));
	head(out, "mdn_scheduler_watchers", "gauge", "Open streams of the map.");
	buf_printf(out, "mdn_scheduler_watchers %zu\n", watch_count(s->watch));
}

static void put_decisions(const struct scheduler *s, struct buf *out)
{
	const struct scheduler_counts *c = &s->counts;
	uint64_t decided = c->routes_answered + c->routes_not_found + c->routes_unavailable;
	head(out, "mdn_scheduler_reports_total", "counter", "Node reports by what became of them.");
	labelled(out, "mdn_scheduler_reports_total", "result", "taken", c->reports_taken);
	labelled(out, "mdn_scheduler_reports_total", "result", "old", c->reports_old);
	labelled(out, "mdn_scheduler_reports_total", "result", "refused", c->reports_refused);
	head(out, "mdn_scheduler_routes_total", "counter", "Answers of /v1/route.");
	labelled(out, "mdn_scheduler_routes_total", "result", "answered", c->routes_answered);
	labelled(out, "mdn_scheduler_routes_total", "result", "not_found", c->routes_not_found);
	labelled(out, "mdn_scheduler_routes_total", "result", "unavailable", c->routes_unavailable);
	labelled(out, "mdn_scheduler_routes_total", "result", "invalid", c->routes_invalid);
	head(out, "mdn_scheduler_decision_seconds", "summary", "Time to decide a route.");
	buf_printf(out, "mdn_scheduler_decision_seconds_sum %.6f\n", (double)c->decide_us / 1e6);
	buf_printf(out, "mdn_scheduler_decision_seconds_count %llu\n", (unsigned long long)decided);
	head(out, "mdn_scheduler_dispatches", "gauge", "Answered routes that no report has seen yet.");
	buf_printf(out, "mdn_scheduler_dispatches %zu\n", ledger_count(s->ledger));
}

static void put_mapping(const struct scheduler *s, struct buf *out)
{
	struct mapping_counts c;
	mapping_counts(s->mapping, &c);
	head(out, "mdn_client_map_number", "counter", "Number of the map of clients.");
	buf_printf(out, "mdn_client_map_number %llu\n", (unsigned long long)c.number);
	head(out, "mdn_client_map_prefixes", "gauge", "Prefixes of clients by what the map says of them.");
	labelled(out, "mdn_client_map_prefixes", "is", "known", c.prefixes);
	labelled(out, "mdn_client_map_prefixes", "is", "named", c.named);
	head(out, "mdn_client_map_turned_away_total", "counter", "Lines of demand for which there was no room.");
	buf_printf(out, "mdn_client_map_turned_away_total %llu\n", (unsigned long long)c.turned_away);
	head(out, "mdn_client_map_demand", "gauge", "Requests in work at a time, as edges tell.");
	buf_printf(out, "mdn_client_map_demand %.3f\n", c.demand);
	head(out, "mdn_client_map_capacity", "gauge", "Requests in work at a time that sites have room for.");
	buf_printf(out, "mdn_client_map_capacity %.3f\n", c.capacity);
	head(out, "mdn_client_map_moved_total", "counter",
	     "Requests in work at a time that were sent to another site.");
	buf_printf(out, "mdn_client_map_moved_total %.3f\n", c.moved);
	head(out, "mdn_client_map_round_seconds", "gauge", "Time to make the last map of clients.");
	buf_printf(out, "mdn_client_map_round_seconds %.6f\n", (double)c.took_us / 1e6);
}

static void put_dns(const struct scheduler *s, struct buf *out)
{
	struct dns_totals totals, *c = &totals;
	dns_server_totals(s->dns, c);
	head(out, "mdn_dns_queries_total", "counter", "DNS queries by transport.");
	labelled(out, "mdn_dns_queries_total", "transport", "udp", c->udp);
	labelled(out, "mdn_dns_queries_total", "transport", "tcp", c->tcp);
	head(out, "mdn_dns_dropped_total", "counter", "DNS packets that got no reply.");
	buf_printf(out, "mdn_dns_dropped_total %llu\n", (unsigned long long)c->dropped);
	head(out, "mdn_dns_replies_total", "counter", "DNS replies by rcode.");
	for (size_t i = 0; i < sizeof(rcode_names) / sizeof(rcode_names[0]); i++) {
		if (rcode_names[i])
			labelled(out, "mdn_dns_replies_total", "rcode", rcode_names[i], c->rcodes[i]);
	}
	head(out, "mdn_dns_limited_total", "counter", "DNS replies over dns_rate_limit by what became of them.");
	labelled(out, "mdn_dns_limited_total", "result", "dropped", c->limited - c->slipped);
	labelled(out, "mdn_dns_limited_total", "result", "truncated", c->slipped);
	head(out, "mdn_dns_cookies_total", "counter", "DNS queries with a good cookie.");
	buf_printf(out, "mdn_dns_cookies_total %llu\n", (unsigned long long)c->cookies_good);
	head(out, "mdn_dns_tcp_connections", "gauge", "Open DNS connections.");
	buf_printf(out, "mdn_dns_tcp_connections %zu\n", dns_server_conns(s->dns));
}

void metrics_handle(const struct scheduler *s, struct http_exchange *x)
{
	struct buf out = {0};
	put_nodes(s, &out);
	put_decisions(s, &out);
	put_mapping(s, &out);
	if (s->dns)
		put_dns(s, &out);
	http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", buf_str(&out));
	buf_fini(&out);
}
