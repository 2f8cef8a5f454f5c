/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever comes in on a port: who may ask, and which room answers. Ports that systemd opened are taken over. */
#include "cli/node_room.h"

#include "base/log.h"
#include "cli/systemd.h"

#include <stdio.h>

static void not_found(struct http_exchange *x)
{
	struct error err = {0};
	struct str path = http_path(x);
	error_set(&err, E_NOTFOUND, "nothing is served at " STR_FMT " here", STR_ARG(path));
	http_respond_error(x, &err);
}

/* spiffe://DOMAIN/operator/NAME, of this network. */
static bool is_operator(const struct node *n, struct str identity)
{
	struct str domain = member_domain(n->member), name, kind, own;
	if (!str_starts(identity, STR("spiffe://")))
		return false;
	own = str_cut((struct str){identity.base + 9, identity.len - 9}, '/', &kind);
	kind = str_cut(kind, '/', &name);
	return str_equal(own, domain) && str_equal(kind, STR("operator")) && name.len > 0 &&
	       !memchr(name.base, '/', name.len);
}

/* Whatever the rooms think of a request, only operators change things and read logs over the node port. */
static bool forbidden_to_nodes(const struct node *n, struct http_exchange *x)
{
	bool reads = str_equal(http_method(x), STR("GET")) || str_equal(http_method(x), STR("HEAD"));
	bool keeps = str_equal(http_path(x), STR("/mdn/v1/gc")) || str_equal(http_path(x), STR("/mdn/v1/fsck"));
	bool changes = str_starts(http_path(x), STR("/mdn/v1/repository/"));
	bool signs_in = str_starts(http_path(x), STR("/mdn/v1/console/"));
	bool own = keeps || changes || signs_in || (str_starts(http_path(x), STR("/v2/")) && !reads) ||
	           str_equal(http_path(x), STR("/mdn/v1/logs"));
	return own && !is_operator(n, http_peer_identity(x));
}

static void on_node_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	struct error err = {0};
	if (n->center && center_handle(n->center, x))
		return;
	if (member_admit(n->member, http_peer_identity(x), &err)) {
		http_respond_error(x, &err);
		return;
	}
	if (forbidden_to_nodes(n, x)) {
		error_set(&err, E_FORBIDDEN, "only an operator may do that");
		http_respond_error(x, &err);
		return;
	}
	if (str_equal(http_path(x), STR("/mdn/v1/logs"))) {
		log_ring_answer(n->log_ring, x);
		return;
	}
	if ((n->console && console_handle_operator(n->console, x)) ||
	    (n->gateway && gateway_handle_node(n->gateway, x)) || peer_handle(n->peer, x) ||
	    keeper_handle(n->keeper, x) || (n->repository && repository_handle(n->repository, x)) ||
	    (n->scheduler && scheduler_handle(n->scheduler, x)))
		return;
	not_found(x);
}

static void on_api_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	if (!gateway_handle_public(n->gateway, x))
		not_found(x);
}

static void on_repository_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	/* What operators do is done over the node port, where they are known. */
	if (str_starts(http_path(x), STR("/mdn/v1/repository/")) || !repository_handle(n->repository, x))
		not_found(x);
}

static void on_scheduler_request(void *arg, struct http_exchange *x)
{
	struct node *n = arg;
	if (!scheduler_handle_public(n->scheduler, x))
		not_found(x);
}

static void on_console_request(void *arg, struct http_exchange *x)
{
	console_handle(((struct node *)arg)->console, x);
}

static int listen_on(struct node *n, const char *key, const char *address, struct tls_context *tls,
                     http_handler *handler, struct http_server **ret_server, struct error *err)
{
	struct http_server_options o = {
	    .address = str_from(address),
	    .inherited_fd = systemd_socket(key),
	    .tls = tls,
	    .handler = handler,
	    .handler_arg = n,
	    .room = key,
	};
	int rc = http_server_new(n->loop, &o, ret_server, err);
	if (rc)
		return error_prefix(err, "%s_listen: ", key);
	struct str at = http_server_address(*ret_server);
	log_info("node", "%s port: " STR_FMT, key, STR_ARG(at));
	return 0;
}

/* The first name it goes by, else the address. */
static void set_console_url(struct node *n)
{
	const struct config *c = n->config;
	struct str at = http_server_address(n->console_server), host = at;
	struct buf url = {0};
	while (host.len && host.base[host.len - 1] != ':')
		host.len--;
	struct str port = {at.base + host.len, at.len - host.len};
	host.len -= host.len > 0;
	if (c->console_hosts.count)
		host = str_from(c->console_hosts.items[0]);
	else if (str_equal(host, STR("0.0.0.0")) || str_equal(host, STR("[::]")))
		host = STR("localhost");
	buf_printf(&url, "%s://" STR_FMT, c->console_tls ? "https" : "http", STR_ARG(host));
	if (!c->console_hosts.count || !memchr(host.base, ':', host.len))
		buf_printf(&url, ":" STR_FMT, STR_ARG(port));
	buf_append(&url, "", 1);
	console_set_url(n->console, url.base, NULL);
	buf_fini(&url);
}

/* A network does not stay without its center because the console's port is taken. */
static void listen_console(struct node *n)
{
	const struct config *c = n->config;
	struct error err = {0};
	int rc = 0;
	if (!c->console_listen[0]) {
		console_set_url(n->console, NULL, "the console is off: set console_listen on the center");
		return;
	}
	if (c->console_tls && !n->api_tls)
		rc = error_set(&err, E_INVAL, "console_tls needs api_tls_cert and api_tls_key");
	if (rc == 0)
		rc = listen_on(n, "console", c->console_listen, c->console_tls ? n->api_tls : NULL, on_console_request,
		               &n->console_server, &err);
	if (rc == 0) {
		set_console_url(n);
		return;
	}
	error_prefix(&err, "there is no console: ");
	console_set_url(n->console, NULL, err.text);
	log_warn("node", "%s", err.text);
}

int node_listen(struct node *n, struct error *err)
{
	const struct config *c = n->config;
	int rc = listen_on(n, "node", c->node_listen, member_tls(n->member), on_node_request, &n->node_server, err);
	if (rc == 0 && n->gateway)
		rc = listen_on(n, "api", c->api_listen, n->api_tls, on_api_request, &n->api_server, err);
	if (rc == 0 && n->repository && c->repository_listen[0])
		rc = listen_on(n, "repository", c->repository_listen, c->repository_tls ? n->api_tls : NULL,
		               on_repository_request, &n->repository_server, err);
	if (rc == 0 && n->scheduler && c->scheduler_listen[0])
		rc = listen_on(n, "scheduler", c->scheduler_listen, NULL, on_scheduler_request, &n->scheduler_server,
		               err);
	if (rc == 0 && n->console)
		listen_console(n);
	return rc;
}
