/* SPDX-License-Identifier: Apache-2.0 */
/* How: one JSON object a request when it ends, made of identifiers, names and numbers only. Nothing of a prompt, an
 * answer or a key is within reach of this file. Unknown numbers are null.
 */
#include "serve/gateway/fields.h"
#include "serve/gateway/internal.h"

static void put_text(struct buf *out, const char *key, struct str value)
{
	buf_printf(out, ",\"%s\":", key);
	if (value.len)
		buf_append_json(out, value);
	else
		buf_append_str(out, STR("null"));
}

static void put_tokens(struct buf *out, const char *key, int32_t value)
{
	if (value >= 0)
		buf_printf(out, ",\"%s\":%d", key, value);
	else
		buf_printf(out, ",\"%s\":null", key);
}

void access_log(const struct request *r)
{
	static const char *const routes[] = {
	    [ROUTE_NONE] = "none", [ROUTE_LOCAL] = "local", [ROUTE_FORWARD] = "forward"};
	const struct gateway *g = r->g;
	int64_t now = clock_mono_us(); /* the loop's own is cached for a turn */
	struct buf line = {0};
	char time[25];

	if (!g->access_log)
		return;
	clock_format(clock_wall_us(), time);
	buf_printf(&line, "{\"time\":\"%s\",\"event\":\"access\"", time);
	put_text(&line, "request_id", str_from(r->id));
	put_text(&line, "trace_id", (struct str){r->traceparent + 3, 32});
	put_text(&line, "tenant", str_from(r->tenant));
	put_text(&line, "service", str_from(r->service.name));
	put_text(&line, "class", r->parsed ? str_from(class_name(r->in.service_class)) : STR(""));
	put_text(&line, "api", str_from(r->dialect->name));
	put_text(&line, "model", str_from(r->model)); /* as resolved: what a client made up does not get here */
	put_text(&line, "node", str_from(r->node));
	put_text(&line, "route", str_from(routes[r->route]));
	buf_printf(&line, ",\"hop\":%s,\"stream\":%s,\"status\":%d,\"retries\":%zu", r->hop ? "true" : "false",
	           r->in.stream ? "true" : "false", r->status, r->tries);
	put_tokens(&line, "prompt_tokens", r->prompt_tokens);
	put_tokens(&line, "cached_tokens", r->cached_tokens);
	put_tokens(&line, "completion_tokens", r->completion_tokens);
	if (r->first_us)
		buf_printf(&line, ",\"ttft_ms\":%.3f", (double)(r->first_us - r->begun_us) / US_PER_MS);
	else
		buf_append_str(&line, STR(",\"ttft_ms\":null"));
	buf_printf(&line, ",\"duration_ms\":%.3f}", (double)(now - r->begun_us) / US_PER_MS);
	buf_append(&line, "", 1);
	log_json(line.base);
	buf_fini(&line);
}
