/* SPDX-License-Identifier: Apache-2.0 */
/* How: the body goes to the other node as it came, the answer comes back as it comes: bytes are passed on unread but
 * for a short tail, in which usage is looked for when the log wants it. What the other node sends before its first
 * bytes of a good answer (refusals, resets, silence) is evidence for the map and a reason to try elsewhere. After them
 * a stream is gone on with elsewhere, if it came in frames: only whole frames are passed on, so that what the client
 * has and what is noted are the same. Otherwise it ends with an error event and a cut connection. The client's headers
 * stay here, except those named below; x-mdn-* from outside never travels.
 */
#include "serve/gateway/fields.h"
#include "serve/gateway/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	TAIL_BYTES = 1024,
	ERROR_BODY_MAX = 65536,
};
#define FIRST_TOKEN_DEFAULT_US (60 * US_PER_S)
#define WHOLE_ANSWER_US (600 * US_PER_S)
#define STALL_US (60 * US_PER_S)
#define SILENCE_US (1 * US_PER_S) /* of a node that the map calls dead */

struct forward {
	struct request *r;
	struct http_call *call;
	bool committed; /* first bytes went to the client */
	bool paused;
	bool framed, ended; /* its stream comes in frames; the last one came */
	struct buf frame;   /* not whole yet */
	int status;
	uint64_t dispatch;
	int64_t last_us;
	int32_t events;
	struct buf error_body;
	size_t tail_len;
	struct route_candidate to; /* from here on not cleared at the start */
	char tail[TAIL_BYTES + 1];
};

static void forward_free(struct forward *f)
{
	buf_fini(&f->error_body);
	buf_fini(&f->frame);
	free(f);
}

void forward_cancel(struct forward *f)
{
	if (!f)
		return;
	if (f->call)
		http_call_cancel(f->call);
	forward_free(f);
}

void forward_writable(struct forward *f)
{
	if (!f->paused)
		return;
	f->paused = false;
	f->last_us = loop_now_us(f->r->g->loop);
	http_call_resume(f->call);
}

static void evidence(struct forward *f, enum node_evidence e)
{
	struct gateway *g = f->r->g;

	node_map_evidence(g->map.map, str_from(f->to.id), e, loop_now_us(g->loop));
}

/* ---- what came back ------------------------------------------------------------------------------------------ */

static void keep_tail(struct forward *f, struct str data)
{
	if (data.len >= TAIL_BYTES) {
		memcpy(f->tail, data.base + data.len - TAIL_BYTES, TAIL_BYTES);
		f->tail_len = TAIL_BYTES;
		return;
	}
	size_t keep = f->tail_len + data.len > TAIL_BYTES ? TAIL_BYTES - data.len : f->tail_len;
	memmove(f->tail, f->tail + f->tail_len - keep, keep);
	memcpy(f->tail + keep, data.base, data.len);
	f->tail_len = keep + data.len;
}

static int32_t tail_number(const char *usage, const char *key)
{
	const char *at = key ? strstr(usage, key) : NULL;

	return at ? (int32_t)strtol(at + strlen(key), NULL, 10) : -1;
}

/* A comment in the stream, which the node writes when it is asked to (x-mdn-usage). */
static void read_told_usage(struct forward *f)
{
	struct request *r = f->r;
	const char *at = strstr(f->tail, "\n: usage ");

	if (at && sscanf(at, "\n: usage %" SCNd32 " %" SCNd32 " %" SCNd32, &r->prompt_tokens, &r->cached_tokens,
	                 &r->completion_tokens) != 3)
		r->prompt_tokens = r->cached_tokens = r->completion_tokens = -1;
}

int32_t forward_events(const struct forward *f)
{
	return f->events;
}

/* About a token each. What a request took that ends in the middle is not known better. */
static void count_events(struct forward *f, struct str data)
{
	const char *at = data.base, *end = data.base + data.len;

	for (; (at = memmem(at, (size_t)(end - at), "data: ", 6)); at += 6)
		f->events++;
}

/* Usage is the last thing in an answer of ours; text cannot fake it, because quotes in text are escaped. */
static void read_usage(struct forward *f)
{
	struct request *r = f->r;
	const struct dialect *d = r->dialect;
	const char *usage = NULL, *at = f->tail;

	f->tail[f->tail_len] = '\0';
	while (d->usage.open && (at = strstr(at, d->usage.open)) != NULL)
		usage = at++;
	if (!usage) {
		read_told_usage(f);
		return;
	}
	r->prompt_tokens = tail_number(usage, d->usage.prompt);
	r->completion_tokens = tail_number(usage, d->usage.completion);
	r->cached_tokens = tail_number(usage, d->usage.cached);
	if (d->usage.cached_apart && r->prompt_tokens >= 0 && r->cached_tokens > 0)
		r->prompt_tokens += r->cached_tokens;
}

static bool error_was_told(struct forward *f)
{
	const char *mark = f->r->dialect->error_mark;

	f->tail[f->tail_len] = '\0';
	return mark && strstr(f->tail, mark) != NULL;
}

static bool on_head(void *arg, struct http_call *call, int status)
{
	struct forward *f = arg;
	struct str orca;

	f->status = status;
	f->last_us = loop_now_us(f->r->g->loop);
	evidence(f, EVIDENCE_OK);
	if (http_call_header(call, "endpoint-load-metrics", &orca))
		map_feed_orca(f->r->g, str_from(f->to.id), str_from(f->to.model), orca, f->dispatch);
	f->framed = status == 200 && http_call_header(call, "x-mdn-frames", &orca);
	return f->framed || status != 200 || !f->r->resume; /* it would begin anew */
}

static void forward_commit(struct forward *f)
{
	struct request *r = f->r;
	struct str value, type = STR("application/json");
	int64_t length = -1;
	char type_text[128];

	f->committed = true;
	r->g->metrics.forwards++;
	if (f->framed && !r->resume && http_call_header(f->call, "x-mdn-frames", &value))
		r->resume = resume_new(value);
	if (r->head_sent) {
		ledger_first_token(r->ticket);
		return;
	}
	r->head_sent = r->in.stream;
	request_first_token(r);
	vllm_histogram_add(&r->g->metrics.forward_ttft, H_TTFT, (double)(r->first_us - r->begun_us) / US_PER_S);
	request_name_node(r, str_from(f->to.id), str_from(f->to.name), str_from(f->to.site));
	reply_pass_limits(r, f->call);
	http_call_header(f->call, "content-type", &type);
	if (!str_copy(type, type_text, sizeof(type_text)))
		snprintf(type_text, sizeof(type_text), "application/json");
	if (http_call_header(f->call, "content-length", &value) && str_to_i64(value, &length) < 0)
		length = -1;
	if (r->in.stream) {
		http_add_header(r->x, "cache-control", STR("no-cache"));
		http_add_header(r->x, "x-accel-buffering", STR("no"));
	}
	http_respond_begin(r->x, 200, type_text, length);
}

static void forward_lost(struct forward *f, const struct error *err);

/* What is whole of the frames goes on to the client, in one piece. May end f. */
static bool pass_frames(struct forward *f, struct str data)
{
	struct buf *out = &f->r->g->scratch;
	struct error err = {0};
	struct frame frame;
	size_t used, taken = 0;
	int rc = 0;

	buf_append_str(&f->frame, data);
	buf_clear(out);
	for (struct str rest = buf_str(&f->frame); !f->ended; rest = (struct str){rest.base + used, rest.len - used}) {
		rc = frame_take(rest, &frame, &used, &err);
		if (rc == 1 && frame.kind == FRAME_BROKEN)
			rc = error_set(&err, E_PEER, "its engine failed");
		if (rc <= 0)
			break;
		if (!f->committed)
			forward_commit(f);
		rc = resume_note_frame(f->r->resume, &frame, &err);
		if (rc < 0)
			break;
		buf_append_str(out, frame.piece);
		f->ended = frame.kind == FRAME_LAST;
		taken += used;
	}
	buf_consume(&f->frame, taken);
	if (out->len) {
		keep_tail(f, buf_str(out));
		if (f->r->quota.billed)
			count_events(f, buf_str(out));
		f->paused = !http_write(f->r->x, buf_str(out));
	}
	if (rc < 0) {
		forward_lost(f, &err);
		return true;
	}
	return !f->paused;
}

static bool on_data(void *arg, struct str data)
{
	struct forward *f = arg;

	f->last_us = loop_now_us(f->r->g->loop);
	if (f->status != 200) {
		buf_append_str(&f->error_body, data);
		return true;
	}
	if (f->ended)
		return true; /* nothing counts behind the last frame */
	if (f->framed)
		return pass_frames(f, data);
	if (!f->committed)
		forward_commit(f);
	keep_tail(f, data);
	if (f->r->quota.billed && f->r->in.stream)
		count_events(f, data);
	f->paused = !http_write(f->r->x, data);
	return !f->paused;
}

/* ---- ends ------------------------------------------------------------------------------------------------------ */

static void forward_retry(struct forward *f, const struct fault *fault)
{
	struct request *r = f->r;

	r->forward = NULL;
	forward_cancel(f);
	request_retry(r, fault);
}

static void forward_broken(struct forward *f, const struct error *err)
{
	struct request *r = f->r;
	struct error told;
	bool event = r->in.stream && !error_was_told(f);

	error_set(&told, E_PEER, "node %s stopped answering in the middle: %s; send the request again", f->to.name,
	          err->text);
	request_break(r, &told, event);
}

/* It is gone, or will not say more. Ends f. */
static void forward_lost(struct forward *f, const struct error *err)
{
	struct fault fault = {0};

	if (f->committed && !request_goes_on(f->r)) {
		forward_broken(f, err);
		return;
	}
	error_set(&fault.err, E_UNAVAILABLE,
	          f->committed ? "node %s stopped answering in the middle (%s), and no other node could go on"
	                       : "node %s could not answer (%s), and no other node could",
	          f->to.name, err->text);
	forward_retry(f, &fault);
}

/* The node answered with an error. Its own troubles are a reason to go elsewhere, the request's are the client's. */
static void forward_refused(struct forward *f)
{
	struct request *r = f->r;
	struct fault fault = {0};
	int status = f->status;

	if (!r->head_sent && (status == 400 || status == 413 || status == 415 || status == 422)) {
		struct http_exchange *x = r->x;
		struct buf body = f->error_body;
		const struct http_header type = {STR("content-type"), STR("application/json")};

		f->error_body = (struct buf){0};
		request_name_node(r, str_from(f->to.id), str_from(f->to.name), str_from(f->to.site));
		r->g->metrics.errors[-E_INVAL]++;
		request_finish(r, status);
		http_respond_headers(x, status, &type, 1, buf_str(&body));
		buf_fini(&body);
		return;
	}
	error_set(&fault.err, status == 429 ? E_BUSY : E_UNAVAILABLE,
	          "node %s %s (status %d), and no other node could answer", f->to.name,
	          status == 429 ? "has no free place" : "refused", status);
	forward_retry(f, &fault);
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	struct forward *f = arg;
	struct request *r = f->r;
	struct fault fault = {0};

	(void)call;
	f->call = NULL;
	if (err && !f->ended) {
		evidence(f, err->code == E_TIMEOUT ? EVIDENCE_TIMEOUT : EVIDENCE_REFUSED);
		forward_lost(f, err);
	} else if (f->framed && !f->ended) {
		error_set(&fault.err, E_PEER, "its answer has no end");
		forward_lost(f, &fault.err);
	} else if (f->status != 200) {
		forward_refused(f);
	} else if (!f->committed) {
		error_set(&fault.err, E_PEER, "node %s sent an empty answer", f->to.name);
		forward_retry(f, &fault);
	} else {
		struct http_exchange *x = r->x;

		read_usage(f);
		request_finish(r, 200);
		http_end(x);
	}
}

void forward_check(struct forward *f, int64_t now_us)
{
	const struct node_entry *e = node_map_find(f->r->g->map.map, str_from(f->to.id));
	struct error err;

	if (!e || !e->said_down || f->paused || f->ended || now_us - f->last_us < SILENCE_US)
		return;
	evidence(f, EVIDENCE_TIMEOUT);
	error_set(&err, E_UNAVAILABLE, "it went silent");
	forward_lost(f, &err);
}

/* ---- start --------------------------------------------------------------------------------------------------------
 */

static int64_t head_timeout(const struct request *r, const struct route_candidate *to)
{
	int64_t first = r->g->first_token_timeout_us;

	if (!r->in.stream) /* its head comes with the last token */
		return first ? first : WHOLE_ANSWER_US;
	return first ? first
	             : FIRST_TOKEN_DEFAULT_US + 4 * (to->score_us < WHOLE_ANSWER_US ? to->score_us : WHOLE_ANSWER_US);
}

static struct str decimal(int64_t value, char text[static 24])
{
	uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
	size_t at = 24;

	do {
		text[--at] = (char)('0' + left % 10);
		left /= 10;
	} while (left);
	if (value < 0)
		text[--at] = '-';
	return (struct str){text + at, 24 - at};
}

int forward_start(struct request *r, const struct route_candidate *to)
{
	struct gateway *g = r->g;
	char url[NODE_URL_SIZE + 32], identity[TLS_IDENTITY_SIZE], dispatch[24], priority[24], deadline[24], dscp[24],
	    path[128];
	char frames[96], created[24];
	struct buf body = {0}; /* of a stream that is gone on with */
	uint64_t number;

	if (!g->client || to->node_url[0] == '\0' || !str_copy(http_path(r->x), path, sizeof(path)))
		return E_UNAVAILABLE;
	struct forward *f = mem_resize(NULL, 1, sizeof(*f));
	memset(f, 0, offsetof(struct forward, to));
	f->r = r;
	f->to = *to;
	f->error_body.max = ERROR_BODY_MAX;
	f->last_us = loop_now_us(g->loop);
	r->ticket = ledger_open(g->ledger, str_from(to->id), str_from(to->model), r->uncached_tokens, &number);
	f->dispatch = number;
	bool tls = str_starts(str_from(to->node_url), STR("https://"));
	join(url, sizeof(url), (const char *const[]){to->node_url, path, NULL});
	if (tls)
		join(identity, sizeof(identity), (const char *const[]){"spiffe://", g->domain, "/node/", to->id, NULL});
	if (r->resume)
		resume_append_body(r->resume, r->body, &body);
	struct str seconds = decimal(r->created_s, created);
	size_t id_len = strlen(r->answer_id);
	memcpy(frames, r->answer_id, id_len);
	frames[id_len] = ' ';
	memcpy(frames + id_len + 1, seconds.base, seconds.len);
	struct str ids = {frames, id_len + 1 + seconds.len};
	struct http_header headers[14] = {
	    {STR("content-type"), STR("application/json")},
	    {STR("x-mdn-hop"), STR("1")},
	    {STR("x-mdn-dispatch"), decimal((int64_t)number, dispatch)},
	    {STR("x-mdn-tenant"), str_from(r->tenant)},
	    {STR("x-mdn-class"), str_from(class_name(r->in.service_class))},
	    {STR("x-mdn-priority"), decimal(r->in.priority, priority)},
	    {STR("x-request-id"), str_from(r->id)},
	    {STR("traceparent"), str_from(r->traceparent)},
	};
	size_t header_count = 8;

	if (r->deadline_us && !r->resume)
		headers[header_count++] = (struct http_header){
		    STR("x-mdn-deadline-us"), decimal(r->deadline_us - loop_now_us(g->loop), deadline)};
	if (r->service.name[0])
		headers[header_count++] = (struct http_header){STR("x-mdn-service"), str_from(r->service.name)};
	if (r->service.dscp)
		headers[header_count++] = (struct http_header){STR("x-mdn-dscp"), decimal(r->service.dscp, dscp)};
	if (r->quota.billed)
		headers[header_count++] = (struct http_header){STR("x-mdn-usage"), STR("1")};
	if (request_is_resumable(r))
		headers[header_count++] = (struct http_header){STR("x-mdn-frames"), ids};
	if (r->resume)
		headers[header_count++] = (struct http_header){STR("x-mdn-resume"), STR("1")};
	const struct http_call_options options = {
	    .method = STR("POST"),
	    .url = str_from(url),
	    .peer_identity = tls ? str_from(identity) : STR(""),
	    .headers = headers,
	    .header_count = header_count,
	    .body = r->resume ? buf_str(&body) : r->body,
	    .body_lent = !r->resume, /* it lives as long as the exchange, and request_finish comes before its end */
	    .head_timeout_us = head_timeout(r, to),
	    .stall_timeout_us = STALL_US,
	    .on_head = on_head,
	    .on_data = on_data,
	    .on_done = on_done,
	    .arg = f,
	};
	r->forward = f;
	f->call = http_call_start(g->client, &options);
	buf_fini(&body);
	return 0;
}
