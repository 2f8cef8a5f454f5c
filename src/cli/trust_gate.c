/* SPDX-License-Identifier: Apache-2.0 */
/* How: the loop finds the rule and what is remembered, a job decides and hashes, the loop remembers and tells. A policy
 * is counted by those who use it, so that a reload does not pull it from under a job. Two versions of one channel may
 * be in question at once: when a number was believed meanwhile, the other is asked about again.
 *
 * What is remembered of a version is not that it is good, but which signed list its files were compared with: under
 * another rule another signature may count, whose list (of shards) may say something else of the same names.
 */
#include "cli/trust_gate.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "store/state.h"
#include "store/trust.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PIECE (1 << 20)
#define SPACE_CHECKED "checked"
#define SPACE_SEEN "channel"

struct policy_ref {
	struct trust_policy *policy;
	size_t refs;
};

struct trust_gate {
	struct trust_gate_options o;
	struct state *state;
	struct policy_ref *current; /* NULL: no policy */
	size_t refs;                /* of the owner and of questions under way */
	bool freed;
};

struct question {
	struct trust_gate *g;
	struct policy_ref *policy;
	struct version version;
	struct trust_question q;
	struct trust_answer answer;
	struct channel_seen seen;          /* when it was asked */
	char key[2 * DIGEST_SIZE + 1];     /* of what is remembered; empty: nothing */
	char model[2 * DIGEST_SIZE + 1];   /* what the signature that counts says of the files */
	char checked[2 * DIGEST_SIZE + 1]; /* what the files were found to be before; empty: not looked at yet */
	bool loads;
	int rc;
	struct error err;
};

static void policy_release(struct policy_ref *p)
{
	if (!p || --p->refs)
		return;
	trust_policy_free(p->policy);
	free(p);
}

static void gate_release(struct trust_gate *g)
{
	if (--g->refs)
		return;
	policy_release(g->current);
	state_close(g->state);
	free(g);
}

/* ---- the content -------------------------------------------------------------------------------- */

static int hash_range(const struct blob_file *f, uint64_t from, uint64_t to, struct digest *ret_digest,
                      struct error *err)
{
	struct digest_stream *s = digest_stream_new();
	char *piece = mem_new(PIECE);
	int rc = 0;
	for (uint64_t at = from; !rc && at < to;) {
		size_t len = to - at < PIECE ? (size_t)(to - at) : PIECE;
		rc = blob_file_read(f, at, piece, len, err);
		if (!rc)
			digest_stream_add(s, piece, len);
		at += len;
	}
	if (!rc)
		*ret_digest = digest_stream_end(s);
	digest_stream_free(s);
	free(piece);
	return rc;
}

/* The items of a file as the signature cuts it, from what is on the disk. */
static int add_file(struct blob_store *blobs, const struct version_file *file, struct signed_model *have,
                    struct error *err)
{
	struct blob_file *f;
	struct digest d;
	int rc = blob_file_open(blobs, &file->digest, &f, err);
	if (rc)
		return rc;
	uint64_t size = blob_file_size(f), step = have->shards ? have->shard_size : size;
	for (uint64_t at = 0; !rc && (at < size || (at == 0 && !have->shards));) {
		uint64_t end = size - at < step ? size : at + step;
		rc = hash_range(f, at, end, &d, err);
		if (!rc)
			signed_model_add(have, str_from(file->path), have->shards ? at : 0, have->shards ? end : 0, &d);
		if (end == size)
			break;
		at = end;
	}
	blob_file_close(f);
	return rc;
}

static bool is_signed(const struct signed_model *m, const char *path)
{
	for (size_t i = 0; i < m->item_count; i++)
		if (!strcmp(m->items[i].path, path))
			return true;
	return false;
}

static int check_content(struct question *q)
{
	struct signed_model *want = &q->answer.model;
	struct signed_model have = {.shards = want->shards, .shard_size = want->shard_size};
	int rc = 0;
	if (q->version.file_count == 1) /* a signature on one file calls it "." */
		for (size_t i = 0; i < want->item_count; i++) {
			free(want->items[i].path);
			want->items[i].path = str_dup(str_from(q->version.files[0].path));
		}
	signed_model_sort(want);
	for (size_t i = 0; !rc && i < q->version.file_count; i++)
		if (is_signed(want, q->version.files[i].path))
			rc = add_file(q->g->o.blobs, &q->version.files[i], &have, &q->err);
	signed_model_sort(&have);
	if (!rc)
		rc = signed_model_compare(want, &have, &q->err);
	signed_model_fini(&have);
	return rc;
}

/* ---- the job ------------------------------------------------------------------------------------ */

static void name_model(struct signed_model *m, char ret_hex[static 2 * DIGEST_SIZE + 1])
{
	struct buf text = {0};
	signed_model_format(m, &text);
	struct digest d = digest_of(text.base, text.len);
	hex_encode(d.bytes, DIGEST_SIZE, ret_hex);
	buf_fini(&text);
}

static bool is_known(const struct question *q)
{
	return q->checked[0] && !strcmp(q->checked, q->model);
}

static void decide(void *arg)
{
	struct question *q = arg;
	struct buf bundles[VERSION_SIGNATURES_MAX] = {0};
	struct str texts[VERSION_SIGNATURES_MAX];
	for (size_t i = 0; i < q->version.signature_count && i < VERSION_SIGNATURES_MAX; i++)
		if (!blob_read_all(q->g->o.blobs, &q->version.signatures[i].digest, LIMIT_SIGNATURE, &bundles[i], NULL))
			texts[q->q.bundle_count++] = buf_str(&bundles[i]);
	q->q.bundles = texts;
	q->rc = trust_decide(&q->q, &q->answer, &q->err);
	if (!q->rc)
		name_model(&q->answer.model, q->model);
	if (!q->rc && !is_known(q))
		q->rc = check_content(q);
	for (size_t i = 0; i < VERSION_SIGNATURES_MAX; i++)
		buf_fini(&bundles[i]);
}

static void name_of(const struct version *v, char ret_name[static 260])
{
	snprintf(ret_name, 260, "%s:%s", v->name, v->tag);
}

/* E_CORRUPT: it was told once and cannot be read now; then nothing is believed, for it might be an old version. */
static int seen_of(struct trust_gate *g, const struct version *v, struct channel_seen *ret_seen, struct error *err)
{
	char name[260];
	struct channel_seen seen = {0};
	struct buf value = {0};
	struct str digest;
	struct error why = {0};
	name_of(v, name);
	int rc = state_get(g->state, SPACE_SEEN, str_from(name), &value, &why);
	if (rc == E_NOTFOUND)
		rc = 0;
	else if (!rc && (str_to_u64(str_cut(buf_str(&value), ' ', &digest), &seen.counter) ||
	                 digest_parse(digest, &seen.manifest)))
		rc = error_set(&why, E_CORRUPT, "it is no number and digest");
	buf_fini(&value);
	if (rc)
		return error_set(err, rc,
		                 "which statement on %s was believed last cannot be read from trust.db in the data "
		                 "folder (put back a copy of the file, or remove it to believe anew): %s",
		                 name, why.text);
	*ret_seen = seen;
	return 0;
}

static int remember_seen(struct question *q)
{
	char name[260], digest[DIGEST_TEXT_SIZE];
	struct buf value = {0};
	if (!q->loads || q->answer.seen.counter <= q->seen.counter)
		return 0;
	name_of(&q->version, name);
	digest_format(&q->answer.seen.manifest, digest);
	buf_printf(&value, "%llu %s", (unsigned long long)q->answer.seen.counter, digest);
	int rc = state_put(q->g->state, SPACE_SEEN, str_from(name), buf_str(&value), &q->err);
	buf_fini(&value);
	return rc;
}

/* What cannot be remembered is not believed: it could be rolled back. */
static int remember(struct question *q)
{
	int rc = 0;
	if (q->key[0] && !is_known(q))
		rc = state_put(q->g->state, SPACE_CHECKED, str_from(q->key), str_from(q->model), &q->err);
	return rc ? rc : remember_seen(q);
}

/* Another statement on the channel was believed while this one was looked at. */
static bool is_overtaken(struct question *q)
{
	struct channel_seen now;
	q->rc = seen_of(q->g, &q->version, &now, &q->err);
	return !q->rc && now.counter != q->seen.counter;
}

static void decided(void *arg)
{
	struct question *q = arg;
	struct trust_gate *g = q->g;
	bool current = !g->freed && q->policy == g->current;
	bool again = current && !q->rc && is_overtaken(q);
	if (!q->rc && !again)
		q->rc = remember(q);
	if (!q->rc && !again && !is_known(q))
		log_info("trust", "%s:%s is signed by %s, and is what was signed", q->version.name, q->version.tag,
		         q->answer.who);
	signed_model_fini(&q->answer.model);
	if (again)
		trust_gate_ask(g, &q->version, q->loads, q->q.serves);
	else if (current)
		g->o.on_verdict(g->o.arg, &q->version, q->rc ? &q->err : NULL);
	policy_release(q->policy);
	version_fini(&q->version);
	free(q);
	gate_release(g);
}

/* ---- asking ------------------------------------------------------------------------------------- */

static bool is_here(void *arg, const char *nodes)
{
	const struct trust_gate *g = arg;
	struct selector s;
	if (selector_parse(str_from(nodes), &s, NULL))
		return false;
	bool here = selector_match(&s, &g->o.self);
	selector_fini(&s);
	return here;
}

/* Which file on the disk it is: one that was removed and came anew is another, whatever its name. False: cannot be
 * told, as with encrypted ones. */
static bool add_instance(struct blob_store *blobs, const struct digest *d, struct digest_stream *to)
{
	struct blob_file *f;
	struct statx x;
	if (blob_file_open(blobs, d, &f, NULL))
		return false;
	int fd = blob_file_fd(f);
	bool known = fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &x) == 0 &&
	             (x.stx_mask & STATX_INO) && (x.stx_mask & STATX_BTIME);
	if (known) {
		digest_stream_add(to, &x.stx_ino, sizeof x.stx_ino);
		digest_stream_add(to, &x.stx_btime.tv_sec, sizeof x.stx_btime.tv_sec);
		digest_stream_add(to, &x.stx_btime.tv_nsec, sizeof x.stx_btime.tv_nsec);
	}
	blob_file_close(f);
	return known;
}

/* Names policy, signatures, and the very files: another of any is looked at anew. False: nothing to remember it by. */
static bool key_of(const struct trust_gate *g, const struct version *v, char ret_key[static 2 * DIGEST_SIZE + 1])
{
	struct digest_stream *s = digest_stream_new();
	bool known = true;
	digest_stream_add(s, g->current->policy->digest.bytes, DIGEST_SIZE);
	for (size_t i = 0; i < v->file_count; i++) {
		digest_stream_add(s, v->files[i].path, strlen(v->files[i].path) + 1);
		digest_stream_add(s, v->files[i].digest.bytes, DIGEST_SIZE);
		known = known && add_instance(g->o.blobs, &v->files[i].digest, s);
	}
	for (size_t i = 0; i < v->signature_count; i++)
		digest_stream_add(s, v->signatures[i].digest.bytes, DIGEST_SIZE);
	struct digest d = digest_stream_end(s);
	hex_encode(d.bytes, DIGEST_SIZE, ret_key);
	digest_stream_free(s);
	return known;
}

/* What its files were found to be. */
static void recall(struct trust_gate *g, const struct version *v, struct question *q)
{
	struct buf value = {0};
	if (!key_of(g, v, q->key))
		q->key[0] = 0;
	else if (!state_get(g->state, SPACE_CHECKED, str_from(q->key), &value, NULL))
		str_copy(buf_str(&value), q->checked, sizeof q->checked);
	buf_fini(&value);
}

/* To the job. A version that serves was believed once; then neither age nor newer statements count. */
static void put_question(struct trust_gate *g, const struct trust_rule *rule, const struct version *v, bool loads,
                         bool serves, const struct channel_seen *seen)
{
	struct question *q = NEW(struct question);
	q->g = g;
	q->policy = g->current;
	q->policy->refs++;
	g->refs++;
	q->seen = *seen;
	q->loads = loads;
	version_copy(v, &q->version);
	recall(g, v, q);
	q->q = (struct trust_question){
	    .version = &q->version,
	    .policy = q->policy->policy,
	    .rule = rule,
	    .seen = serves ? (struct channel_seen){0} : *seen,
	    .serves = serves,
	    .now_wall_us = clock_wall_us(),
	};
	loop_job(g->o.loop, decide, decided, q);
}

void trust_gate_ask(struct trust_gate *g, const struct version *v, bool loads, bool serves)
{
	char name[260];
	struct error err = {0};
	struct channel_seen seen;
	name_of(v, name);
	const struct trust_rule *rule =
	    g->current ? trust_rule_for(g->current->policy, str_from(name), is_here, g) : NULL;
	if (!g->current || (rule && !rule->require)) {
		g->o.on_verdict(g->o.arg, v, NULL);
		return;
	}
	if (!rule)
		error_set(&err, E_FORBIDDEN, "no rule of the trust policy fits %s on this node", name);
	else
		seen_of(g, v, &seen, &err);
	if (err.code)
		g->o.on_verdict(g->o.arg, v, &err);
	else
		put_question(g, rule, v, loads, serves, &seen);
}

/* ---- life --------------------------------------------------------------------------------------- */

static int read_policy(const char *path, struct trust_policy **ret_policy, struct error *err)
{
	int rc = trust_policy_read(path, ret_policy, err);
	for (size_t i = 0; !rc && i < (*ret_policy)->rule_count; i++) {
		struct selector s;
		const char *nodes = (*ret_policy)->rules[i].nodes;
		if (!nodes)
			continue;
		rc = selector_parse(str_from(nodes), &s, err);
		if (!rc)
			selector_fini(&s);
		else
			error_prefix(err, "%s: `nodes`: ", path);
	}
	if (rc && *ret_policy) {
		trust_policy_free(*ret_policy);
		*ret_policy = NULL;
	}
	return rc;
}

int trust_gate_try(const struct trust_gate *g, const char *policy_path, struct error *err)
{
	struct trust_policy *p = NULL;
	int rc = policy_path[0] ? read_policy(policy_path, &p, err) : 0;
	trust_policy_free(p);
	return rc;
}

int trust_gate_reload(struct trust_gate *g, const char *policy_path, struct error *err)
{
	struct trust_policy *p = NULL;
	int rc = policy_path[0] ? read_policy(policy_path, &p, err) : 0;
	if (rc)
		return rc;
	policy_release(g->current);
	g->current = NULL;
	if (p) {
		g->current = NEW(struct policy_ref);
		*g->current = (struct policy_ref){p, 1};
	}
	return 0;
}

int trust_gate_new(const struct trust_gate_options *o, const char *policy_path, struct trust_gate **ret_gate,
                   struct error *err)
{
	struct trust_gate *g = NEW(struct trust_gate);
	char *path = file_join(str_from(o->data), "trust.db");
	g->o = *o;
	g->refs = 1;
	int rc = state_open(str_from(path), &g->state, err);
	if (!rc)
		rc = trust_gate_reload(g, policy_path, err);
	free(path);
	if (rc) {
		trust_gate_free(g);
		return rc;
	}
	*ret_gate = g;
	return 0;
}

void trust_gate_free(struct trust_gate *g)
{
	if (!g)
		return;
	g->freed = true;
	gate_release(g);
}

bool trust_gate_has_policy(const struct trust_gate *g)
{
	return g->current != NULL;
}
