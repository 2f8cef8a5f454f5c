/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/repository/hf_path.h"

struct word {
	const char *word;
	enum hf_ask ask;
};

/* Cuts "ID/WORD/REST" at the first of the words that can stand there: after one part or two. */
static enum hf_ask cut_at(struct str path, const struct word *words, struct str *ret_id, struct str *ret_rest)
{
	size_t slash = 0;
	for (int parts = 1; parts <= 2; parts++) {
		const char *at = memchr(path.base + slash, '/', path.len - slash);
		if (!at)
			return HF_NOTHING;
		size_t end = (size_t)(at - path.base);
		struct str rest, word = str_cut((struct str){at + 1, path.len - end - 1}, '/', &rest);
		for (const struct word *w = words; w->word; w++)
			if (str_equal(word, str_from(w->word))) {
				*ret_id = (struct str){path.base, end};
				*ret_rest = rest;
				return w->ask;
			}
		slash = end + 1;
	}
	return HF_NOTHING;
}

/* REV/PATH. refs/KIND/NAME was one percent-encoded part. */
static void cut_revision(struct str text, struct hf_path *p)
{
	size_t parts = str_starts(text, STR("refs/")) ? 3 : 1, at = 0;
	while (at < text.len && (text.base[at] != '/' || --parts))
		at++;
	if (text.len)
		p->revision = (struct str){text.base, at};
	p->path = at < text.len ? (struct str){text.base + at + 1, text.len - at - 1} : STR("");
}

static struct str after(struct str path, size_t len)
{
	return (struct str){path.base + len, path.len - len};
}

static bool is_other(struct str path)
{
	static const char *const others[] = {"/api/datasets", "/api/spaces", "/api/buckets", "/datasets/", "/spaces/"};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (str_starts(path, str_from(others[i])))
			return true;
	return false;
}

struct hf_path hf_path_parse(struct str path)
{
	static const struct word in_api[] = {{"revision", HF_INFO}, {"tree", HF_TREE},       {"paths-info", HF_PATHS},
	                                     {"refs", HF_REFS},     {"commits", HF_COMMITS}, {NULL, HF_NOTHING}};
	static const struct word files[] = {{"resolve", HF_FILE}, {"raw", HF_FILE}, {NULL, HF_NOTHING}};
	struct hf_path p = {.revision = STR("main")};
	struct str models = STR("/api/models"), rest = STR("");
	if (str_starts(path, STR("/v2/")) || str_starts(path, STR("/mdn/")))
		return p;
	if (str_equal(path, STR("/api/whoami-v2"))) {
		p.ask = HF_WHOAMI;
	} else if (str_equal(path, models) || str_equal(path, STR("/api/models/"))) {
		p.ask = HF_LIST;
	} else if (str_starts(path, STR("/api/models/"))) {
		p.id = after(path, models.len + 1);
		p.ask = cut_at(p.id, in_api, &p.id, &rest);
		if (p.ask == HF_NOTHING)
			p.ask = HF_INFO;
	} else if (is_other(path)) {
		p.ask = HF_OTHER;
	} else if (path.len > 1) {
		p.ask = cut_at(after(path, 1), files, &p.id, &rest);
	}
	if (rest.len)
		cut_revision(rest, &p);
	return p;
}
