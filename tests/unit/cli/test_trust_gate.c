/* SPDX-License-Identifier: Apache-2.0 */
/* The gate over a real store, a real policy and real signatures: what it remembers, and of whom. */
#include "base/clock.h"
#include "base/file.h"
#include "cli/trust_gate.h"
#include "store/channel.h"
#include "store/envelope.h"
#include "store/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CONTENT "these are weights"
#define OTHER "those are weights"
#define HOUR_US INT64_C(3600000000)

struct world {
	char data[64], policy[96];
	struct loop *loop;
	struct blob_store *blobs;
	struct trust_gate *gate;
	struct buf release, lab;
	size_t waits;          /* 0: nobody */
	char verdicts[4][256]; /* as they came: "TAG: why", why empty when it may be loaded */
	size_t count;
};

static void on_verdict(void *arg, const struct version *v, const struct error *err)
{
	struct world *w = arg;
	assert_true(w->count < 4);
	snprintf(w->verdicts[w->count++], sizeof w->verdicts[0], "%s:%s %.200s", v->name, v->tag, err ? err->text : "");
	if (w->waits && w->count >= w->waits)
		loop_stop(w->loop);
}

static void on_too_late(void *arg)
{
	fail_msg("no verdict came");
}

static void new_key(struct world *w, const char *name, struct buf *secret)
{
	char path[128];
	struct buf open = {0};
	assert_int_equal(signing_key_new(STR("p256"), secret, &open, NULL), 0);
	snprintf(path, sizeof path, "%s/%s.pub.pem", w->data, name);
	assert_int_equal(file_write(path, 0644, buf_str(&open), NULL), 0);
	buf_fini(&open);
}

static void open_gate(struct world *w)
{
	struct error err = {0};
	struct trust_gate_options o = {
	    .loop = w->loop, .blobs = w->blobs, .data = w->data, .on_verdict = on_verdict, .arg = w};
	if (trust_gate_new(&o, w->policy, &w->gate, &err))
		fail_msg("%s", err.text);
}

static int begin(void **state)
{
	static const char policy[] = "version: 1\n"
				     "signers:\n"
				     "  - name: release\n"
				     "    key: release.pub.pem\n"
				     "  - name: lab\n"
				     "    key: lab.pub.pem\n"
				     "rules:\n"
				     "  - models: [\"lab/*\"]\n"
				     "    signers: [lab]\n"
				     "  - models: [\"corp/*\"]\n"
				     "    signers: [release]\n"
				     "  - models: [\"channel/*\"]\n"
				     "    signers: [release]\n"
				     "    statements: required\n";
	struct world *w = NEW(struct world);
	char path[96];
	strcpy(w->data, "/tmp/mdn-gate-XXXXXX");
	assert_non_null(mkdtemp(w->data));
	snprintf(w->policy, sizeof w->policy, "%s/policy.yaml", w->data);
	snprintf(path, sizeof path, "%s/blobs", w->data);
	new_key(w, "release", &w->release);
	new_key(w, "lab", &w->lab);
	assert_int_equal(file_write(w->policy, 0644, str_from(policy), NULL), 0);
	assert_int_equal(loop_new(&w->loop), 0);
	assert_int_equal(blob_store_open(str_from(path), &w->blobs, NULL), 0);
	open_gate(w);
	*state = w;
	return 0;
}

static int end(void **state)
{
	struct world *w = *state;
	trust_gate_free(w->gate);
	loop_free(w->loop);
	blob_store_close(w->blobs);
	folder_remove(w->data, NULL);
	buf_fini(&w->release);
	buf_fini(&w->lab);
	free(w);
	return 0;
}

static struct version version_of(struct world *w, const char *name, const char *content)
{
	struct version v = {.tag = "stable", .file_count = 1};
	str_copy(str_from(name), v.name, sizeof v.name);
	v.files = NEW(struct version_file);
	strcpy(v.files[0].path, "model.gguf");
	v.files[0].size = strlen(content);
	assert_int_equal(blob_put(w->blobs, str_from(content), &v.files[0].digest, NULL), 0);
	v.manifest = v.files[0].digest;
	return v;
}

static void attach(struct world *w, struct version *v, struct str payload, const struct buf *key)
{
	struct buf bundle = {0};
	struct version_signature s = {0};
	assert_int_equal(envelope_sign(payload, buf_str(key), STR(""), &bundle, NULL), 0);
	assert_int_equal(blob_put(w->blobs, buf_str(&bundle), &s.digest, NULL), 0);
	s.size = bundle.len;
	v->signatures = mem_resize(v->signatures, v->signature_count + 1, sizeof s);
	v->signatures[v->signature_count++] = s;
	buf_fini(&bundle);
}

static void sign_files(struct world *w, struct version *v, const struct buf *key)
{
	struct signed_model m;
	struct buf payload = {0};
	signed_model_of_version(v, &m);
	signed_model_format(&m, &payload);
	attach(w, v, buf_str(&payload), key);
	signed_model_fini(&m);
	buf_fini(&payload);
}

static void sign_shards(struct world *w, struct version *v, const char *content, const struct buf *key)
{
	struct signed_model m = {.shards = true, .shard_size = SIGNATURE_SHARD_SIZE};
	struct buf payload = {0};
	struct digest d = digest_of(content, strlen(content));
	signed_model_add(&m, STR("model.gguf"), 0, strlen(content), &d);
	signed_model_format(&m, &payload);
	attach(w, v, buf_str(&payload), key);
	signed_model_fini(&m);
	buf_fini(&payload);
}

static void state_channel(struct world *w, struct version *v, uint64_t counter)
{
	struct channel c;
	struct buf payload = {0};
	channel_of_version(v, &c);
	c.counter = counter;
	c.issued_wall_us = clock_wall_us();
	c.expires_wall_us = c.issued_wall_us + HOUR_US;
	channel_format(&c, &payload);
	attach(w, v, buf_str(&payload), &w->release);
	channel_fini(&c);
	buf_fini(&payload);
}

static void wait_for(struct world *w, size_t verdicts)
{
	struct loop_timer *late = loop_timer_new(w->loop, on_too_late, w);
	loop_timer_start(late, INT64_C(20000000), 0);
	if (w->count < verdicts) {
		w->waits = verdicts;
		loop_run(w->loop);
	}
	loop_timer_free(late);
	w->count = w->waits = 0;
}

static void assert_verdict(struct world *w, const struct version *v, bool loads, bool serves, const char *words)
{
	trust_gate_ask(w->gate, v, loads, serves);
	wait_for(w, 1);
	const char *why = strchr(w->verdicts[0], ' ') + 1;
	if (words[0] ? !strstr(why, words) : why[0] != 0)
		fail_msg("the verdict is \"%s\", not \"%s\"", why, words);
}

static void test_what_one_signer_said_of_the_content_is_not_taken_for_anothers_word(void **state)
{
	struct world *w = *state;
	struct version v = version_of(w, "lab/model", CONTENT);
	sign_files(w, &v, &w->lab);
	sign_shards(w, &v, OTHER, &w->release); /* of another content, under the same name */
	assert_verdict(w, &v, true, false, "");
	strcpy(v.name, "corp/model"); /* where only release is believed */
	assert_verdict(w, &v, true, false, "not what was signed");
	version_fini(&v);
}

static void test_two_versions_asked_about_at_once_do_not_turn_the_number_back(void **state)
{
	struct world *w = *state;
	struct version first = version_of(w, "channel/m", CONTENT), second = version_of(w, "channel/m", OTHER);
	state_channel(w, &first, 3);
	state_channel(w, &second, 5);
	trust_gate_ask(w->gate, &second, true, false);
	trust_gate_ask(w->gate, &first, true, false);
	wait_for(w, 2);
	assert_verdict(w, &second, true, false, "");
	assert_verdict(w, &first, true, false, "an old version was put back");
	version_fini(&first);
	version_fini(&second);
}

static void test_a_version_that_is_only_on_disk_does_not_shut_out_the_one_before(void **state)
{
	struct world *w = *state;
	struct version first = version_of(w, "channel/m", CONTENT), second = version_of(w, "channel/m", OTHER);
	state_channel(w, &first, 3);
	state_channel(w, &second, 5);
	assert_verdict(w, &first, true, false, "");
	assert_verdict(w, &second, false, false, "");
	assert_verdict(w, &first, true, false, ""); /* as after a restart */
	assert_verdict(w, &second, true, false, "");
	assert_verdict(w, &first, true, true, ""); /* still answers */
	assert_verdict(w, &first, true, false, "an old version was put back");
	version_fini(&first);
	version_fini(&second);
}

static void test_a_memory_that_cannot_be_read_believes_nothing(void **state)
{
	struct world *w = *state;
	struct version v = version_of(w, "channel/m", CONTENT);
	struct state *memory;
	char path[96];
	state_channel(w, &v, 3);
	snprintf(path, sizeof path, "%s/trust.db", w->data);
	assert_int_equal(state_open(str_from(path), &memory, NULL), 0);
	assert_int_equal(state_put(memory, "channel", STR("channel/m:stable"), STR("garbage"), NULL), 0);
	assert_verdict(w, &v, true, false, "believed last cannot be read from trust.db");
	assert_int_equal(state_delete(memory, "channel", STR("channel/m:stable"), NULL), 0);
	assert_verdict(w, &v, true, false, "");
	state_close(memory);
	version_fini(&v);
}

static void test_a_policy_that_cannot_be_read_changes_nothing(void **state)
{
	struct world *w = *state;
	struct version v = version_of(w, "lab/model", CONTENT);
	struct error err = {0};
	assert_int_equal(file_write(w->policy, 0644, STR("version: 2\nrules: []\n"), NULL), 0);
	assert_int_equal(trust_gate_reload(w->gate, w->policy, &err), E_INVAL);
	assert_true(trust_gate_reload(w->gate, "/nonexistent/policy.yaml", &err) < 0);
	assert_true(trust_gate_has_policy(w->gate));
	assert_verdict(w, &v, true, false, "no signature on this version");
	version_fini(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_what_one_signer_said_of_the_content_is_not_taken_for_anothers_word,
	                                    begin, end),
	    cmocka_unit_test_setup_teardown(test_two_versions_asked_about_at_once_do_not_turn_the_number_back, begin,
	                                    end),
	    cmocka_unit_test_setup_teardown(test_a_version_that_is_only_on_disk_does_not_shut_out_the_one_before, begin,
	                                    end),
	    cmocka_unit_test_setup_teardown(test_a_memory_that_cannot_be_read_believes_nothing, begin, end),
	    cmocka_unit_test_setup_teardown(test_a_policy_that_cannot_be_read_changes_nothing, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
