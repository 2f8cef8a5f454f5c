/* SPDX-License-Identifier: Apache-2.0 */
/* From files on the disk to a model that answers. The peer says that they are here, the trust policy whether they may
 * be loaded; encrypted ones are decrypted into memory first; then the gateway gets a path. What the policy refuses is
 * taken from the gateway wherever it is by then.
 */
#include "cli/node_room.h"

#include "base/log.h"
#include "cli/model_files.h"

#include <stdio.h>
#include <stdlib.h>

static void name_tag_of(const struct version *v, char *ret_text, size_t size)
{
	snprintf(ret_text, size, "%s:%s", v->name, v->tag);
}

static void load_model(struct node *n, struct held_model *m)
{
	const struct version *v = &m->version;
	struct error err = {0};
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE], *path = NULL;
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	int rc = model_files_path(n->sealed, n->config->data, v, &path, &err);
	if (rc == E_BUSY)
		return; /* node_on_decrypted comes back */
	if (rc || gateway_model_add_on(n->gateway, str_from(name), str_from(digest), str_from(path),
	                               str_from(v->base_model), &err)) {
		log_error("node", "%s cannot be loaded: %s", name, err.text);
		if (!m->unloadable)
			m->unloadable = str_dup(str_from(err.text));
	}
	free(path);
	member_report_soon(n->member);
}

static bool serves(const struct node *n, const struct version *v)
{
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
	struct model_report line;
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	return gateway_model_report(n->gateway, str_from(name), &line) && model_report_serves(&line) &&
	       strcmp(line.digest, digest) == 0;
}

static bool is_in_engine(const struct node *n, const struct version *v)
{
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&v->manifest, digest);
	return gateway_holds(n->gateway, str_from(digest));
}

static void ask(struct node *n, struct held_model *m)
{
	m->allowed = false;
	trust_gate_ask(n->gate, &m->version, m->how.load, serves(n, &m->version));
}

/* It may be loaded no longer: what answers, what waits, and what is on its way. One of the same name may have been in
 * line behind it, and is asked about again. */
static void unload(struct node *n, const struct version *v)
{
	char name[2 * NODE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
	name_tag_of(v, name, sizeof name);
	digest_format(&v->manifest, digest);
	if (!gateway_model_drop(n->gateway, str_from(name), str_from(digest)))
		return;
	for (size_t i = 0; i < n->held.count; i++) {
		struct held_model *m = &n->held.items[i];
		if (m->how.load && m->allowed && !digest_equal(&m->version.manifest, &v->manifest) &&
		    strcmp(m->version.name, v->name) == 0 && strcmp(m->version.tag, v->tag) == 0)
			ask(n, m);
	}
	member_report_soon(n->member);
}

void node_on_verdict(void *arg, const struct version *v, const struct error *err)
{
	struct node *n = arg;
	char name[2 * NODE_TEXT_SIZE];
	struct held_model *own = held_models_find(&n->held, v);
	name_tag_of(v, name, sizeof name);
	if (!own) { /* another version has the name now, but this one may still answer */
		if (err && is_in_engine(n, v))
			log_error("node", "a version of %s that still answered may not: %s", name, err->text);
		if (err)
			unload(n, v);
		return;
	}
	if (!held_same_files(&own->version, v)) {
		ask(n, own); /* the verdict is not about these */
		return;
	}
	free(own->unloadable);
	own->unloadable = NULL;
	own->allowed = !err;
	if (!err) {
		if (own->how.load)
			load_model(n, own);
		return;
	}
	log_error("node", "%s is not loaded: %s", name, err->text);
	own->unloadable = str_dup(str_from(err->text));
	unload(n, &own->version);
	member_report_soon(n->member);
}

void node_on_model_here(void *arg, const struct version *v)
{
	struct node *n = arg;
	struct held_model *own = n->gateway ? held_models_find(&n->held, v) : NULL;
	if (own) /* also of what is not to be loaded yet: then a switch waits for no hashing */
		ask(n, own);
}

/* What is on the disk, and what still answers, is judged by the policy as it is now. */
void node_judge_again(struct node *n)
{
	for (size_t i = 0; i < n->held.count; i++)
		if (held_is_on_disk(n->peer, &n->held.items[i].version))
			ask(n, &n->held.items[i]);
	for (size_t i = 0; i < n->held.lingering_count; i++)
		if (is_in_engine(n, &n->held.lingering[i]))
			trust_gate_ask(n->gate, &n->held.lingering[i], false, true);
}

void node_on_decrypted(void *arg, const struct digest *d, const struct error *err)
{
	struct node *n = arg;
	for (size_t i = 0; i < n->held.count; i++) {
		struct held_model *m = &n->held.items[i];
		if (!m->how.load || !model_files_has(&m->version, d))
			continue;
		if (!err && m->allowed) { /* the file may also be of one that was refused */
			load_model(n, m);
		} else if (err && !m->unloadable) {
			log_error("node", "%s:%s cannot be loaded: %s", m->version.name, m->version.tag, err->text);
			m->unloadable = str_dup(str_from(err->text));
		}
	}
	member_report_soon(n->member);
}
