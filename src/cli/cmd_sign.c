/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn keygen`, `mdn sign`, `mdn verify`: signatures on folders, files, and versions in a repository.
 *
 * A version is signed by what the repository says its files are, so nothing is downloaded; the manifest's digest is
 * printed, to be compared with the one of the push.
 */
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "cli/answers.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "cli/versions_of.h"
#include "store/channel.h"
#include "store/envelope.h"
#include "store/ociname.h"
#include "store/signature_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PEM_MAX (1 << 20)

/* ---- keygen --------------------------------------------------------------------------------------- */

int cmd_keygen(const struct args *args)
{
	struct error err = {0};
	struct buf secret = {0}, open = {0}, paths[2] = {{0}, {0}};
	const char *curve = args_value(args, "curve");
	buf_printf(&paths[0], "%s.pem", args_operand(args, 0));
	buf_printf(&paths[1], "%s.pub.pem", args_operand(args, 0));
	buf_append(&paths[0], "", 1);
	buf_append(&paths[1], "", 1);
	int rc = 0;
	for (int i = 0; !rc && i < 2; i++)
		if (file_exists(paths[i].base))
			rc = error_set(&err, E_CONFLICT, "%s exists; nothing was overwritten", paths[i].base);
	if (!rc)
		rc = signing_key_new(str_from(curve ? curve : "p256"), &secret, &open, &err);
	if (!rc)
		rc = file_write(paths[0].base, 0600, buf_str(&secret), &err);
	if (!rc)
		rc = file_write(paths[1].base, 0644, buf_str(&open), &err);
	if (!rc)
		printf("%s signs: keep it secret.\n%s verifies: give it to everybody.\n", paths[0].base, paths[1].base);
	if (secret.base)
		explicit_bzero(secret.base, secret.len);
	buf_fini(&secret);
	buf_fini(&open);
	buf_fini(&paths[0]);
	buf_fini(&paths[1]);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

/* ---- options of both ------------------------------------------------------------------------------ */

static void on_bytes(void *arg, uint64_t done)
{
	progress_show(arg, done);
}

static int read_named(const struct args *args, const char *option, struct buf *out, struct error *err)
{
	const char *path = args_value(args, option);
	int rc = path ? file_read(path, PEM_MAX, out, err) : 0;
	return rc ? error_prefix(err, "--%s: ", option) : 0;
}

static void take_ignores(const struct args *args, struct signed_model *m)
{
	const char *path;
	for (unsigned i = 0; (path = args_nth(args, "ignore", i)) != NULL; i++)
		signed_model_ignore(m, str_from(path));
	signed_model_ignore_git(m);
}

static int files_of(const char *path, const char *left_out, struct signed_model *m, struct error *err)
{
	struct progress p;
	struct signature_files count = {.path = path, .left_out = left_out, .counts = true};
	struct signature_files files = {.path = path, .left_out = left_out, .on_bytes = on_bytes, .arg = &p};
	int rc = signature_files_read(&count, m, err);
	progress_start(&p, "hashing", count.done);
	if (!rc)
		rc = signature_files_read(&files, m, err);
	if (!rc)
		progress_end(&p, files.done);
	return rc;
}

/* ---- signing -------------------------------------------------------------------------------------- */

struct signing {
	uint64_t shard_size, counter; /* counter 0: the time in seconds */
	int64_t life_us;
	struct buf key, chain, payload, bundle;
};

/* An option that would not be heeded is refused: who gave it believes that it was. */
static int signing_usage(const struct args *args, bool local, struct signing *s)
{
	static const char *const of_paths[] = {"output", "method", "shard-size", "ignore", "allow-symlinks"};
	static const char *const of_channels[] = {"expires", "counter"};
	const char *method = args_value(args, "method"), *shard = args_value(args, "shard-size");
	const char *life = args_value(args, "expires"), *counter = args_value(args, "counter");
	*s = (struct signing){.shard_size = SIGNATURE_SHARD_SIZE};
	if (!args_value(args, "key"))
		return args_usage(args, "say with which key: --key FILE (mdn keygen makes one)");
	for (size_t i = 0; !local && i < sizeof of_paths / sizeof *of_paths; i++)
		if (args_has(args, of_paths[i]))
			return args_usage(args, "--%s goes with a folder or file, not with a model of the repository",
			                  of_paths[i]);
	for (size_t i = 0; !args_has(args, "channel") && i < sizeof of_channels / sizeof *of_channels; i++)
		if (args_has(args, of_channels[i]))
			return args_usage(args, "--%s goes with --channel", of_channels[i]);
	if (shard && (!method || strcmp(method, "shards")))
		return args_usage(args, "--shard-size goes with --method shards");
	if (shard && (str_to_bytes(str_from(shard), &s->shard_size) || s->shard_size == 0))
		return args_usage(args, "--shard-size is bytes: 1000000000, 64M");
	if (str_to_duration_us(str_from(life ? life : "7d"), &s->life_us) || s->life_us <= 0)
		return args_usage(args, "--expires is a duration: 7d, 12h");
	if (counter && (str_to_u64(str_from(counter), &s->counter) || !s->counter || s->counter > INT64_MAX))
		return args_usage(args, "--counter is a number from 1 on, higher than the one before");
	return EXIT_DONE;
}

static void signing_fini(struct signing *s)
{
	if (s->key.base)
		explicit_bzero(s->key.base, s->key.len);
	buf_fini(&s->key);
	buf_fini(&s->chain);
	buf_fini(&s->payload);
	buf_fini(&s->bundle);
}

static int signing_open(const struct args *args, struct signing *s, struct error *err)
{
	struct buf tried = {0};
	int rc = read_named(args, "key", &s->key, err);
	if (!rc)
		rc = read_named(args, "cert", &s->chain, err);
	if (!rc) /* before a terabyte is read for nothing */
		rc = envelope_sign(STR("{}"), buf_str(&s->key), buf_str(&s->chain), &tried, err);
	buf_fini(&tried);
	return rc;
}

static int sign_path(const struct args *args, const char *path, struct signing *s, struct error *err)
{
	const char *method = args_value(args, "method"), *output = args_value(args, "output");
	struct signed_model m = {.shards = method && !strcmp(method, "shards"),
	                         .shard_size = s->shard_size,
	                         .allow_symlinks = args_has(args, "allow-symlinks")};
	if (!output)
		output = "model.sig";
	take_ignores(args, &m);
	int rc = files_of(path, output, &m, err);
	if (!rc)
		signed_model_format(&m, &s->payload);
	if (!rc)
		rc = envelope_sign(buf_str(&s->payload), buf_str(&s->key), buf_str(&s->chain), &s->bundle, err);
	if (!rc)
		rc = file_write(output, 0644, buf_str(&s->bundle), err);
	if (!rc)
		printf("%s: %zu %s signed\n", output, m.item_count,
		       m.shards            ? "shards"
		       : m.item_count == 1 ? "file"
		                           : "files");
	signed_model_fini(&m);
	return rc;
}

static void make_statement(const struct version *v, struct signing *s, struct channel *ret_channel)
{
	struct channel c;
	channel_of_version(v, &c);
	c.issued_wall_us = clock_wall_us();
	c.expires_wall_us = c.issued_wall_us + s->life_us;
	/* the time rises by itself, whoever signs */
	c.counter = s->counter ? s->counter : (uint64_t)(c.issued_wall_us / US_PER_S);
	channel_format(&c, &s->payload);
	*ret_channel = c;
}

static void format_referrer(const struct version *v, uint64_t manifest_size, const char *type, const struct signing *s,
                            bool channel, struct buf *out)
{
	char subject[DIGEST_TEXT_SIZE], bundle[DIGEST_TEXT_SIZE], empty[DIGEST_TEXT_SIZE], now[25];
	struct digest bundle_digest = digest_of(s->bundle.base, s->bundle.len), empty_digest = digest_of("{}", 2);
	digest_format(&v->manifest, subject);
	digest_format(&bundle_digest, bundle);
	digest_format(&empty_digest, empty);
	clock_format(clock_wall_us(), now);
	buf_printf(
	    out,
	    "{\"schemaVersion\":2,\"mediaType\":\"application/"
	    "vnd.oci.image.manifest.v1+json\",\"artifactType\":\"" ENVELOPE_TYPE
	    "\",\"config\":{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"%s\","
	    "\"size\":2,\"data\":\"e30=\"},\"layers\":[{\"mediaType\":\"" ENVELOPE_TYPE
	    "\",\"digest\":\"%s\",\"size\":%zu}],\"subject\":{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%llu},"
	    "\"annotations\":{\"dev.sigstore.bundle.content\":\"dsse-envelope\","
	    "\"dev.sigstore.bundle.predicateType\":\"%s\",\"org.opencontainers.image.created\":\"%s\"}}",
	    empty, bundle, s->bundle.len, type, subject, (unsigned long long)manifest_size,
	    channel ? CHANNEL_PREDICATE : SIGNATURE_PREDICATE, now);
}

/* What the tag names in the repository must be what its catalog says, file by file. */
static int check_manifest(struct client *c, const struct repository_at *at, const struct version *v, char *ret_type,
                          uint64_t *ret_size, struct error *err)
{
	char url[1024], digest[DIGEST_TEXT_SIZE];
	struct buf body = {0};
	struct str type;
	digest_format(&v->manifest, digest);
	snprintf(url, sizeof url, "%s/v2/%s/manifests/%s", at->url, v->name, digest);
	struct client_call call = {.url = url, .node_id = at->id[0] ? at->id : NULL, .body_max = LIMIT_MANIFEST};
	int rc = client_run(c, &call, NULL, &body, err);
	struct digest got = digest_of(body.base, body.len);
	if (!rc && !digest_equal(&got, &v->manifest))
		rc = error_set(err, E_PEER, "the repository's manifest is not %s; nothing was signed", digest);
	for (size_t i = 0; !rc && i < v->file_count; i++) {
		digest_format(&v->files[i].digest, digest);
		if (!memmem(body.base, body.len, digest, strlen(digest)))
			rc = error_set(err, E_PEER, "the manifest does not name %s (%s); nothing was signed",
			               v->files[i].path, digest);
	}
	if (!rc && (!client_header(c, "content-type", &type) || !str_copy(type, ret_type, 128)))
		rc = error_set(err, E_PEER, "the repository did not say what kind of manifest it is");
	*ret_size = body.len;
	buf_fini(&body);
	return rc;
}

static int attach(struct client *c, const struct repository_at *at, const struct version *v, const struct signing *s,
                  const char *type, uint64_t manifest_size, bool channel, struct error *err)
{
	struct buf referrer = {0};
	format_referrer(v, manifest_size, type, s, channel, &referrer);
	int rc = repository_put_blob(c, at, v->name, STR("{}"), err);
	if (!rc)
		rc = repository_put_blob(c, at, v->name, buf_str(&s->bundle), err);
	if (!rc)
		rc = repository_put_manifest(c, at, v->name, buf_str(&referrer), err);
	buf_fini(&referrer);
	return rc;
}

/* The repository and its version of that name. On error nothing is left open. */
static int open_version(const struct args *args, const char *model, struct client **ret_client,
                        struct repository_at *ret_at, struct version *ret_version, struct error *err)
{
	int rc = repository_client(args, ret_client, err);
	if (rc)
		return rc;
	rc = repository_find(*ret_client, args_value(args, "repository"), ret_at, err);
	if (!rc)
		rc = repository_version(*ret_client, ret_at, model, ret_version, err);
	if (rc)
		client_close(*ret_client);
	return rc;
}

static int sign_version(const struct args *args, const char *model, struct signing *s, struct error *err)
{
	struct client *c;
	struct repository_at at;
	struct version v;
	struct channel stated = {0};
	char type[128], digest[DIGEST_TEXT_SIZE], until[25];
	uint64_t size;
	bool channel = args_has(args, "channel");
	int rc = open_version(args, model, &c, &at, &v, err);
	if (rc)
		return rc;
	rc = check_manifest(c, &at, &v, type, &size, err);
	if (!rc && channel)
		make_statement(&v, s, &stated);
	if (!rc && !channel) {
		struct signed_model m;
		signed_model_of_version(&v, &m);
		signed_model_format(&m, &s->payload);
		signed_model_fini(&m);
	}
	if (!rc)
		rc = envelope_sign(buf_str(&s->payload), buf_str(&s->key), buf_str(&s->chain), &s->bundle, err);
	if (!rc)
		rc = attach(c, &at, &v, s, type, size, channel, err);
	digest_format(&v.manifest, digest);
	clock_format(stated.expires_wall_us, until);
	if (!rc && channel)
		printf("%s:%s names %s until %s, by statement %llu\n", v.name, v.tag, digest, until,
		       (unsigned long long)stated.counter);
	else if (!rc)
		printf("%s:%s is signed: %s\n", v.name, v.tag, digest);
	channel_fini(&stated);
	version_fini(&v);
	client_close(c);
	return rc;
}

static bool is_path(const char *what)
{
	struct stat st;
	return lstat(what, &st) == 0;
}

int cmd_sign(const struct args *args)
{
	struct signing s;
	struct error err = {0};
	const char *what = args_operand(args, 0);
	bool local = !args_has(args, "channel") && (args_has(args, "output") || is_path(what));
	int usage = signing_usage(args, local, &s);
	if (usage)
		return usage;
	int rc = signing_open(args, &s, &err);
	if (!rc)
		rc = local ? sign_path(args, what, &s, &err) : sign_version(args, what, &s, &err);
	signing_fini(&s);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}

/* ---- verifying ------------------------------------------------------------------------------------ */

/* E_NOTFOUND: a good envelope around something else, a statement on a channel. */
static int verify_envelope(const struct envelope_trust *trust, struct str json, struct signed_model *ret_model,
                           char *ret_who, struct error *err)
{
	struct envelope e;
	int rc = envelope_parse(json, &e, err);
	if (rc)
		return rc;
	rc = envelope_verify(&e, trust, ret_who, err);
	if (!rc)
		rc = signed_model_parse(buf_str(&e.payload), ret_model, err);
	envelope_fini(&e);
	return rc;
}

static int verify_path(const struct args *args, const char *path, const struct envelope_trust *trust, char *ret_who,
                       struct error *err)
{
	const char *file = args_value(args, "signature");
	struct buf json = {0};
	struct signed_model want, have = {0};
	if (!file)
		file = "model.sig";
	int rc = file_read(file, LIMIT_SIGNATURE, &json, err);
	if (rc)
		error_prefix(err, "the signature (-s FILE says which): ");
	if (!rc)
		rc = verify_envelope(trust, buf_str(&json), &want, ret_who, err);
	buf_fini(&json);
	if (rc)
		return rc;
	have.shards = want.shards;
	have.shard_size = want.shard_size;
	have.allow_symlinks = want.allow_symlinks && args_has(args, "allow-symlinks");
	for (size_t i = 0; i < want.ignore_count; i++)
		signed_model_ignore(&have, str_from(want.ignores[i]));
	take_ignores(args, &have);
	rc = files_of(path, file, &have, err);
	if (!rc)
		rc = signed_model_compare(&want, &have, err);
	signed_model_fini(&want);
	signed_model_fini(&have);
	return rc;
}

/* One good signature is enough. */
static int verify_version(const struct args *args, const char *model, const struct envelope_trust *trust, char *ret_who,
                          struct error *err)
{
	struct client *c;
	struct repository_at at;
	struct version v;
	int rc = open_version(args, model, &c, &at, &v, err);
	if (rc)
		return rc;
	int good = error_set(err, E_FORBIDDEN, "%s:%s has no signature; mdn sign makes one", v.name, v.tag);
	for (size_t i = 0; good && !rc && i < v.signature_count; i++) {
		struct buf json = {0};
		struct signed_model m;
		struct error why = {0};
		rc = repository_get_blob(c, &at, v.name, &v.signatures[i].digest, LIMIT_SIGNATURE, &json, err);
		int one = rc ? rc : verify_envelope(trust, buf_str(&json), &m, ret_who, &why);
		if (!one) {
			one = signed_model_covers(&m, &v, &why);
			signed_model_fini(&m);
		}
		if (!rc && one != E_NOTFOUND) { /* that is a statement on a channel, and says nothing against */
			good = one;
			*err = why;
		}
		buf_fini(&json);
	}
	version_fini(&v);
	client_close(c);
	return rc ? rc : good;
}

int cmd_verify(const struct args *args)
{
	struct error err = {0};
	char who[ENVELOPE_NAME_SIZE];
	const char *what = args_operand(args, 0);
	bool local = args_has(args, "signature") || is_path(what);
	if (!args_value(args, "key") == !args_value(args, "root"))
		return args_usage(args, "say whom to believe: --key PUBLIC.pem or --root CA.pem");
	if (args_value(args, "subject") && !args_value(args, "root"))
		return args_usage(args, "--subject goes with --root");
	if (!local && (args_has(args, "ignore") || args_has(args, "allow-symlinks")))
		return args_usage(args, "--ignore and --allow-symlinks go with a folder or file");
	struct buf key = {0}, roots = {0};
	const char *subject = args_value(args, "subject");
	int rc = read_named(args, "key", &key, &err);
	if (!rc)
		rc = read_named(args, "root", &roots, &err);
	struct envelope_trust trust = {buf_str(&key), buf_str(&roots), subject ? str_from(subject) : STR("")};
	if (!rc)
		rc = local ? verify_path(args, what, &trust, who, &err) : verify_version(args, what, &trust, who, &err);
	if (!rc)
		printf("%s is as it was signed by %s\n", what, who);
	buf_fini(&key);
	buf_fini(&roots);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
