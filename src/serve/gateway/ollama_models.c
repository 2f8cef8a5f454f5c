/* SPDX-License-Identifier: Apache-2.0 */
/* How: Ollama's calls about models, made of what the map and the engines here know. Of a model that only other nodes
 * hold, no more is told than its reports say. Nothing expires: models stay until another one needs their room. Pulling,
 * copying and deleting are the operator's here and have no routes. Source: Ollama's docs/api.md.
 */
#include "serve/gateway/dialect.h"
#include "serve/gateway/fields.h"
#include "serve/gateway/internal.h"

#define OLLAMA_LEVEL "0.13.0" /* of its API, which clients ask for before they use what is newer */
#define NEVER "9999-12-31T23:59:59Z"

/* As Ollama rounds: 7.6B, 134.52M, 812K. */
static void put_count(struct buf *out, uint64_t count)
{
	if (count >= 1000000000)
		buf_printf(out, "%.1fB", (double)count / 1e9);
	else if (count >= 1000000)
		buf_printf(out, "%.2fM", (double)count / 1e6);
	else if (count >= 1000)
		buf_printf(out, "%lluK", (unsigned long long)(count / 1000));
	else if (count)
		buf_printf(out, "%llu", (unsigned long long)count);
}

/* m: NULL, of a model that is not here. What the engine calls an architecture wins: another server may run it. */
static void put_details(struct buf *out, const struct model *m, const struct engine_info *info)
{
	const char *architecture = info && info->architecture[0] ? info->architecture : m ? m->fit.architecture : "";

	put(out, "{\"parent_model\":");
	buf_append_json(out, str_from(m && m->fit.adapter ? m->base : ""));
	put(out, ",\"format\":\"gguf\",\"family\":");
	buf_append_json(out, str_from(architecture));
	put(out, ",\"families\":[");
	if (architecture[0])
		buf_append_json(out, str_from(architecture));
	put(out, "],\"parameter_size\":\"");
	put_count(out, m ? m->fit.parameters : 0);
	put(out, "\",\"quantization_level\":");
	buf_append_json(out, str_from(m ? m->fit.quantization : ""));
	put(out, "}");
}

static const struct engine_info *info_of(const struct model *m)
{
	return m && m->engine && engine_state(m->engine) == ENGINE_READY ? engine_info(m->engine) : NULL;
}

static struct str bare_digest(const char *digest)
{
	struct str all = str_from(digest), prefix = STR("sha256:");

	return str_starts(all, prefix) ? (struct str){all.base + prefix.len, all.len - prefix.len} : all;
}

static void put_model(struct buf *out, const char *name, const char *digest, uint64_t size)
{
	put(out, "{\"name\":");
	buf_append_json(out, str_from(name));
	put(out, ",\"model\":");
	buf_append_json(out, str_from(name));
	buf_printf(out, ",\"size\":%llu,\"digest\":", (unsigned long long)size);
	buf_append_json(out, bare_digest(digest));
}

struct listing {
	struct gateway *g;
	struct buf out;
	size_t count;
	char began[25];
};

static void list_one(void *arg, const struct model_report *r, bool here)
{
	struct listing *l = arg;
	const struct model *m = here ? model_find(l->g, str_from(r->name)) : NULL;

	put(&l->out, l->count++ ? "," : "");
	put_model(&l->out, r->name, r->digest, r->total_bytes);
	buf_printf(&l->out, ",\"modified_at\":\"%s\",\"details\":", l->began);
	put_details(&l->out, m, info_of(m));
	put(&l->out, "}");
}

void ollama_tags(struct gateway *g, struct http_exchange *x)
{
	struct listing l = {.g = g};

	clock_format(g->begun_wall_s * US_PER_S, l.began);
	put(&l.out, "{\"models\":[");
	models_each(g, list_one, &l);
	put(&l.out, "]}");
	http_respond(x, 200, "application/json", buf_str(&l.out));
	buf_fini(&l.out);
}

void ollama_ps(struct gateway *g, struct http_exchange *x)
{
	struct buf out = {0};
	bool first = true;

	put(&out, "{\"models\":[");
	for (const struct model *m = g->models; m; m = m->following) {
		const struct engine_info *info = info_of(m);

		if (!info)
			continue;
		put(&out, first ? "" : ",");
		first = false;
		put_model(&out, m->name, m->digest, info->memory_bytes);
		put(&out, ",\"details\":");
		put_details(&out, m, info);
		buf_printf(&out, ",\"expires_at\":\"" NEVER "\",\"size_vram\":0,\"context_length\":%d}",
		           info->context_tokens);
	}
	put(&out, "]}");
	http_respond(x, 200, "application/json", buf_str(&out));
	buf_fini(&out);
}

void ollama_version(struct gateway *g, struct http_exchange *x)
{
	(void)g;
	http_respond(x, 200, "application/json", STR("{\"version\":\"" OLLAMA_LEVEL "\",\"mdn\":\"" MDN_VERSION "\"}"));
}

/* ---- show ------------------------------------------------------------------------------------------------------ */

/* Before a model is loaded its header tells; of one that another server runs, what was found when it was tried. */
static void put_capabilities(struct buf *out, const struct model *m, const struct engine_info *info)
{
	bool remote = info && info->server[0], generates = !info || !info->no_generation;
	const struct {
		const char *name;
		bool can;
	} all[] = {
	    {"completion", generates},
	    {"tools", generates && (remote ? info->chat && !info->no_tools : m && m->fit.calls_tools)},
	    {"insert", info && info->infill},
	    {"thinking", generates && m && !remote && m->fit.thinks},
	    {"embedding", info && info->embedding_size && info->no_generation},
	};
	const char *comma = "";

	put(out, ",\"capabilities\":[");
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (!all[i].can)
			continue;
		buf_printf(out, "%s\"%s\"", comma, all[i].name);
		comma = ",";
	}
	put(out, "]");
}

/* ,"ARCHITECTURE.of": number. What a model says of itself may hold anything. */
static void put_number(struct buf *out, const char *architecture, const char *of, int32_t number)
{
	char key[sizeof(((struct engine_info *)0)->architecture) + 32];

	join(key, sizeof(key), (const char *const[]){architecture, of, NULL});
	put(out, ",");
	buf_append_json(out, str_from(key));
	buf_printf(out, ":%d", number);
}

static void put_info(struct buf *out, const struct model *m, const struct engine_info *info)
{
	put(out, ",\"model_info\":{");
	if (info) {
		put(out, "\"general.architecture\":");
		buf_append_json(out, str_from(info->architecture));
		put_number(out, info->architecture, ".context_length", info->context_tokens);
		if (info->embedding_size)
			put_number(out, info->architecture, ".embedding_length", info->embedding_size);
		if (m->fit.parameters)
			buf_printf(out, ",\"general.parameter_count\":%llu", (unsigned long long)m->fit.parameters);
	}
	put(out, "}");
}

static void show(struct gateway *g, struct http_exchange *x, struct str name)
{
	struct fault fault = {0};
	struct buf one = {0}, out = {0};
	char text[NODE_TEXT_SIZE];

	if (!str_copy(name, text, sizeof(text)) || !models_one(g, name, &one)) {
		error_set(&fault.err, E_NOTFOUND, "model '%.*s' not found",
		          (int)(name.len < LIMIT_NAME ? name.len : LIMIT_NAME), name.base ? name.base : "");
		respond_fault(x, &dialect_ollama, &fault);
	} else {
		const struct model *m = model_find(g, str_from(text));
		const struct engine_info *info = info_of(m);

		put(&out, "{\"modelfile\":\"\",\"parameters\":\"\",\"template\":\"\",\"details\":");
		put_details(&out, m, info);
		put_info(&out, m, info);
		put_capabilities(&out, m, info);
		put(&out, "}");
		http_respond(x, 200, "application/json", buf_str(&out));
	}
	buf_fini(&one);
	buf_fini(&out);
}

static void on_show(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	struct fault fault = {0};
	struct str name = STR("");
	yyjson_doc *doc = NULL;
	int rc = err ? err->code : json_parse(body, &doc, &fault.err);

	if (err)
		fault.err = *err;
	if (rc == 0)
		rc = json_str(yyjson_doc_get_root(doc), "model", &name, &fault.err);
	if (rc == 0 && name.len == 0)
		rc = json_str(yyjson_doc_get_root(doc), "name", &name, &fault.err);
	if (rc == 0 && name.len == 0)
		rc = error_set(&fault.err, E_INVAL, "\"model\" is missing; GET /api/tags lists the names");
	if (rc < 0)
		respond_fault(x, &dialect_ollama, &fault);
	else
		show(arg, x, name);
	yyjson_doc_free(doc);
}

void ollama_show(struct gateway *g, struct http_exchange *x)
{
	http_body_collect(x, LIMIT_SMALL_BODY, on_show, g);
}
