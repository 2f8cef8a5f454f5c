/* SPDX-License-Identifier: Apache-2.0 */
/* How: keys are looked up in a ring (core/key_ring); what looks like a JWT goes to tokens.c. Nodes prove themselves by
 * certificate: the SAN URI must be of this domain and the node must not have been removed. Words never repeat what the
 * client sent.
 */
#include "serve/gateway/internal.h"

#include <stdlib.h>

void gateway_set_keys(struct gateway *g, const struct key_ring_key *keys, size_t count)
{
	if (count > LIMIT_API_KEYS) {
		log_error(ROOM, "%zu API keys; only the first %d are used", count, LIMIT_API_KEYS);
		count = LIMIT_API_KEYS;
	}
	key_ring_set(&g->keys, keys, count);
	quotas_set_accounts(g);
}

void gateway_set_teams(struct gateway *g, const struct gateway_team *teams, size_t count)
{
	g->teams = mem_resize(g->teams, count + 1, sizeof(*teams));
	if (count)
		memcpy(g->teams, teams, count * sizeof(*teams));
	g->team_count = count;
}

void gateway_set_center(struct gateway *g, struct str node_url, struct str id, size_t edges)
{
	quotas_set_center(g->quotas, node_url, id, edges);
}

static int refuse(struct fault *fault, const char *words)
{
	fault->status = 401;
	fault->code = "invalid_api_key";
	return error_set(&fault->err, E_INVAL, "%s", words); /* OpenAI's type of it is invalid_request_error */
}

static int refuse_token(struct fault *fault)
{
	if (fault->err.code != E_AUTH) { /* it could not be checked */
		fault->retry_after_s = 2;
		return fault->err.code;
	}
	fault->code = "invalid_token";
	return error_prefix(&fault->err, "Incorrect token provided: ");
}

int keys_check(struct gateway *g, struct http_exchange *x, char ret_tenant[static TOKEN_TENANT_SIZE],
               struct fault *fault)
{
	struct str given, key;

	strcpy(ret_tenant, "anonymous");
	bool has = http_header(x, "authorization", &given) && given.len > 7 &&
	           str_equal_nocase((struct str){given.base, 7}, STR("bearer "));
	key = has ? str_trim((struct str){given.base + 7, given.len - 7}) : STR("");
	if (!has && http_header(x, "x-api-key", &given)) { /* Anthropic's clients */
		has = given.len > 0;
		key = str_trim(given);
	}
	if (has && key_ring_find(&g->keys, key, ret_tenant))
		return 0;
	bool is_token = has && g->tokens.source && jwt_is_one(key);
	if (is_token && tokens_check(&g->tokens, key, ret_tenant, &fault->err) == 0)
		return 0;
	if (g->open)
		return 0;
	if (is_token)
		return refuse_token(fault);
	if (!has)
		return refuse(fault, "You didn't provide an API key. Send it in an Authorization header: Bearer "
		                     "mdn-... (or as x-api-key)");
	return refuse(fault, "Incorrect API key provided. Ask whoever runs this network for one.");
}

int keys_check_node(const struct gateway *g, struct http_exchange *x, struct str *ret_id, struct error *err)
{
	struct str identity = http_peer_identity(x), rest = identity, domain = str_from(g->domain);

	*ret_id = STR("");
	if (identity.len == 0) {
		if (g->plain_hops)
			return 0;
		return error_set(err, E_FORBIDDEN,
		                 "this port is for nodes of the network: a node certificate is needed");
	}
	if (!str_starts(rest, STR("spiffe://")))
		return error_set(err, E_FORBIDDEN, "the certificate names no identity of this network");
	rest = (struct str){rest.base + 9, rest.len - 9};
	if (!str_starts(rest, domain) || rest.len <= domain.len + 6 || memcmp(rest.base + domain.len, "/node/", 6) != 0)
		return error_set(err, E_FORBIDDEN, "the certificate is not that of a node of %s", g->domain);
	*ret_id = (struct str){rest.base + domain.len + 6, rest.len - domain.len - 6};
	if (ret_id->len >= NODE_ID_SIZE || map_is_removed(g, *ret_id))
		return error_set(err, E_FORBIDDEN, "this node was removed from the network");
	return 0;
}
