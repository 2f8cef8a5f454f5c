/* SPDX-License-Identifier: Apache-2.0 */
/* libcyaml reads the file against a schema, so unknown keys and wrong types are refused with their line. What it cannot
 * know is checked after: that signers exist, keys can be used, and a rule that requires a signature names a signer.
 */
#include "store/trust.h"

#include "base/file.h"
#include "base/pattern.h"

#include <cyaml/cyaml.h>
#include <stdio.h>
#include <stdlib.h>

#define POLICY_MAX (1 << 20)
#define PEM_MAX (1 << 20)
#define RULES_MAX 1024

/* ---- the file ----------------------------------------------------------------------------------- */

struct raw_signer {
	char *name, *key, *roots, *subject;
};
struct raw_rule {
	char **models;
	unsigned models_count;
	char *nodes;
	char **signers;
	unsigned signers_count;
	bool *require;
	char *statements;
};
struct raw {
	unsigned version;
	struct raw_signer *signers;
	unsigned signers_count;
	struct raw_rule *rules;
	unsigned rules_count;
};

#define POINTER_OPTIONAL (CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL)
static const cyaml_schema_field_t signer_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct raw_signer, name, 1, 128),
    CYAML_FIELD_STRING_PTR("key", POINTER_OPTIONAL, struct raw_signer, key, 1, 4096),
    CYAML_FIELD_STRING_PTR("roots", POINTER_OPTIONAL, struct raw_signer, roots, 1, 4096),
    CYAML_FIELD_STRING_PTR("subject", POINTER_OPTIONAL, struct raw_signer, subject, 1, 255),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t signer_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_signer, signer_fields)};
static const cyaml_schema_value_t text_schema = {CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, 256)};
static const cyaml_schema_field_t rule_fields[] = {
    CYAML_FIELD_SEQUENCE("models", CYAML_FLAG_POINTER, struct raw_rule, models, &text_schema, 1, RULES_MAX),
    CYAML_FIELD_STRING_PTR("nodes", POINTER_OPTIONAL, struct raw_rule, nodes, 1, 4096),
    CYAML_FIELD_SEQUENCE("signers", POINTER_OPTIONAL, struct raw_rule, signers, &text_schema, 0, RULES_MAX),
    CYAML_FIELD_BOOL_PTR("require", POINTER_OPTIONAL, struct raw_rule, require),
    CYAML_FIELD_STRING_PTR("statements", POINTER_OPTIONAL, struct raw_rule, statements, 1, 16),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t rule_schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_rule, rule_fields)};
static const cyaml_schema_field_t policy_fields[] = {
    CYAML_FIELD_UINT("version", CYAML_FLAG_DEFAULT, struct raw, version),
    CYAML_FIELD_SEQUENCE("signers", POINTER_OPTIONAL, struct raw, signers, &signer_schema, 0, RULES_MAX),
    CYAML_FIELD_SEQUENCE("rules", CYAML_FLAG_POINTER, struct raw, rules, &rule_schema, 0, RULES_MAX),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t policy_schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw, policy_fields)};

/* libcyaml says what is wrong in its first message and where in the last. */
struct cyaml_words {
	char what[200], where[200];
};

static void keep_words(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
	struct cyaml_words *words = ctx;
	char line[200];
	vsnprintf(line, sizeof line, format, args);
	line[strcspn(line, "\n")] = 0;
	const char *text = strncmp(line, "Load: ", 6) ? line : line + 6;
	char *to = words->what[0] ? words->where : words->what;
	snprintf(to, sizeof words->what, "%s", text + strspn(text, " "));
}

struct reading {
	const char *name, *folder;
	struct trust_policy *policy;
	struct digest_stream *digest;
	struct error *err;
};

static int bad(const struct reading *r, const char *what, const char *which)
{
	return error_set(r->err, E_INVAL, "%s: %s %s", r->name, what, which);
}

static int read_pem(struct reading *r, const char *file, struct buf *out)
{
	char *path = file[0] == '/' ? str_dup(str_from(file)) : file_join(str_from(r->folder), file);
	int rc = file_read(path, PEM_MAX, out, r->err);
	free(path);
	if (!rc)
		digest_stream_add(r->digest, out->base ? out->base : "", out->len);
	return rc ? error_prefix(r->err, "%s: ", r->name) : 0;
}

static int take_signer(struct reading *r, const struct raw_signer *raw, struct trust_signer *s)
{
	s->name = str_dup(str_from(raw->name));
	s->subject = raw->subject ? str_dup(str_from(raw->subject)) : NULL;
	if (!raw->key == !raw->roots)
		return bad(r, "say `key` or `roots`, one of them, for the signer", raw->name);
	if (raw->key && raw->subject)
		return bad(r, "a key has no subject: take it from the signer", raw->name);
	if (!r->folder)
		return 0;
	int rc = read_pem(r, raw->key ? raw->key : raw->roots, raw->key ? &s->key_pem : &s->roots_pem);
	struct envelope_trust trust = {.key_pem = buf_str(&s->key_pem), .roots_pem = buf_str(&s->roots_pem)};
	if (!rc && (rc = envelope_trust_check(&trust, r->err)))
		error_prefix(r->err, "%s: signer %s: ", r->name, raw->name);
	return rc;
}

static const struct trust_signer *signer_named(const struct trust_policy *p, const char *name)
{
	for (size_t i = 0; i < p->signer_count; i++)
		if (!strcmp(p->signers[i].name, name))
			return &p->signers[i];
	return NULL;
}

static char **copy_texts(char **from, unsigned count)
{
	char **to = mem_new((count + 1) * sizeof *to);
	for (unsigned i = 0; i < count; i++)
		to[i] = str_dup(str_from(from[i]));
	return to;
}

static int take_rule(struct reading *r, const struct raw_rule *raw, struct trust_rule *rule)
{
	rule->models = copy_texts(raw->models, raw->models_count);
	rule->model_count = raw->models_count;
	rule->nodes = raw->nodes ? str_dup(str_from(raw->nodes)) : NULL;
	rule->signers = copy_texts(raw->signers, raw->signers_count);
	rule->signer_count = raw->signers_count;
	rule->require = !raw->require || *raw->require;
	rule->statements_required = raw->statements && !strcmp(raw->statements, "required");
	if (raw->statements && !rule->statements_required && strcmp(raw->statements, "optional"))
		return bad(r, "`statements` is required or optional, not", raw->statements);
	for (unsigned i = 0; i < raw->signers_count; i++)
		if (!signer_named(r->policy, raw->signers[i]))
			return bad(r, "a rule names a signer that is not among `signers`:", raw->signers[i]);
	if (rule->require && !rule->signer_count)
		return bad(r, "a rule requires a signature but names no signer, for", raw->models[0]);
	if (!rule->require && rule->statements_required)
		return bad(r, "a rule requires statements but no signature, for", raw->models[0]);
	return 0;
}

static int take_policy(struct reading *r, const struct raw *raw)
{
	struct trust_policy *p = r->policy;
	int rc = raw->version == 1 ? 0 : bad(r, "`version` must be 1; this MDN knows", "no other");
	p->signers = mem_new((raw->signers_count + 1) * sizeof *p->signers);
	p->rules = mem_new((raw->rules_count + 1) * sizeof *p->rules);
	for (unsigned i = 0; !rc && i < raw->signers_count; i++) {
		if (signer_named(p, raw->signers[i].name))
			rc = bad(r, "two signers have the name", raw->signers[i].name);
		else
			rc = take_signer(r, &raw->signers[i], &p->signers[p->signer_count++]);
	}
	for (unsigned i = 0; !rc && i < raw->rules_count; i++)
		rc = take_rule(r, &raw->rules[i], &p->rules[p->rule_count++]);
	return rc;
}

int trust_policy_parse(const char *name, struct str text, const char *folder, struct trust_policy **ret_policy,
                       struct error *err)
{
	struct cyaml_words words = {0};
	const cyaml_config_t setting = {.log_fn = keep_words,
	                                .log_ctx = &words,
	                                .mem_fn = cyaml_mem,
	                                .log_level = CYAML_LOG_ERROR,
	                                .flags = CYAML_CFG_NO_ALIAS};
	struct raw *raw = NULL;
	if (text.len > POLICY_MAX || memchr(text.base ? text.base : "", 0, text.len))
		return error_set(err, E_INVAL, "%s: a trust policy is text of at most 1 MiB", name);
	cyaml_err_t why = cyaml_load_data((const uint8_t *)(text.base ? text.base : ""), text.len, &setting,
	                                  &policy_schema, (cyaml_data_t **)&raw, NULL);
	if (why != CYAML_OK || !raw)
		return error_set(err, E_INVAL, "%s: %s (%s)", name, words.what[0] ? words.what : cyaml_strerror(why),
		                 words.where[0] ? words.where : "see docs/signing.md");
	struct reading r = {name, folder, NEW(struct trust_policy), digest_stream_new(), err};
	digest_stream_add(r.digest, text.base, text.len);
	int rc = take_policy(&r, raw);
	if (!rc)
		r.policy->digest = digest_stream_end(r.digest);
	digest_stream_free(r.digest);
	cyaml_free(&setting, &policy_schema, raw, 0);
	if (rc) {
		trust_policy_free(r.policy);
		return rc;
	}
	*ret_policy = r.policy;
	return 0;
}

int trust_policy_read(const char *path, struct trust_policy **ret_policy, struct error *err)
{
	struct buf text = {0};
	const char *slash = strrchr(path, '/');
	char *folder = str_dup(slash ? (struct str){path, (size_t)(slash - path) + 1} : STR("."));
	int rc = file_read(path, POLICY_MAX, &text, err);
	if (rc)
		error_prefix(err, "trust_policy: ");
	else
		rc = trust_policy_parse(path, buf_str(&text), folder, ret_policy, err);
	buf_fini(&text);
	free(folder);
	return rc;
}

static void free_texts(char **texts, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		free(texts[i]);
	free(texts);
}

void trust_policy_free(struct trust_policy *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->signer_count; i++) {
		free(p->signers[i].name);
		free(p->signers[i].subject);
		buf_fini(&p->signers[i].key_pem);
		buf_fini(&p->signers[i].roots_pem);
	}
	for (size_t i = 0; i < p->rule_count; i++) {
		free_texts(p->rules[i].models, p->rules[i].model_count);
		free_texts(p->rules[i].signers, p->rules[i].signer_count);
		free(p->rules[i].nodes);
	}
	free(p->signers);
	free(p->rules);
	free(p);
}

/* ---- asking it ---------------------------------------------------------------------------------- */

const struct trust_rule *trust_rule_for(const struct trust_policy *p, struct str name_tag,
                                        bool (*is_here)(void *arg, const char *nodes), void *arg)
{
	for (size_t i = 0; i < p->rule_count; i++) {
		const struct trust_rule *rule = &p->rules[i];
		bool fits = false;
		for (unsigned k = 0; !fits && k < rule->model_count; k++)
			fits = pattern_match(str_from(rule->models[k]), name_tag);
		if (fits && (!rule->nodes || is_here(arg, rule->nodes)))
			return rule;
	}
	return NULL;
}

int trust_rule_verify(const struct trust_policy *p, const struct trust_rule *rule, const struct envelope *e,
                      char ret_who[ENVELOPE_NAME_SIZE], struct error *err)
{
	int rc = error_set(err, E_FORBIDDEN, "no signer is named");
	for (unsigned i = 0; rc && i < rule->signer_count; i++) {
		const struct trust_signer *s = signer_named(p, rule->signers[i]);
		struct envelope_trust trust = {.key_pem = buf_str(&s->key_pem),
		                               .roots_pem = buf_str(&s->roots_pem),
		                               .subject = s->subject ? str_from(s->subject) : STR("")};
		char who[ENVELOPE_NAME_SIZE];
		rc = envelope_verify(e, &trust, who, err);
		if (!rc)
			snprintf(ret_who, ENVELOPE_NAME_SIZE, "%.127s", s->name);
	}
	return rc ? E_FORBIDDEN : 0;
}

/* One bundle's part in the verdict: what it proves is added to the answer; the reason it proves nothing to err. */
static int take_bundle(const struct trust_question *q, struct str bundle, struct trust_answer *a, bool *ret_stated,
                       struct error *err)
{
	struct envelope e;
	struct channel c = {0};
	struct signed_model m = {0};
	char who[ENVELOPE_NAME_SIZE];
	int rc = envelope_parse(bundle, &e, err);
	if (rc)
		return rc;
	rc = trust_rule_verify(q->policy, q->rule, &e, who, err);
	int kind = rc ? rc : channel_parse(buf_str(&e.payload), &c, err);
	if (!kind) {
		rc = channel_check(&c, q->version, &q->seen, q->serves ? c.issued_wall_us : q->now_wall_us, err);
		*ret_stated = *ret_stated || !rc;
		if (!rc && c.counter > a->seen.counter)
			a->seen = (struct channel_seen){c.counter, c.manifest};
		m = c.files;
		c.files = (struct signed_model){0};
	} else if (kind == E_NOTFOUND) {
		rc = signed_model_parse(buf_str(&e.payload), &m, err);
	} else {
		rc = kind;
	}
	if (!rc)
		rc = signed_model_covers(&m, q->version, err);
	if (!rc && !a->who[0]) {
		memcpy(a->who, who, sizeof who);
		a->model = m;
		m = (struct signed_model){0};
	}
	signed_model_fini(&m);
	channel_fini(&c);
	envelope_fini(&e);
	return rc;
}

int trust_decide(const struct trust_question *q, struct trust_answer *ret_answer, struct error *err)
{
	struct trust_answer a = {.seen = q->seen};
	struct error signature_why = {0}, statement_why = {0};
	bool stated = false;
	for (size_t i = 0; i < q->bundle_count && i < TRUST_SIGNATURES_MAX; i++) {
		struct error why = {0};
		bool before = stated;
		struct channel_seen seen = a.seen;
		if (!take_bundle(q, q->bundles[i], &a, &stated, &why))
			continue;
		/* a statement whose files do not fit proves nothing */
		stated = before;
		a.seen = seen;
		signature_why = why;
		if (strstr(why.text, "statement"))
			statement_why = why;
	}
	int rc = 0;
	if (!a.who[0])
		rc = error_set(err, E_FORBIDDEN, "the trust policy wants it signed and it is not: %.300s",
		               signature_why.code ? signature_why.text : "there is no signature on this version");
	else if (q->rule->statements_required && !stated)
		rc = error_set(err, E_FORBIDDEN, "the trust policy wants a statement on this channel: %.300s",
		               statement_why.code ? statement_why.text : "there is none; run `mdn sign --channel`");
	if (rc) {
		signed_model_fini(&a.model);
		return rc;
	}
	*ret_answer = a;
	return 0;
}
