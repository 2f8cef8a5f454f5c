/* SPDX-License-Identifier: Apache-2.0 */
/* Roll-outs, replicas and limits of a center that is killed again and again: simulated nodes do what their assignments
 * say, in random order, and after each restart every node must be told what it was told before. */
#include "world.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/rng.h"
#include "serve/center/inside.h"

#include <stdio.h>
#include <unistd.h>

#define NODES 9
#define US_AGO (10 * US_PER_S)

struct simulated {
	char id[NODE_ID_SIZE];
	bool roomy;
	struct model_report lines[2]; /* old, new */
	uint64_t seq;
};

struct net {
	char folder[64], data[96];
	struct loop *loop;
	struct center *center;
	struct simulated nodes[NODES];
	struct version versions[2];
	struct rng rng;
	uint64_t boot;
	bool broken;
};

static struct version version_of(const char *content)
{
	struct version v = {.name = "m", .tag = "stable", .manifest = digest_of(content, strlen(content))};
	v.files = mem_new(sizeof(*v.files));
	v.file_count = 1;
	snprintf(v.files[0].path, sizeof(v.files[0].path), "m.gguf");
	v.files[0].digest = digest_of(content, strlen(content) - 1);
	v.files[0].size = 1000;
	v.created_wall_us = 1;
	return v;
}

static void report(struct net *n, struct simulated *s)
{
	struct node_report r = {.roles = ROLE_EDGE, .state = NODE_READY, .boot = n->boot, .seq = ++s->seq};
	struct model_report lines[2];
	str_copy(str_from(s->id), r.id, sizeof(r.id));
	for (int i = 0; i < 2; i++)
		if (s->lines[i].name[0])
			lines[r.model_count++] = s->lines[i];
	r.models = lines;
	assert_int_equal(node_map_report(n->center->map, &r, loop_now_us(n->loop), NULL), 0);
}

static void start(struct net *n)
{
	struct center_options o = {.data = str_from(n->data)};
	struct error err = {0};
	if (center_new(n->loop, &o, &n->center, &err) != 0)
		fail_msg("%s", err.text);
	n->center->begun_us -= US_AGO;
	n->boot++;
	for (int i = 0; i < NODES; i++)
		report(n, &n->nodes[i]);
}

static void told(struct net *n, int node, struct buf *out)
{
	n->center->places_stale = true; /* shares of limits follow reports within a second */
	buf_append_str(out, STR("{"));
	places_assign(n->center, registry_find(n->center, str_from(n->nodes[node].id)), out);
	buf_append_str(out, STR("}"));
}

/* As if killed: nothing is written at the end. Everybody must be told the same as before. */
static void kill_and_start(struct net *n)
{
	struct buf before[NODES] = {0}, after[NODES] = {0};
	for (int i = 0; i < NODES; i++)
		told(n, i, &before[i]);
	center_free(n->center);
	start(n);
	for (int i = 0; i < NODES; i++) {
		told(n, i, &after[i]);
		if (!str_equal(buf_str(&before[i]), buf_str(&after[i])))
			fail_msg("node %d: told " STR_FMT ", then " STR_FMT, i, STR_ARG(buf_str(&before[i])),
			         STR_ARG(buf_str(&after[i])));
		buf_fini(&before[i]);
		buf_fini(&after[i]);
	}
}

static void put(struct net *n, const char *space, const char *key, const char *value)
{
	assert_int_equal(state_put(n->center->state, space, str_from(key), str_from(value), NULL), 0);
}

static void net_init(struct net *n, uint64_t seed, const char *rule)
{
	char operators[96];
	struct error err = {0};
	*n = (struct net){0};
	temporary_folder(n->folder);
	snprintf(n->data, sizeof(n->data), "%s/data", n->folder);
	snprintf(operators, sizeof(operators), "%s/operator", n->folder);
	assert_int_equal(center_init(str_from(n->data), STR("test.mdn"), STR("https://127.0.0.1:1"), STR("c1"),
	                             STR("core"), ROLE_CENTER, str_from(operators), &err),
	                 0);
	assert_int_equal(loop_new(&n->loop), 0);
	rng_init(&n->rng, seed);
	n->versions[0] = version_of("old.");
	n->versions[1] = version_of("new.");
	for (int i = 0; i < NODES; i++) {
		snprintf(n->nodes[i].id, sizeof(n->nodes[i].id), "n-%d", i);
		n->nodes[i].roomy = rng_below(&n->rng, 3) > 0;
	}
	start(n);
	for (int i = 0; i < NODES; i++) {
		struct registered r = {.roles = ROLE_EDGE}, *kept;
		str_copy(str_from(n->nodes[i].id), r.id, sizeof(r.id));
		str_copy(str_from(n->nodes[i].id), r.name, sizeof(r.name));
		str_copy(str_from(i < 2 ? "lab" : "field"), r.site, sizeof(r.site));
		assert_int_equal(registry_put(n->center, &r, &kept, &err), 0);
	}
	put(n, "rule", "k", rule);
	put(n, "limit", "site=lab", "{\"calendar\":\"1Gbit/s 01:00-06:00, 10Mbit/s else\"}");
	version_set(n->center, &n->versions[0], "n-repo");
	center_free(n->center);
	start(n); /* with the rule and the limit */
}

static void net_fini(struct net *n)
{
	char command[128];
	center_free(n->center);
	loop_free(n->loop);
	version_fini(&n->versions[0]);
	version_fini(&n->versions[1]);
	snprintf(command, sizeof(command), "rm -rf '%s'", n->folder);
	assert_int_equal(system(command), 0);
}

static void line_set(struct model_report *l, const struct version *v, enum model_state state)
{
	str_copy(STR("m:stable"), l->name, sizeof(l->name));
	digest_format(&v->manifest, l->digest);
	l->state = state;
}

/* A node takes a step towards what its assignment says. */
static void obey(struct net *n, int node)
{
	struct simulated *s = &n->nodes[node];
	struct assignment a;
	struct buf text = {0};
	struct error err = {0};
	bool held[2] = {false}, load[2] = {false};
	told(n, node, &text);
	if (assignment_parse(buf_str(&text), &a, &err) != 0)
		fail_msg("%s: " STR_FMT, err.text, STR_ARG(buf_str(&text)));
	for (size_t i = 0; i < a.count; i++) {
		int which = digest_equal(&a.versions[i].manifest, &n->versions[1].manifest);
		held[which] = true;
		load[which] = a.how[i].load;
	}
	assert_false(load[0] && load[1]);
	assert_int_equal(a.limit_count, node < 2);
	for (int i = 0; i < 2; i++) {
		struct model_report *l = &s->lines[i], *other = &s->lines[!i];
		bool answers = other->name[0] && other->state == MODEL_READY;
		if (held[i] && !l->name[0]) {
			line_set(l, &n->versions[i], MODEL_CACHED);
		} else if (load[i] && l->state == MODEL_CACHED) {
			l->state = MODEL_LOADING;
			if (!s->roomy && answers)
				other->state = MODEL_CACHED;
		} else if (load[i] && l->state == MODEL_LOADING) {
			l->state = n->broken && i == 1 ? MODEL_FAILED : MODEL_READY;
			if (l->state == MODEL_READY && answers)
				other->state = MODEL_CACHED;
			else if (l->state == MODEL_FAILED && other->name[0] && !answers)
				other->state = MODEL_LOADING; /* comes back by itself */
		} else if (!load[i] && l->state == MODEL_LOADING) {
			l->state = load[!i] && !answers ? MODEL_READY : MODEL_CACHED;
		}
		if (!held[i] && l->name[0] && l->state != MODEL_READY)
			*l = (struct model_report){0};
	}
	assignment_fini(&a);
	buf_fini(&text);
	report(n, s);
}

static size_t answering(const struct net *n, int which)
{
	size_t count = 0;
	for (int i = 0; i < NODES; i++)
		count += n->nodes[i].lines[which].name[0] && n->nodes[i].lines[which].state == MODEL_READY;
	return count;
}

static enum rollout_phase phase(struct net *n)
{
	struct held_rollout *h = rollouts_find(n->center, "m:stable");
	assert_non_null(h);
	return h->r.phase;
}

static void run(struct net *n, int steps, enum rollout_phase until, size_t *ret_silent)
{
	for (int i = 0; i < steps; i++) {
		size_t silent = NODES - answering(n, 0) - answering(n, 1);
		if (silent > *ret_silent)
			*ret_silent = silent;
		if (rollouts_find(n->center, "m:stable") && phase(n) == until)
			return;
		obey(n, (int)rng_below(&n->rng, NODES));
		if (rng_below(&n->rng, 4) == 0)
			rollouts_tick(n->center);
		if (rng_below(&n->rng, 10) == 0)
			kill_and_start(n);
	}
}

#define RULE \
	"{\"model\":\"m:stable\",\"on\":\"role=edge\",\"rollout\":{\"canary\":\"site=lab\",\"percents\":\"50,100\"," \
	"\"soak_us\":0,\"on_failure\":\"rollback\"}}"

static void test_a_killed_center_goes_on_with_its_roll_outs(void **unused)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct net n;
		size_t silent = 0, ignored = NODES;
		net_init(&n, seed, RULE);
		n.broken = seed % 4 == 0;
		for (int i = 0; i < 400 && answering(&n, 0) < NODES; i++)
			obey(&n, (int)rng_below(&n.rng, NODES));
		assert_int_equal(answering(&n, 0), NODES);
		version_set(n.center, &n.versions[1], "n-repo");
		assert_int_equal(phase(&n), ROLLOUT_MOVING);
		kill_and_start(&n);
		run(&n, 3000, n.broken ? ROLLOUT_RETURNED : ROLLOUT_DONE, &silent);
		assert_int_equal(phase(&n), n.broken ? ROLLOUT_RETURNED : ROLLOUT_DONE);
		assert_true(silent <= NODES / 4);
		for (int i = 0; i < 200; i++)
			obey(&n, (int)rng_below(&n.rng, NODES));
		assert_int_equal(answering(&n, n.broken ? 0 : 1), NODES);
		if (!n.broken) { /* regret: back to the old one, which was dropped from the disks meanwhile */
			bool was_one;
			assert_int_equal(rollouts_cancel(n.center, "m:stable", &was_one, NULL), 0);
			assert_false(was_one); /* done is done: only a roll back by name */
			version_set(n.center, &n.versions[0], "n-repo");
			run(&n, 3000, ROLLOUT_DONE, &ignored);
			assert_int_equal(phase(&n), ROLLOUT_DONE);
		}
		net_fini(&n);
	}
}

/* What the first one's step makes stale must not be made anew under the second one's eyes. */
static void test_two_roll_outs_go_on_in_the_same_second(void **unused)
{
	struct net n;
	struct version other[2] = {version_of("one."), version_of("two.")};
	net_init(&n, 5, RULE);
	put(&n, "rule", "k2", "{\"model\":\"a:stable\",\"on\":\"site=nowhere\",\"rollout\":{\"soak_us\":0}}");
	center_free(n.center);
	start(&n);
	for (int i = 0; i < 2; i++) {
		snprintf(other[i].name, sizeof(other[i].name), "a");
		version_set(n.center, &other[i], "n-repo");
		version_fini(&other[i]);
	}
	version_set(n.center, &n.versions[1], "n-repo");
	assert_int_equal(n.center->rollout_count, 2);
	for (int i = 0; i < 3; i++)
		rollouts_tick(n.center);
	assert_int_equal(rollouts_find(n.center, "a:stable")->r.phase, ROLLOUT_DONE);
	assert_int_equal(rollouts_find(n.center, "m:stable")->node_count, NODES);
	net_fini(&n);
}

static void test_a_tag_that_moves_back_ends_the_roll_out(void **unused)
{
	struct net n;
	size_t silent = 0;
	net_init(&n, 99, RULE);
	for (int i = 0; i < 400; i++)
		obey(&n, (int)rng_below(&n.rng, NODES));
	version_set(n.center, &n.versions[1], "n-repo");
	run(&n, 60, ROLLOUT_DONE, &silent);
	version_set(n.center, &n.versions[0], "n-repo");
	assert_null(rollouts_find(n.center, "m:stable"));
	kill_and_start(&n);
	for (int i = 0; i < 400; i++)
		obey(&n, (int)rng_below(&n.rng, NODES));
	assert_int_equal(answering(&n, 0), NODES);
	net_fini(&n);
}

/* What is only to be on the disks is never loaded: it is there when it is there. */
static void test_a_model_that_is_only_to_be_on_disk_is_rolled_out(void **unused)
{
	struct net n;
	size_t silent = 0;
	net_init(&n, 3,
	         "{\"model\":\"m:stable\",\"on\":\"role=edge\",\"preheat\":true,"
	         "\"rollout\":{\"percents\":\"50,100\",\"soak_us\":0}}");
	for (int i = 0; i < 100; i++)
		obey(&n, (int)rng_below(&n.rng, NODES));
	version_set(n.center, &n.versions[1], "n-repo");
	run(&n, 3000, ROLLOUT_DONE, &silent);
	assert_int_equal(phase(&n), ROLLOUT_DONE);
	assert_int_equal(answering(&n, 1), 0);
	net_fini(&n);
}

/* Killed between the roll-out and its rule, whichever of them was written or deleted first. */
static void test_a_roll_out_without_a_rule_is_forgotten(void **unused)
{
	struct net n;
	net_init(&n, 11, RULE);
	version_set(n.center, &n.versions[1], "n-repo");
	assert_non_null(rollouts_find(n.center, "m:stable"));
	assert_int_equal(state_delete(n.center->state, "rule", STR("k"), NULL), 0);
	for (int i = 0; i < 2; i++) {
		center_free(n.center);
		start(&n);
		assert_null(rollouts_find(n.center, "m:stable"));
		put(&n, "rule", "k", RULE); /* again, later */
	}
	net_fini(&n);
}

static void test_a_version_that_comes_back_meets_the_gates_again(void **unused)
{
	struct net n;
	net_init(&n, 12, RULE);
	assert_null(rollouts_find(n.center, "m:stable"));
	n.center->mark++;
	version_drop_unmarked(n.center, "n-repo");
	version_set(n.center, &n.versions[1], "n-repo");
	assert_int_equal(phase(&n), ROLLOUT_MOVING);
	assert_false(rollouts_find(n.center, "m:stable")->has_old);
	kill_and_start(&n);
	net_fini(&n);
}

static void test_a_pause_goes_with_the_last_rule(void **unused)
{
	struct net n;
	size_t removed;
	net_init(&n, 13, RULE);
	put(&n, "pause", "m:stable", "{}");
	center_free(n.center);
	start(&n);
	assert_true(places_paused(n.center, "m:stable"));
	assert_int_equal(state_delete(n.center->state, "rule", STR("k"), NULL), 0);
	assert_int_equal(places_remove_all(n.center, "m:stable", &removed, NULL), 0);
	assert_false(places_paused(n.center, "m:stable"));
	center_free(n.center);
	start(&n);
	assert_false(places_paused(n.center, "m:stable"));
	net_fini(&n);
}

static void test_labels_are_kept_and_changed_as_a_whole(void **unused)
{
	struct net n;
	char labels[2][NODE_TEXT_SIZE] = {"rack:7", "tier:gold"};
	struct registered r = {.roles = ROLE_EDGE, .labels = labels, .label_count = 2}, *kept;
	net_init(&n, 14, RULE);
	str_copy(STR("n-new"), r.id, sizeof(r.id));
	assert_int_equal(registry_put(n.center, &r, &kept, NULL), 0);
	r = *kept;
	r.memory_bytes = 1;
	assert_int_equal(registry_put(n.center, &r, &kept, NULL), 0); /* with the labels it has */
	assert_string_equal(kept->labels[1], "tier:gold");
	kill_and_start(&n);
	kept = registry_find(n.center, STR("n-new"));
	assert_int_equal(kept->label_count, 2);
	r = *kept;
	r.labels = labels;
	r.label_count = 1;
	assert_int_equal(registry_put(n.center, &r, &kept, NULL), 0);
	assert_int_equal(kept->label_count, 1);
	assert_string_equal(kept->labels[0], "rack:7");
	net_fini(&n);
}

/* A node refuses an assignment that divides by nobody. */
static void test_a_limit_is_never_divided_by_nobody(void **unused)
{
	struct net n;
	struct buf text = {0};
	struct assignment a;
	net_init(&n, 15, RULE); /* everybody misses the model */
	told(&n, 0, &text);
	for (int i = 0; i < NODES; i++)
		n.center->nodes[i]->away = true;
	buf_clear(&text);
	told(&n, 0, &text);
	assert_int_equal(assignment_parse(buf_str(&text), &a, NULL), 0);
	assignment_fini(&a);
	buf_fini(&text);
	net_fini(&n);
}

/* One model by many rules is one model, whatever stands behind it. */
static void test_many_rules_of_a_model_leave_room_for_the_next(void **unused)
{
	struct net n;
	struct buf text = {0};
	struct version last = version_of("z.");
	net_init(&n, 16, RULE);
	for (int i = 0; i < 2 * LIMIT_NODE_MODELS; i++) {
		char key[16], rule[128];
		snprintf(key, sizeof(key), "k%d", i);
		snprintf(rule, sizeof(rule), "{\"model\":\"m:stable\",\"on\":\"role=edge,!site=s%d\"}", i);
		put(&n, "rule", key, rule);
	}
	put(&n, "rule", "z", "{\"model\":\"z:stable\",\"on\":\"all\"}");
	center_free(n.center);
	start(&n);
	snprintf(last.name, sizeof(last.name), "z");
	version_set(n.center, &last, "n-repo");
	told(&n, 0, &text);
	assert_non_null(strstr(text.base, "\"name\":\"z\""));
	version_fini(&last);
	buf_fini(&text);
	net_fini(&n);
}

static void test_replicas_stay_over_restarts(void **unused)
{
	struct net n;
	size_t placed = 0;
	net_init(&n, 7, "{\"model\":\"m:stable\",\"on\":\"role=edge\",\"replicas\":2,\"per_site\":true}");
	for (int i = 0; i < NODES; i++)
		placed += places_holds(n.center, registry_find(n.center, str_from(n.nodes[i].id)), "m:stable", NULL);
	assert_int_equal(placed, 4);
	for (int i = 0; i < 5; i++)
		kill_and_start(&n);
	net_fini(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_killed_center_goes_on_with_its_roll_outs),
	    cmocka_unit_test(test_two_roll_outs_go_on_in_the_same_second),
	    cmocka_unit_test(test_a_tag_that_moves_back_ends_the_roll_out),
	    cmocka_unit_test(test_a_model_that_is_only_to_be_on_disk_is_rolled_out),
	    cmocka_unit_test(test_a_roll_out_without_a_rule_is_forgotten),
	    cmocka_unit_test(test_a_version_that_comes_back_meets_the_gates_again),
	    cmocka_unit_test(test_a_pause_goes_with_the_last_rule),
	    cmocka_unit_test(test_labels_are_kept_and_changed_as_a_whole),
	    cmocka_unit_test(test_a_limit_is_never_divided_by_nobody),
	    cmocka_unit_test(test_many_rules_of_a_model_leave_room_for_the_next),
	    cmocka_unit_test(test_replicas_stay_over_restarts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
