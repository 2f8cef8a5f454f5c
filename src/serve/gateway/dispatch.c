/* SPDX-License-Identifier: Apache-2.0 */
/* How: a request is read whole (bounded), parsed once, and sent to the node that core/score names: here or over there.
 * Until its first token leaves, a try that fails is repeated elsewhere and the client sees nothing of it; after that
 * another node goes on with what was said (resume.h), or the answer is ended honestly. Requests over the node port are
 * answered here or refused, never sent on, so that no loop can form. The answer keeps the body as received, to forward
 * it byte for byte.
 */
#include "serve/gateway/fields.h"
#include "serve/gateway/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define RTT_EVERY 8 /* requests: so seldom is the kernel asked how far a client is */
#define DEADLINE_MOST_US (3600 * US_PER_S)

/* ---- identities of a request ------------------------------------------------------------------------ */

static void hex_random(struct rng *rng, char *to, size_t digits)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < digits; i += 16) {
		uint64_t bits = rng_next(rng);
		for (size_t j = i; j < i + 16 && j < digits; j++, bits >>= 4)
			to[j] = hex[bits & 15];
	}
	to[digits] = '\0';
}

/* Every request passes here several times; snprintf takes a fifth of its instructions otherwise. */
void join(char *to, size_t size, const char *const *parts)
{
	size_t at = 0;

	for (; *parts; parts++) {
		size_t len = strlen(*parts);
		if (len >= size - at)
			len = size - at - 1;
		memcpy(to + at, *parts, len);
		at += len;
	}
	to[at] = '\0';
}

bool id_is_sane(struct str id)
{
	if (id.len == 0 || id.len > 128)
		return false;
	for (size_t i = 0; i < id.len; i++)
		if ((unsigned char)id.base[i] <= ' ' || (unsigned char)id.base[i] > '~' || strchr("\"\\<>", id.base[i]))
			return false;
	return true;
}

static bool is_hex(const char *text, size_t count)
{
	bool zero = true;

	for (size_t i = 0; i < count; i++) {
		if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
			return false;
		zero = zero && text[i] == '0';
	}
	return !zero;
}

/* W3C Trace Context, section 3.2: 00-TRACE(32)-PARENT(16)-FLAGS(2). The trace goes on with a span of ours. */
static void take_trace(struct request *r)
{
	struct str given;
	char trace[33], span[17], flags[3] = "01";

	hex_random(&r->g->rng, span, 16);
	if (http_header(r->x, "traceparent", &given) && given.len >= 55 && given.base[2] == '-' &&
	    given.base[35] == '-' && given.base[52] == '-' && is_hex(given.base + 3, 32) &&
	    is_hex(given.base + 36, 16)) {
		memcpy(trace, given.base + 3, 32);
		trace[32] = '\0';
		flags[1] = given.base[54] == '0' ? '0' : '1';
	} else {
		hex_random(&r->g->rng, trace, 32);
	}
	join(r->traceparent, sizeof(r->traceparent), (const char *const[]){"00-", trace, "-", span, "-", flags, NULL});
}

static void take_ids(struct request *r)
{
	struct str given;
	char random[33];

	hex_random(&r->g->rng, random, 24);
	join(r->answer_id, sizeof(r->answer_id), (const char *const[]){r->dialect->id_prefix, random, NULL});
	if (http_header(r->x, "x-request-id", &given) && id_is_sane(given)) {
		str_copy(given, r->id, sizeof(r->id));
	} else {
		hex_random(&r->g->rng, random, 24);
		join(r->id, sizeof(r->id), (const char *const[]){"req-", random, NULL});
	}
	http_add_header(r->x, "x-request-id", str_from(r->id));
	if (r->dialect->id_header)
		http_add_header(r->x, r->dialect->id_header, str_from(r->id));
	take_trace(r);
}

static void take_hop_headers(struct request *r, struct str sender)
{
	struct str value;
	uint64_t dispatch;

	r->tells_usage = http_header(r->x, "x-mdn-usage", &value);
	if (http_header(r->x, "x-mdn-tenant", &value) && id_is_sane(value))
		str_copy(value, r->tenant, sizeof(r->tenant));
	if (sender.len && http_header(r->x, "x-mdn-dispatch", &value) && str_to_u64(value, &dispatch) == 0 &&
	    dispatch <= INT64_MAX) /* a report that holds more would be refused whole */
		gateway_saw(r->g, sender, dispatch);
}

/* The stream goes through another node: in frames, with the ids that its client knows, and perhaps from the middle. */
static int take_hop_stream(struct request *r, struct fault *fault)
{
	struct str value, id, created;
	int64_t seconds;

	if (http_header(r->x, "x-mdn-resume", &value) && resume_read_body(r->in.root, &r->resume, &fault->err) < 0)
		return fault->err.code;
	if (!r->in.stream || !http_header(r->x, "x-mdn-frames", &value))
		return 0;
	id = str_cut(value, ' ', &created);
	if (!id_is_sane(id) || !str_copy(id, r->answer_id, sizeof(r->answer_id)) || str_to_i64(created, &seconds) < 0)
		return error_set(&fault->err, E_INVAL, "x-mdn-frames must be an answer's id and its time");
	r->created_s = seconds;
	r->framed = true;
	return 0;
}

/* Urgency as the node that sent it here understood it. */
static void take_hop_urgency(struct request *r)
{
	struct str value;
	int32_t none;
	int64_t number;
	enum engine_class class;

	if (http_header(r->x, "x-mdn-class", &value) && class_parse(value, &class, &none))
		r->in.service_class = class;
	if (http_header(r->x, "x-mdn-priority", &value) && str_to_i64(value, &number) == 0 && number > -1000 &&
	    number < 1000)
		r->in.priority = (int32_t)number;
	if (http_header(r->x, "x-mdn-deadline-us", &value) && str_to_i64(value, &number) == 0 &&
	    number < DEADLINE_MOST_US)
		r->deadline_us = loop_now_us(r->g->loop) + (number > 0 ? number : 1);
	struct str name = {0}, dscp = {0};
	if (http_header(r->x, "x-mdn-service", &name) && !id_is_sane(name))
		name = STR("");
	http_header(r->x, "x-mdn-dscp", &dscp);
	request_identified(r, name, dscp);
}

static bool header_of(struct request *r, const char *const *names, struct str *ret_value)
{
	for (; *names; names++)
		if (http_header(r->x, *names, ret_value))
			return true;
	return false;
}

/* What headers say where the body says nothing. llm-d's names and the older ones of Gateway API; an objective that is
 * no class of ours is somebody's own name for one, and means the default. */
static void take_urgency(struct request *r)
{
	static const char *const classes[] = {"x-request-priority", "x-llm-d-inference-objective",
	                                      "x-gateway-inference-objective", NULL};
	static const char *const deadlines[] = {"x-llm-d-slo-ttft-ms", "x-slo-ttft-ms", NULL};
	static const char *const sessions[] = {"x-session-id", "x-claude-code-session-id", "x-session-affinity",
	                                       "x-smg-routing-key", NULL};
	enum engine_class class;
	int32_t priority;
	struct str value;
	int64_t ms;

	if (!r->in.has_class && header_of(r, classes, &value) && class_parse(value, &class, &priority) &&
	    class != ENGINE_SYSTEM) {
		r->in.service_class = class;
		r->in.priority = priority;
		r->in.has_class = true;
	}
	if (header_of(r, deadlines, &value) && str_to_i64(value, &ms) == 0 && ms > 0 &&
	    ms < DEADLINE_MOST_US / US_PER_MS)
		r->deadline_us = loop_now_us(r->g->loop) + ms * US_PER_MS;
	if (r->in.session.len == 0 && header_of(r, sessions, &value) && id_is_sane(value))
		r->in.session = value;
}

/* Who has no key may say for whom the request is; who has one is that key, or its share could be had many times over.
 */
static void take_fairness_id(struct request *r)
{
	static const char *const names[] = {"x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id", NULL};
	struct str value;

	if (str_equal(str_from(r->tenant), STR("anonymous")) && header_of(r, names, &value) && id_is_sane(value) &&
	    value.len < sizeof(r->tenant) - 5) {
		memcpy(r->tenant, "anon:", 5); /* so that it is nobody's key id */
		str_copy(value, r->tenant + 5, sizeof(r->tenant) - 5);
	}
}

/* ---- ends -------------------------------------------------------------------------------------------- */

void respond_fault(struct http_exchange *x, const struct dialect *dialect, const struct fault *fault)
{
	char seconds[16];
	struct http_header headers[3] = {{STR("content-type"), STR("application/json")}};
	size_t count = 1;
	struct buf body = {0};

	if (fault->retry_after_s > 0) {
		snprintf(seconds, sizeof(seconds), "%d", fault->retry_after_s);
		headers[count++] = (struct http_header){STR("retry-after"), str_from(seconds)};
	}
	if (fault_status(fault) == 401)
		headers[count++] = (struct http_header){STR("www-authenticate"), STR("Bearer")};
	(dialect ? dialect->fault : api_fault)(&body, fault);
	http_respond_headers(x, fault_status(fault), headers, count, buf_str(&body));
	buf_fini(&body);
}

void request_finish(struct request *r, int status)
{
	struct gateway *g = r->g;

	if (r->finished)
		return;
	r->finished = true;
	request_wait_end(r);
	r->status = status;
	quotas_end(r);
	local_cancel(r->local);
	forward_cancel(r->forward);
	r->local = NULL;
	r->forward = NULL;
	ledger_close(r->ticket);
	r->ticket = NULL;
	if (r->client.bits)
		demand_add(&g->demand, &r->client, clock_mono_us() - r->begun_us, r->rtt_us);
	g->metrics.requests[r->route][status == 499 || status < 100 ? 0 : status / 100]++;
	services_count(r);
	access_log(r);
	gateway_changed(g);
}

void request_fail(struct request *r, const struct fault *fault)
{
	struct http_exchange *x = r->x;
	struct fault told = *fault;

	if (told.err.code == E_CANCELED) /* ours, not the client's: an engine was closed */
		told.err.code = E_UNAVAILABLE;
	if (r->head_sent) {
		request_break(r, &told.err, true);
		return;
	}
	int status = fault_status(&told);
	if ((status == 429 || status == 503) && told.retry_after_s == 0)
		told.retry_after_s = 1;
	r->g->metrics.errors[-told.err.code]++;
	reply_tell_dropped(r, &told);
	request_finish(r, status);
	respond_fault(x, r->dialect, &told);
}

void request_break(struct request *r, const struct error *err, bool event)
{
	struct http_exchange *x = r->x;
	struct gateway *g = r->g;

	g->metrics.errors[-err->code]++;
	g->metrics.broken++;
	request_finish(r, error_http_status(err->code));
	if (event) {
		buf_clear(&g->scratch);
		r->dialect->broken(&g->scratch, err);
		request_write(r, &(struct frame){.kind = FRAME_BROKEN, .piece = buf_str(&g->scratch)});
	}
	http_abort(x);
}

bool request_write(struct request *r, const struct frame *f)
{
	struct buf *out = &r->g->frame;

	if (!r->framed)
		return http_write(r->x, f->piece);
	buf_clear(out);
	frame_put(out, f);
	return http_write(r->x, buf_str(out));
}

void request_first_token(struct request *r)
{
	if (r->first_us)
		return;
	r->first_us = clock_mono_us();
	if (r->ticket)
		ledger_first_token(r->ticket);
}

/* ---- decide and try -------------------------------------------------------------------------------------- */

/* Errors that another node may not have. What is wrong with the request itself is wrong everywhere. */
static bool worth_retrying(const struct fault *fault)
{
	switch (fault->err.code) {
	case E_INVAL:
	case E_LIMIT:
	case E_RANGE:
	case E_UNSUPPORTED:
		return false;
	default:
		return true;
	}
}

/* Streams of one answer. Of those whose end repeats what was said, log probabilities are lost on the way. */
bool request_is_resumable(const struct request *r)
{
	const struct api_request *in = &r->in;

	return in->stream && (in->task == ENGINE_CHAT || in->task == ENGINE_COMPLETION) &&
	       api_request_answers(in) == 1 && !(r->dialect->keeps && in->logprobs >= 0);
}

bool request_goes_on(struct request *r)
{
	if (r->hop || !r->resume || !resume_again(r->resume))
		return false;
	r->g->metrics.resumed++;
	return true;
}

void request_retry(struct request *r, const struct fault *fault)
{
	size_t most = TRIES_MAX + (r->resume ? (size_t)r->resume->times : 0);

	ledger_close(r->ticket);
	r->ticket = NULL;
	r->last_fault = *fault;
	if (r->hop || (r->head_sent && !r->resume) || r->tries >= most || (!r->resume && !worth_retrying(fault))) {
		request_fail(r, &r->last_fault);
		return;
	}
	str_copy(str_from(r->node), r->excluded_ids[r->tries], NODE_ID_SIZE);
	r->excluded[r->tries] = str_from(r->excluded_ids[r->tries]);
	if (++r->tries >= most) {
		request_fail(r, &r->last_fault);
		return;
	}
	r->g->metrics.retries++;
	request_dispatch(r);
}

static void try_here(struct request *r, struct model *m)
{
	struct gateway *g = r->g;
	struct fault fault = {0};

	request_wait_end(r);
	m = model_pick(m);
	r->route = ROUTE_LOCAL;
	memcpy(r->node, g->id, sizeof(r->node));
	memcpy(r->model, m->name, sizeof(r->model));
	r->ticket = ledger_open(g->ledger, str_from(g->id), str_from(m->name), r->uncached_tokens, &g->own_dispatched);
	if (local_start(r, m, &fault) < 0)
		request_retry(r, &fault);
	else
		gateway_changed(g);
}

static void try_there(struct request *r, const struct route_candidate *to)
{
	struct fault fault = {0};

	request_wait_end(r);
	r->route = ROUTE_FORWARD;
	memcpy(r->node, to->id, sizeof(r->node));
	memcpy(r->model, to->model, sizeof(r->model));
	if (forward_start(r, to) == 0)
		return;
	error_set(&fault.err, E_UNAVAILABLE, "node %s cannot be reached from here", to->name);
	request_retry(r, &fault);
}

static void no_such_model(struct request *r)
{
	struct fault fault = {.code = "model_not_found", .param = "model"};
	struct buf names = {.max = 300};

	models_names(r->g, STR(", "), &names);
	error_set(&fault.err, E_NOTFOUND, "The model '" STR_FMT "' does not exist; %s" STR_FMT "%s",
	          STR_ARG(r->in.model), names.len ? "these do: " : "no node has a model yet", STR_ARG(buf_str(&names)),
	          names.failed ? ", ..." : "");
	buf_fini(&names);
	request_fail(r, &fault);
}

static void request_nowhere(struct request *r, int rc, struct fault *fault)
{
	struct model *m = model_find(r->g, r->in.model);

	/* Nobody else can take it, but soon this node can. */
	if (m && model_comes(m) && request_wait(r, m, true))
		return;
	if (r->tries > 0) {
		request_fail(r, &r->last_fault);
	} else if (m && model_comes(m)) {
		error_set(&fault->err, E_UNAVAILABLE, "The model '%s' is still being loaded; try again in a moment",
		          m->name);
		fault->retry_after_s = 2;
		request_fail(r, fault);
	} else if (rc == E_NOTFOUND && !m) {
		no_such_model(r);
	} else if (rc == E_NOTFOUND) {
		error_set(&fault->err, E_UNAVAILABLE, "The model '%s' cannot be used: %s", m->name, m->error);
		request_fail(r, fault);
	} else {
		fault->retry_after_s = 2;
		request_fail(r, fault);
	}
}

static int request_decide(struct request *r, bool for_client, struct route_decision *ret_decision, struct fault *fault)
{
	struct gateway *g = r->g;
	struct route_warm warm[AFFINITY_HOLDERS_MAX];
	struct route_query query = {
	    .model = r->in.model,
	    .client_site = str_from(g->site),
	    .self_id = str_from(g->id),
	    .prompt_tokens = r->in.prompt_tokens,
	    .excluded = r->excluded,
	    .excluded_count = r->tries,
	    .for_client = for_client,
	    .brief = true,
	    .policy = g->policy,
	    .turn = &g->policy_turn,
	};

	map_refresh_self(g);
	sticky_find(r, &query, warm);
	return route_decide(g->map.map, g->ledger, &query, loop_now_us(g->loop), &g->rng, ret_decision, &fault->err);
}

/* The node is going away: the client had better talk to another one from now on. */
static bool request_redirect(struct request *r)
{
	struct fault fault = {.retry_after_s = 1, .dropped = "rejected-shutting-down"};
	struct route_decision d = {0};
	char url[NODE_URL_SIZE + 32];
	bool found = request_decide(r, true, &d, &fault) == 0;

	if (found) {
		const struct route_candidate *to = &d.candidates[d.choice];
		struct str base = str_from(to->api_url), path = http_path(r->x);

		while (base.len && base.base[base.len - 1] == '/')
			base.len--;
		snprintf(url, sizeof(url), STR_FMT STR_FMT, STR_ARG(base), STR_ARG(path));
		http_add_header(r->x, "location", str_from(url));
		http_add_header(r->x, "x-mdn-redirect", str_from(to->api_url));
		error_set(&fault.err, E_UNAVAILABLE, "This node is being drained; use %s", to->api_url);
	}
	route_decision_fini(&d);
	if (found)
		request_fail(r, &fault);
	return found;
}

/* Its client has been told that the model is loading here: no other node can answer it any more. */
static void request_answer_here(struct request *r)
{
	struct model *m = model_find(r->g, r->in.model);
	struct fault fault = {0};

	if (m && model_comes(m) && request_wait(r, m, true))
		return;
	if (m && model_answers(m)) {
		try_here(r, m);
		return;
	}
	error_set(&fault.err, E_UNAVAILABLE, "The model '" STR_FMT "' cannot be used here: %s", STR_ARG(r->in.model),
	          !m               ? "it was removed"
	          : m->error[0]    ? m->error
	          : model_comes(m) ? "loading takes too long"
	                           : "it is not loaded");
	request_fail(r, &fault);
}

void request_dispatch(struct request *r)
{
	struct route_decision d = {0};
	struct fault fault = {0};

	if (r->head_sent && !r->resume) {
		request_answer_here(r);
		return;
	}
	if (r->g->draining && r->tries == 0 && request_redirect(r))
		return;
	int rc = request_decide(r, false, &d, &fault);
	if (rc < 0) {
		request_nowhere(r, rc, &fault);
	} else {
		const struct route_candidate *to = &d.candidates[d.choice];
		bool here = str_equal(str_from(to->id), str_from(r->g->id));
		struct model *m = here ? model_find(r->g, str_from(to->model)) : NULL;

		if (m && model_comes(m)) {
			if (!request_wait(r, m, d.candidate_count == 1))
				request_nowhere(r, E_UNAVAILABLE, &fault);
		} else {
			sticky_take(r, to);
			if (m)
				try_here(r, m);
			else
				try_there(r, to);
		}
	}
	route_decision_fini(&d);
}

/* A request that another node sent: answered here or refused. */
void request_answer_hop(struct request *r)
{
	struct gateway *g = r->g;
	struct model *m = model_find(g, r->in.model);
	struct fault fault = {0};

	if (!g->draining && m && !model_takes_hops(m) && model_comes(m) && request_wait(r, m, false))
		return;
	fault.dropped = g->draining ? "rejected-shutting-down" : NULL;
	if (g->draining)
		error_set(&fault.err, E_UNAVAILABLE, "node %s is being drained", g->name);
	else if (!m)
		error_set(&fault.err, E_LOOP,
		          "node %s does not have the model '" STR_FMT "', and a request is forwarded only once",
		          g->name, STR_ARG(r->in.model));
	else if (!model_takes_hops(m))
		error_set(&fault.err, E_UNAVAILABLE, "the model '%s' is %s on node %s", m->name,
		          model_state_name(m->state), g->name);
	if (fault.err.code)
		request_fail(r, &fault);
	else
		try_here(r, m);
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static void on_body(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct request *r = arg;
	struct fault fault = {0};

	if (err) {
		fault.err = *err;
		fault.status = err->code == E_TIMEOUT ? 408 : 0; /* the client was slow, nobody behind us */
		request_fail(r, &fault);
		return;
	}
	r->body = body;
	if (api_request_parse(body, r->dialect, &r->in, &fault) < 0) {
		request_fail(r, &fault);
		return;
	}
	r->parsed = true;
	r->uncached_tokens = r->in.prompt_tokens;
	if (r->hop) {
		take_hop_urgency(r);
		if (take_hop_stream(r, &fault) < 0)
			request_fail(r, &fault);
		else
			request_answer_hop(r);
	} else {
		if (r->offline)
			r->in.service_class = ENGINE_BULK; /* whatever it says of itself */
		else
			take_urgency(r);
		quotas_name(r);
		request_identify(r);
		if (quotas_admit(r))
			request_dispatch(r);
	}
}

static void on_writable(void *arg)
{
	struct request *r = arg;

	if (r->local)
		local_writable(r->local);
	else if (r->forward)
		forward_writable(r->forward);
}

static void on_gone(void *arg)
{
	struct request *r = arg;
	struct gateway *g = r->g;

	r->x = NULL;
	request_finish(r, 499);
	if (r->prev)
		r->prev->next = r->next;
	else
		g->requests = r->next;
	if (r->next)
		r->next->prev = r->prev;
	g->request_count--;
	if (r->parsed)
		api_request_fini(&r->in);
	free(r->prompt);
	resume_free(r->resume);
	free(r);
}

struct request *request_open(struct gateway *g, struct http_exchange *x, const struct dialect *dialect, bool hop,
                             struct str sender, struct str tenant)
{
	struct request *r = NEW(struct request);

	r->g = g;
	r->x = x;
	r->hop = hop;
	r->dialect = dialect;
	r->begun_us = clock_mono_us();
	r->created_s = clock_wall_us() / US_PER_S;
	r->prompt_tokens = r->cached_tokens = r->completion_tokens = -1;
	str_copy(tenant, r->tenant, sizeof(r->tenant));
	r->next = g->requests;
	if (r->next)
		r->next->prev = r;
	g->requests = r;
	g->request_count++;
	take_ids(r);
	if (hop) {
		g->metrics.hops++;
		take_hop_headers(r, sender);
	} else {
		take_fairness_id(r);
		ip_parse(http_peer_address(x), &r->client); /* an answer of a batch has none */
		if (r->client.bits && g->rtt_turn++ % RTT_EVERY == 0)
			r->rtt_us = http_peer_rtt_us(x);
	}
	http_watch(x, on_writable, on_gone, r);
	http_body_collect(x, LIMIT_JSON_BODY, on_body, r);
	return r;
}

void request_free_all(struct gateway *g)
{
	while (g->requests) {
		struct request *r = g->requests;
		struct http_exchange *x = r->x;

		http_watch(x, NULL, NULL, NULL);
		on_gone(r);
		http_abort(x);
	}
}
