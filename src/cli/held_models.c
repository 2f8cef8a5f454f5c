/* SPDX-License-Identifier: Apache-2.0 */
/* How a line comes about: on disk is one thing, whether it can answer is the engine's to say. The line of the version
 * that answers comes first, for that is the one that counts for requests (docs/wire.md, "Report"); it may be of a
 * version that is no longer assigned and answers until the one in its place can.
 */
#include "cli/held_models.h"

#include "base/limits.h"

#include <stdio.h>
#include <stdlib.h>

void held_name(const struct version *v, char ret_text[static NODE_TEXT_SIZE])
{
	struct buf text = {.max = NODE_TEXT_SIZE - 1};
	buf_printf(&text, "%s:%s", v->name, v->tag);
	str_copy(buf_str(&text), ret_text, NODE_TEXT_SIZE);
	buf_fini(&text);
}

void held_models_fini(struct held_models *h)
{
	for (size_t i = 0; i < h->count; i++) {
		version_fini(&h->items[i].version);
		free(h->items[i].unloadable);
	}
	for (size_t i = 0; i < h->lingering_count; i++)
		version_fini(&h->lingering[i]);
	free(h->lingering);
	free(h->items);
	*h = (struct held_models){0};
}

static bool same_name(const struct version *a, const struct version *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->tag, b->tag) == 0;
}

struct held_model *held_models_find(const struct held_models *h, const struct version *v)
{
	for (size_t i = 0; i < h->count; i++)
		if (same_name(&h->items[i].version, v) && digest_equal(&h->items[i].version.manifest, &v->manifest))
			return &h->items[i];
	return NULL;
}

bool held_same_files(const struct version *a, const struct version *b)
{
	bool same = a->file_count == b->file_count;
	for (size_t i = 0; same && i < a->file_count; i++)
		same = digest_equal(&a->files[i].digest, &b->files[i].digest) &&
		       strcmp(a->files[i].path, b->files[i].path) == 0;
	return same;
}

bool held_models_loads(const struct held_models *h, const struct version *like)
{
	for (size_t i = 0; i < h->count; i++)
		if (h->items[i].how.load && same_name(&h->items[i].version, like))
			return true;
	return false;
}

bool held_models_has_file(const struct held_models *h, const struct digest *d)
{
	for (size_t i = 0; i < h->count; i++)
		for (size_t k = 0; k < h->items[i].version.file_count; k++)
			if (digest_equal(&h->items[i].version.files[k].digest, d))
				return true;
	return false;
}

bool held_models_has_manifest(const struct held_models *h, const struct digest *manifest)
{
	for (size_t i = 0; i < h->count; i++)
		if (digest_equal(&h->items[i].version.manifest, manifest))
			return true;
	return false;
}

static bool version_needs(const struct version *v, const struct digest *d)
{
	for (size_t i = 0; i < v->file_count; i++)
		if (digest_equal(&v->files[i].digest, d) || digest_equal(&v->files[i].chunks, d))
			return true;
	for (size_t i = 0; i < v->signature_count; i++)
		if (digest_equal(&v->signatures[i].digest, d))
			return true;
	return false;
}

static bool is_used(const struct gateway *gateway, const struct version *v)
{
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&v->manifest, digest);
	return gateway_holds(gateway, str_from(digest));
}

bool held_models_needs(const struct held_models *h, const struct gateway *gateway, const struct digest *d)
{
	for (size_t i = 0; i < h->count; i++)
		if (version_needs(&h->items[i].version, d))
			return true;
	for (size_t i = 0; i < h->lingering_count; i++)
		if (version_needs(&h->lingering[i], d) && is_used(gateway, &h->lingering[i]))
			return true;
	return false;
}

bool held_models_lingers(const struct held_models *h, const struct digest *manifest)
{
	for (size_t i = 0; i < h->lingering_count; i++)
		if (digest_equal(&h->lingering[i].manifest, manifest))
			return true;
	return false;
}

bool held_models_take_gone(struct held_models *h, const struct gateway *gateway, struct version *ret_version)
{
	for (size_t i = 0; i < h->lingering_count; i++) {
		if (is_used(gateway, &h->lingering[i]))
			continue;
		*ret_version = h->lingering[i];
		h->lingering[i] = h->lingering[--h->lingering_count];
		return true;
	}
	return false;
}

static void linger(struct held_models *to, const struct version *v, const struct gateway *gateway)
{
	if (!is_used(gateway, v) || held_models_has_manifest(to, &v->manifest))
		return;
	to->lingering = mem_resize(to->lingering, to->lingering_count + 1, sizeof *to->lingering);
	version_copy(v, &to->lingering[to->lingering_count++]);
}

bool held_is_on_disk(const struct peer *peer, const struct version *v)
{
	char name[NODE_TEXT_SIZE];
	struct model_report disk;
	held_name(v, name);
	return peer_progress_of(peer, str_from(name), &v->manifest, &disk) && disk.state == MODEL_READY;
}

void held_models_assign(struct held_models *h, const struct assignment *a, const struct peer *peer,
                        const struct gateway *gateway)
{
	struct held_models now = {mem_new((a->count + 1) * sizeof *now.items), a->count, NULL, 0};
	for (size_t i = 0; i < a->count; i++) {
		struct held_model *m = &now.items[i], *before = held_models_find(h, &a->versions[i]);
		struct model_report disk;
		char name[NODE_TEXT_SIZE];
		version_copy(&a->versions[i], &m->version);
		m->how = a->how[i];
		if (!before)
			continue;
		m->unloadable = before->unloadable;
		before->unloadable = NULL;
		m->allowed = before->allowed && held_same_files(&m->version, &before->version);
		m->have_bytes = before->have_bytes;
		held_name(&m->version, name);
		if (peer_progress_of(peer, str_from(name), &m->version.manifest, &disk))
			m->have_bytes = disk.have_bytes;
	}
	for (size_t i = 0; i < h->count; i++)
		linger(&now, &h->items[i].version, gateway);
	for (size_t i = 0; i < h->lingering_count; i++)
		linger(&now, &h->lingering[i], gateway);
	held_models_fini(h);
	*h = now;
}

/* ---- reports ------------------------------------------------------------------------------------------- */

static void disk_line(const struct held_model *m, const struct peer *peer, struct model_report *r)
{
	char name[NODE_TEXT_SIZE];
	held_name(&m->version, name);
	if (!peer_progress_of(peer, str_from(name), &m->version.manifest, r)) {
		*r = (struct model_report){
		    .state = MODEL_PAUSED, .have_bytes = m->have_bytes, .total_bytes = version_size(&m->version)};
		memcpy(r->name, name, sizeof r->name);
		digest_format(&m->version.manifest, r->digest);
		return;
	}
	if (r->state != MODEL_READY)
		return;
	r->state = m->unloadable ? MODEL_FAILED : m->how.load ? MODEL_LOADING : MODEL_CACHED;
	if (m->unloadable)
		snprintf(r->error, sizeof r->error, "%s", m->unloadable);
}

/* An engine that has the version knows best. */
static bool engine_line(const struct gateway *gateway, const struct model_report *disk, struct model_report *r)
{
	struct str name = str_from(disk->name);
	if (!(gateway_model_report(gateway, name, r) && strcmp(r->digest, disk->digest) == 0) &&
	    !(gateway_model_next(gateway, name, r) && strcmp(r->digest, disk->digest) == 0))
		return false;
	r->have_bytes = disk->have_bytes;
	r->total_bytes = disk->total_bytes;
	return true;
}

static void add_line(struct node_report *report, const struct model_report *line)
{
	if (report->model_count < LIMIT_NODE_MODELS)
		report->models[report->model_count++] = *line;
}

static bool is_first_of_name(const struct held_models *h, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (same_name(&h->items[k].version, &h->items[i].version))
			return false;
	return true;
}

void held_models_report(const struct held_models *h, const struct peer *peer, const struct gateway *gateway,
                        struct node_report *report)
{
	struct model_report *lines = mem_new((h->count + 1) * sizeof *lines);
	report->models = mem_new((2 * h->count + 1) * sizeof *report->models);
	for (size_t i = 0; i < h->count; i++) {
		struct model_report disk, engine;
		disk_line(&h->items[i], peer, &disk);
		bool failed = disk.state == MODEL_FAILED && h->items[i].unloadable;
		lines[i] =
		    engine_line(gateway, &disk, &engine) && !(failed && engine.state != MODEL_READY) ? engine : disk;
	}
	for (size_t i = 0; i < h->count; i++) {
		struct model_report answers;
		char name[NODE_TEXT_SIZE];
		struct digest manifest;
		held_name(&h->items[i].version, name);
		/* one that answers but is assigned no longer */
		if (is_first_of_name(h, i) && gateway_model_report(gateway, str_from(name), &answers) &&
		    digest_parse(str_from(answers.digest), &manifest) == 0 && !held_models_has_manifest(h, &manifest))
			add_line(report, &answers);
	}
	for (size_t i = 0; i < h->count; i++)
		if (lines[i].state == MODEL_READY)
			add_line(report, &lines[i]);
	for (size_t i = 0; i < h->count; i++)
		if (lines[i].state != MODEL_READY)
			add_line(report, &lines[i]);
	free(lines);
}
