/* SPDX-License-Identifier: Apache-2.0 */
/* Service classes: what the file may say, and what requests get by it, seen on the hop to another node and on the wire.
 */
#include "world.h"

#include "base/file.h"
#include "serve/gateway/services.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHAT "/v1/chat/completions"
#define ASK(rest) "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]" rest "}"

/* ---- the file ------------------------------------------------------------------------------------------- */

static void expect_words(const char *text, const char *words)
{
	struct service_rules rules;
	struct error err = {0};

	assert_int_equal(services_parse("f.yaml", str_from(text), &rules, &err), E_INVAL);
	if (!strstr(err.text, words))
		fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

static void test_what_is_wrong_with_the_file_is_told_with_its_line_and_key(void **state)
{
	(void)state;
	expect_words("classes:\n- name: a\n  clas: bulk\n", "f.yaml:3: unknown key \"clas\"");
	expect_words("classes:\n- name: a\n  class: fast\n", "f.yaml:3: class: interactive, default or bulk");
	expect_words("classes:\n- name: a\n  class: system\n", "f.yaml:3: class");
	expect_words("classes:\n- name: a\n  class: -5\n", "f.yaml:3: class");
	expect_words("classes:\n- match: {api: chat}\n", "f.yaml:2: name: every class needs one");
	expect_words("classes:\n- name: A\n", "f.yaml:2: name: only a to z");
	expect_words("classes:\n- name: a\n  name: b\n", "f.yaml:3: name is here a second time");
	expect_words("classes:\n- name: a\n  match:\n    tenat: x\n", "f.yaml:4: match: unknown key \"tenat\"");
	expect_words("classes:\n- name: a\n  match:\n    api: [chat,\n      speech]\n",
	             "f.yaml:5: api: there are chat");
	expect_words("classes:\n- name: a\n  match: {model: []}\n", "f.yaml:3: model: an empty list");
	expect_words("classes:\n- name: a\n  match: {header: x}\n", "f.yaml:3: header: expected names");
	expect_words("classes:\n- name: a\n  ttft: 300\n", "f.yaml:3: ttft: a duration");
	expect_words("classes:\n- name: a\n  dscp: 64\n", "f.yaml:3: dscp: a number of 0 to 63");
	expect_words("classes:\n- name: a\n  priority: high\n", "f.yaml:3: priority: a whole number");
	expect_words("classes: a\n", "f.yaml:1: classes: expected a list");
	expect_words("rules: []\n", "f.yaml:1: only one key belongs here");
	expect_words("- a\n", "f.yaml:1: expected \"classes:\"");
	expect_words("classes: [\n", "f.yaml:2: ");
}

static void test_a_file_is_read_whole(void **state)
{
	struct service_rules rules;
	struct error err;

	(void)state;
	assert_int_equal(services_parse("f",
	                                STR("classes:\n"
	                                    "- name: voice\n"
	                                    "  priority: -5\n"
	                                    "  class: interactive\n"
	                                    "  ttft: 300ms\n"
	                                    "  itl: 50ms\n"
	                                    "  deadline: 2s\n"
	                                    "  dscp: AF41\n"
	                                    "  match:\n"
	                                    "    tenant: [a, b]\n"
	                                    "    header: {X-App: dial*}\n"
	                                    "- {name: rest, dscp: 8}\n"),
	                                &rules, &err),
	                 0);
	assert_int_equal(rules.count, 2);
	const struct service *s = &rules.rules[0].service;
	assert_true(s->has_class && s->service_class == ENGINE_INTERACTIVE && s->priority == -5 && s->dscp == 34);
	assert_true(s->ttft_us == 300000 && s->itl_us == 50000 && s->deadline_us == 2000000);
	assert_int_equal(rules.rules[0].term_count, 2);
	assert_string_equal(rules.rules[0].terms[1].header, "x-app");
	assert_true(!rules.rules[1].service.has_class && rules.rules[1].service.dscp == 8);
	service_rules_fini(&rules);
	assert_int_equal(services_parse("f", STR("# nothing yet\n"), &rules, &err), 0);
	assert_int_equal(rules.count, 0);
}

/* ---- requests ------------------------------------------------------------------------------------------------- */

struct fixture {
	struct world w;
	struct place a; /* has no model: all goes to the peer */
	struct scheduler_double s;
	struct peer_double p;
	char file[64];
};

static void answer_shortly(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	(void)body;
	(void)err;
	http_respond(x, 200, "application/json", STR("{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}"));
}

static int setup(void **state)
{
	struct fixture *f = NEW(struct fixture);
	struct gateway_options o = place_options("n-a", "west");

	world_init(&f->w);
	place_start(&f->w, &f->a, &o);
	scheduler_double_start(&f->w, &f->s);
	peer_double_start(&f->w, &f->p, answer_shortly);
	scheduler_double_report(&f->s, "n-p", "west", f->p.url, "", "m:latest", NODE_READY);
	follow(&f->a, &f->s);
	strcpy(f->file, "/tmp/mdn-classes-XXXXXX");
	close(mkstemp(f->file));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->file);
	place_stop(&f->a);
	peer_double_stop(&f->p);
	scheduler_double_stop(&f->s);
	world_fini(&f->w);
	free(f);
	return 0;
}

static int classes(struct fixture *f, const char *text, struct error *err)
{
	assert_int_equal(file_write(f->file, 0600, str_from(text), err), 0);
	return gateway_set_services(f->a.g, f->file, err);
}

static void ask_as(struct fixture *f, const char *body, const char *header, const char *want_service)
{
	struct reply r = {0};
	char name[64] = "(none)";

	ask_with(&f->w, &r, f->a.api, CHAT, body, header);
	assert_int_equal(r.status, 200);
	reply_header(&r, "x-mdn-service", name, sizeof(name));
	assert_string_equal(name, want_service);
	reply_fini(&r);
}

static bool told(const struct fixture *f, const char *line)
{
	return strcasestr(f->p.last_headers.base, line) != NULL;
}

static void test_a_rule_says_how_urgent_a_request_may_be(void **state)
{
	struct fixture *f = *state;
	struct error err;

	assert_int_equal(classes(f,
	                         "classes:\n"
	                         "- {name: nightly, match: {user_agent: cron/*}, class: bulk, priority: 7, dscp: le}\n"
	                         "- {name: voice, match: {header: {x-app: dial*}}, class: interactive, priority: -5}\n"
	                         "- {name: slow, match: {model: m, api: chat}, class: default, deadline: 60s}\n",
	                         &err),
	                 0);
	ask_as(f, ASK(""), "user-agent: Cron/2", "nightly");
	assert_true(told(f, "x-mdn-class: bulk\n") && told(f, "x-mdn-priority: 7\n"));
	assert_true(told(f, "x-mdn-service: nightly\n") && told(f, "x-mdn-dscp: 1\n"));
	ask_as(f, ASK(",\"priority\":\"interactive\""), "user-agent: cron/2", "nightly");
	assert_true(told(f, "x-mdn-class: bulk\n")); /* nobody gets more by asking */
	ask_as(f, ASK(""), "x-app: dialer", "voice");
	assert_true(told(f, "x-mdn-class: interactive\n") && told(f, "x-mdn-priority: -5\n"));
	assert_false(told(f, "x-mdn-dscp"));
	ask_as(f, ASK(",\"priority\":3"), "x-app: dialer", "voice");
	assert_true(told(f, "x-mdn-class: bulk\n") && told(f, "x-mdn-priority: 3\n")); /* but less */
	ask_as(f, ASK(""), "x-request-priority: interactive", "slow");
	assert_true(told(f, "x-mdn-class: default\n") && told(f, "x-mdn-deadline-us: "));
}

static void test_a_bad_file_changes_nothing_and_a_good_one_the_next_request(void **state)
{
	struct fixture *f = *state;
	struct error err;

	assert_int_equal(classes(f, "classes: [{name: one}]\n", &err), 0);
	ask_as(f, ASK(""), "a: b", "one");
	assert_true(classes(f, "classes: [{name: two, class: no}]\n", &err) < 0);
	assert_non_null(strstr(err.text, "service_classes: "));
	ask_as(f, ASK(""), "a: b", "one");
	assert_int_equal(classes(f, "classes: [{name: two}]\n", &err), 0);
	ask_as(f, ASK(""), "a: b", "two");
	assert_int_equal(gateway_set_services(f->a.g, "", &err), 0);
	ask_as(f, ASK(""), "a: b", "(none)");
	assert_false(told(f, "x-mdn-service"));
}

static void test_goals_met_and_missed_are_counted(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	struct error err;

	assert_int_equal(classes(f, "classes: [{name: one, ttft: 1h}]\n", &err), 0);
	ask_as(f, ASK(""), "a: b", "one");
	ask_as(f, ASK(""), "a: b", "one");
	assert_int_equal(classes(f, "classes: [{name: one, ttft: 1us}]\n", &err), 0);
	ask_as(f, ASK(""), "a: b", "one");
	ask(&f->w, &r, "GET", f->a.api, "/metrics", NULL);
	assert_non_null(strstr(r.body.base, "mdn_service_requests_total{service=\"one\"} 3\n"));
	assert_non_null(strstr(r.body.base, "mdn_service_prompt_tokens_total{service=\"one\"} 21\n"));
	assert_non_null(strstr(r.body.base, "mdn_service_goal_total{service=\"one\",goal=\"ttft\",met=\"true\"} 2\n"));
	assert_non_null(strstr(r.body.base, "mdn_service_goal_total{service=\"one\",goal=\"ttft\",met=\"false\"} 1\n"));
	reply_fini(&r);
}

/* How many connections that `url` has accepted are marked so. */
static int marked(const char *url, int tos)
{
	int port = atoi(strrchr(url, ':') + 1), count = 0;

	for (int fd = 3; fd < 256; fd++) {
		struct sockaddr_in own, peer;
		socklen_t size = sizeof(own), peer_size = sizeof(peer), value_size = sizeof(int);
		int value = -1;

		if (getsockname(fd, (struct sockaddr *)&own, &size) < 0 || own.sin_family != AF_INET ||
		    ntohs(own.sin_port) != port || getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0)
			continue;
		assert_int_equal(getsockopt(fd, IPPROTO_IP, IP_TOS, &value, &value_size), 0);
		count += value == tos;
	}
	return count;
}

static void test_answers_are_marked_on_the_wire(void **state)
{
	struct fixture *f = *state;
	struct error err;

	assert_int_equal(classes(f, "classes: [{name: one, match: {header: {x-app: '*'}}, dscp: ef}]\n", &err), 0);
	ask_as(f, ASK(""), "x-app: a", "one");
	assert_int_equal(marked(f->a.api, 46 << 2), 1);
	ask_as(f, ASK(""), "a: b", "(none)"); /* the same connection, and it is not one of the service any more */
	assert_int_equal(marked(f->a.api, 46 << 2), 0);
	assert_int_equal(marked(f->a.api, 0), 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_wrong_with_the_file_is_told_with_its_line_and_key),
	    cmocka_unit_test(test_a_file_is_read_whole),
	    TEST(test_a_rule_says_how_urgent_a_request_may_be),
	    TEST(test_a_bad_file_changes_nothing_and_a_good_one_the_next_request),
	    TEST(test_goals_met_and_missed_are_counted),
	    TEST(test_answers_are_marked_on_the_wire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
