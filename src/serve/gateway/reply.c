/* SPDX-License-Identifier: Apache-2.0 */
/* How: what an answer says beside its body: who answers, how loaded they are, how much more may be asked, why it was
 * refused. Nothing is told that is not known: there is no limit of tokens, so none is named.
 *
 *   endpoint-load-metrics             ORCA, for clients that name a format and always between nodes: the load of the
 *                                     model here; of an answer that another node gave only if the model is here, too
 *   x-ratelimit-limit-requests        requests of the class that may wait for the model at the node that answers
 *   x-ratelimit-remaining-requests    how many more of this tenant's it would let in now (core/admission.h)
 *   x-ratelimit-reset-requests        when what waits will have been computed, by the measured rate
 *   x-llm-d-request-dropped-reason    as llm-d says it; only where no work was done
 */
#include "serve/gateway/internal.h"

#include <stdio.h>

static const char *const limit_headers[] = {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests",
                                            "x-ratelimit-reset-requests"};
enum { LIMIT_MOST, LIMIT_LEFT, LIMIT_RESET };

/* ---- load --------------------------------------------------------------------------------------------- */

static void put_orca(const struct model *m, bool text, struct buf *out)
{
	struct model_report r;

	model_fill_report(m, &r);
	buf_printf(out,
	           text ? "TEXT named_metrics.kv_cache_usage_perc=%.4f, named_metrics.num_requests_running=%d, "
	                  "named_metrics.num_requests_waiting=%d, named_metrics.tokens_to_prefill=%lld"
	                : "JSON {\"named_metrics\":{\"kv_cache_usage_perc\":%.4f,\"num_requests_running\":%d,"
	                  "\"num_requests_waiting\":%d,\"tokens_to_prefill\":%lld}}",
	           r.kv_usage, r.running, r.waiting, (long long)r.tokens_to_prefill);
}

static bool wants_load(const struct request *r, bool *ret_text)
{
	struct str format;

	*ret_text = false;
	if (r->hop)
		return true;
	if (!http_header(r->x, "endpoint-load-metrics-format", &format))
		return false;
	*ret_text = str_equal_nocase(format, STR("TEXT"));
	return *ret_text || str_equal_nocase(format, STR("JSON"));
}

static void tell_load(struct request *r)
{
	struct buf out = {0};
	const struct model *m;
	bool text;

	if (!wants_load(r, &text) || (m = model_find(r->g, str_from(r->model))) == NULL)
		return;
	put_orca(m, text, &out);
	http_add_header(r->x, "endpoint-load-metrics", buf_str(&out));
	buf_fini(&out);
}

/* ---- limits ------------------------------------------------------------------------------------------- */

/* As Go writes durations, which is what OpenAI sends. */
void reply_duration(int64_t us, char to[static 32])
{
	int64_t ms = us / US_PER_MS;

	if (ms < 1000)
		snprintf(to, 32, ms ? "%lldms" : "%llds", (long long)ms);
	else if (ms < 60000)
		snprintf(to, 32, "%lld.%03llds", (long long)(ms / 1000), (long long)(ms % 1000));
	else
		snprintf(to, 32, "%lldm%llds", (long long)(ms / 60000), (long long)(ms / 1000 % 60));
}

void reply_tell_limits(struct request *r, const struct engine *engine)
{
	struct engine_load load = engine_load(engine);
	int32_t most, left;
	char text[32];

	if (quotas_tell(r))
		return;
	engine_room(engine, r->in.service_class, str_from(r->tenant), &most, &left);
	snprintf(text, sizeof(text), "%d", most);
	http_add_header(r->x, limit_headers[LIMIT_MOST], str_from(text));
	snprintf(text, sizeof(text), "%d", left);
	http_add_header(r->x, limit_headers[LIMIT_LEFT], str_from(text));
	if (load.waiting && load.prefill_tokens_per_s <= 0)
		return; /* not known */
	reply_duration(
	    load.waiting ? (int64_t)((double)load.tokens_to_prefill / load.prefill_tokens_per_s * US_PER_S) : 0, text);
	http_add_header(r->x, limit_headers[LIMIT_RESET], str_from(text));
}

void reply_pass_limits(struct request *r, const struct http_call *call)
{
	struct str value;

	if (quotas_tell(r))
		return;
	for (size_t i = 0; i < sizeof(limit_headers) / sizeof(limit_headers[0]); i++)
		if (http_call_header(call, limit_headers[i], &value))
			http_add_header(r->x, limit_headers[i], value);
}

/* ---- who and why ----------------------------------------------------------------------------------------- */

void request_name_node(struct request *r, struct str id, struct str name, struct str site)
{
	char ms[24];

	http_add_header(r->x, "x-mdn-node", id);
	if (name.len)
		http_add_header(r->x, "x-mdn-node-name", name);
	if (site.len)
		http_add_header(r->x, "x-mdn-site", site);
	if (r->why[0])
		http_add_header(r->x, "x-mdn-policy", str_from(r->why));
	if (r->service.name[0] && !r->hop)
		http_add_header(r->x, "x-mdn-service", str_from(r->service.name));
	snprintf(ms, sizeof(ms), "%lld", (long long)(clock_mono_us() - r->begun_us) / US_PER_MS);
	http_add_header(r->x, "openai-processing-ms", str_from(ms)); /* until here: of a stream, its first token */
	tell_load(r);
}

void reply_tell_dropped(struct request *r, const struct fault *fault)
{
	int status = fault_status(fault);
	const char *why = fault->dropped  ? fault->dropped
	                  : status == 429 ? "rejected-saturated"
	                  : status == 503 ? "rejected-no-endpoints"
	                  : status == 504 ? "rejected-ttl-expired"
	                                  : NULL;

	if (why && !r->worked)
		http_add_header(r->x, "x-llm-d-request-dropped-reason", str_from(why));
	const struct model *m = status == 429 && r->parsed ? model_find(r->g, r->in.model) : NULL;
	if (m && m->engine)
		reply_tell_limits(r, m->engine);
	else if (status == 429)
		quotas_tell(r);
}
