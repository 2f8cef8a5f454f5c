/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn fsck`: checks the store of a running node, or of a data folder nobody uses. */
#include "base/file.h"
#include "cli/answers.h"
#include "cli/node_find.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "cli/store_events.h"
#include "cli/table.h"
#include "core/report.h"
#include "serve/repository/fsck.h"

#include <stdio.h>
#include <stdlib.h>

/* What is found, by either way, for both ways of saying it. */
struct findings {
	bool json;
	struct table *table;
	struct buf faults; /* JSON, comma-separated */
	uint64_t count;
};

static void add_fault(struct findings *f, struct str kind, struct str digest, struct str where, struct str words,
                      struct str done)
{
	f->count++;
	table_add(f->table, STR_FMT, STR_ARG(kind));
	table_add(f->table, STR_FMT, STR_ARG(digest));
	table_add(f->table, STR_FMT, STR_ARG(where));
	table_add(f->table, STR_FMT, STR_ARG(words));
	table_add(f->table, STR_FMT, STR_ARG(done));
	buf_append_str(&f->faults, f->faults.len ? STR(",{\"fault\":") : STR("{\"fault\":"));
	buf_append_json(&f->faults, kind);
	buf_append_str(&f->faults, STR(",\"digest\":"));
	buf_append_json(&f->faults, digest);
	buf_append_str(&f->faults, STR(",\"where\":"));
	buf_append_json(&f->faults, where);
	buf_append_str(&f->faults, STR(",\"words\":"));
	buf_append_json(&f->faults, words);
	buf_append_str(&f->faults, STR(",\"done\":"));
	buf_append_json(&f->faults, done);
	buf_append_str(&f->faults, STR("}"));
}

struct totals {
	uint64_t blobs, bytes, sealed, manifests, versions, partials, partial_bytes, elsewhere, wanted;
};

static void print(const struct findings *f, const struct totals *t)
{
	char bytes[16], partial[16];
	if (f->json) {
		printf(
		    "{\"blobs\":%llu,\"bytes\":%llu,\"sealed\":%llu,\"manifests\":%llu,\"versions\":%llu,"
		    "\"partials\":%llu,\"partial_bytes\":%llu,\"elsewhere\":%llu,\"wanted\":%llu,\"faults\":[" STR_FMT
		    "]}\n",
		    (unsigned long long)t->blobs, (unsigned long long)t->bytes, (unsigned long long)t->sealed,
		    (unsigned long long)t->manifests, (unsigned long long)t->versions, (unsigned long long)t->partials,
		    (unsigned long long)t->partial_bytes, (unsigned long long)t->elsewhere,
		    (unsigned long long)t->wanted, STR_ARG(buf_str(&f->faults)));
		return;
	}
	if (f->count)
		table_print(f->table, stdout);
	format_bytes(t->bytes, bytes);
	format_bytes(t->partial_bytes, partial);
	printf("%llu blobs, %s read (%llu encrypted); %llu manifests, %llu versions; %llu on their way (%s): %s\n",
	       (unsigned long long)t->blobs, bytes, (unsigned long long)t->sealed, (unsigned long long)t->manifests,
	       (unsigned long long)t->versions, (unsigned long long)t->partials, partial,
	       f->count ? "see above" : "all good");
	if (t->elsewhere)
		printf("%llu blobs of mirrored models are not here yet: they come when they are asked for\n",
		       (unsigned long long)t->elsewhere);
	if (t->wanted)
		printf("%llu blobs are fetched again from nodes that have them; check again in a while\n",
		       (unsigned long long)t->wanted);
}

/* ---- a running node ------------------------------------------------------------------------------- */

static void on_remote_fault(void *arg, yyjson_val *fault)
{
	add_fault(arg, answer_text(fault, "fault"), answer_text(fault, "digest"), answer_text(fault, "where"),
	          answer_text(fault, "words"), answer_text(fault, "done"));
}

static int find_url(struct client *c, const char *name, char *ret_url, size_t size, char *ret_id, size_t id_size,
                    struct error *err)
{
	struct repository_at at;
	if (name) {
		int rc = node_find(c, name, ret_id, id_size, ret_url, size, err);
		return !rc && !ret_url[0] ? error_set(err, E_UNAVAILABLE, "%s never started", name) : rc;
	}
	int rc = repository_find(c, NULL, &at, err);
	if (rc)
		return rc;
	str_copy(str_from(at.url), ret_url, size);
	str_copy(str_from(at.id), ret_id, id_size);
	return 0;
}

static int check_remote(const struct args *args, struct findings *f, struct totals *t, struct error *err)
{
	struct client *c;
	char at[NODE_URL_SIZE + 256], url[NODE_URL_SIZE + 300], id[NODE_ID_SIZE];
	yyjson_doc *result = NULL;
	int rc = client_open(args_value(args, "operator"), &c, err);
	if (rc)
		return rc;
	rc = find_url(c, args_operand(args, 0), at, sizeof at, id, sizeof id, err);
	if (rc == 0) {
		snprintf(url, sizeof url, "%s/mdn/v1/fsck?repair=%s", at, args_has(args, "repair") ? "true" : "false");
		struct store_events e = {.url = url, .node_id = id, .on_fault = on_remote_fault, .arg = f};
		rc = store_events_run(c, &e, &result, err);
	}
	if (rc == 0) {
		yyjson_val *r = yyjson_doc_get_root(result);
		*t = (struct totals){
		    (uint64_t)answer_number(r, "blobs"),         (uint64_t)answer_number(r, "bytes"),
		    (uint64_t)answer_number(r, "sealed"),        (uint64_t)answer_number(r, "manifests"),
		    (uint64_t)answer_number(r, "versions"),      (uint64_t)answer_number(r, "partials"),
		    (uint64_t)answer_number(r, "partial_bytes"), (uint64_t)answer_number(r, "elsewhere"),
		    (uint64_t)answer_number(r, "wanted"),
		};
	}
	yyjson_doc_free(result);
	client_close(c);
	return rc;
}

/* ---- a folder ------------------------------------------------------------------------------------- */

static void on_local_fault(void *arg, const struct fsck_fault *fault)
{
	char digest[DIGEST_TEXT_SIZE];
	digest_format(&fault->digest, digest);
	add_fault(arg, str_from(fsck_kind_name(fault->kind)), str_from(digest), str_from(fault->where),
	          str_from(fault->words), str_from(fault->done));
}

static int run_local(struct blob_store *store, struct catalog *catalog, const char *origins, bool repair,
                     struct findings *f, struct totals *t, struct error *err)
{
	bool more = true;
	int rc = 0;
	struct fsck *check = fsck_new(&(struct fsck_options){.store = store,
	                                                     .catalog = catalog,
	                                                     .origins = origins,
	                                                     .repair = repair,
	                                                     .on_fault = on_local_fault,
	                                                     .arg = f});
	while (!rc && more)
		rc = fsck_step(check, &more, err);
	const struct fsck_result *r = fsck_result(check);
	*t = (struct totals){r->blobs,         r->bytes,     r->sealed, r->manifests, r->versions, r->partials,
	                     r->partial_bytes, r->elsewhere, 0};
	fsck_free(check);
	return rc;
}

static int change_key(struct blob_store *store, const char *path, struct error *err)
{
	size_t count;
	int rc = blob_store_rekey(store, path, &count, err);
	if (rc == 0)
		fprintf(stderr, "%zu blobs are under the new key; set site_key to %s\n", count, path);
	return rc;
}

static int check_folder(const struct args *args, struct findings *f, struct totals *t, struct error *err)
{
	const char *key = args_value(args, "site-key"), *new_key = args_value(args, "new-site-key");
	struct blob_store *store = NULL;
	struct catalog *catalog = NULL;
	char *blobs = file_join(str_from(args_value(args, "data")), "blobs");
	char *db = file_join(str_from(args_value(args, "data")), "catalog.db");
	char *origins = file_join(str_from(args_value(args, "data")), "outside/origins.db");
	int rc = file_exists(blobs)
	             ? blob_store_open(str_from(blobs), &store, err)
	             : error_set(err, E_NOTFOUND, "%s has no blobs: is it a data folder?", args_value(args, "data"));
	if (rc == 0)
		rc = blob_store_unlock(store, key ? key : "", false, err);
	if ((rc == 0 || rc == E_FORBIDDEN) && new_key) /* a change that was killed left both keys */
		rc = change_key(store, new_key, err);
	if (rc == 0 && file_exists(db))
		rc = catalog_open(str_from(db), &catalog, err);
	if (rc == 0)
		rc = run_local(store, catalog, origins, args_has(args, "repair"), f, t, err);
	catalog_close(catalog);
	blob_store_close(store);
	free(blobs);
	free(db);
	free(origins);
	return rc;
}

int cmd_fsck(const struct args *args)
{
	struct findings f = {.json = args_has(args, "json"), .table = table_new("FAULT,DIGEST,WHERE,~WHAT,DONE")};
	struct totals t = {0};
	struct error err = {0};
	bool offline = args_has(args, "data");
	if (!offline && (args_has(args, "site-key") || args_has(args, "new-site-key")))
		return args_usage(args, "--site-key and --new-site-key are for --data; a running node has its own");
	if (offline && args_operand(args, 0))
		return args_usage(args, "name a node or a folder, not both");
	int rc = offline ? check_folder(args, &f, &t, &err) : check_remote(args, &f, &t, &err);
	if (rc == 0)
		print(&f, &t);
	table_free(f.table);
	buf_fini(&f.faults);
	return rc ? args_fail(args, &err) : f.count ? EXIT_FAILED : EXIT_DONE;
}
