/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: what is refused, in which words; who wins; what is shown. */
#include "base/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static void write_file(const char *text)
{
	snprintf(path, sizeof(path), "/tmp/mdn-config-XXXXXX");
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static struct config *load(const char *text, const struct config_override *overrides, size_t count)
{
	struct config *c = NULL;
	struct error err = {0};

	write_file(text);
	if (config_load(path, overrides, count, &c, &err) != 0)
		fail_msg("%s", err.text);
	unlink(path);
	return c;
}

/* `words` with its first %s for the file's name */
static void check_refused(const char *text, const char *words)
{
	struct config *c = NULL;
	struct error err = {0};
	char want[512];

	write_file(text);
	int rc = config_load(path, NULL, 0, &c, &err);
	unlink(path);
	assert_int_equal(rc, E_INVAL);
	assert_null(c);
	snprintf(want, sizeof(want), "%s:%s", path, words);
	assert_string_equal(err.text, want);
}

static char *show(const struct config *c, bool json)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	config_show(c, out, json);
	fclose(out);
	return text;
}

static void test_file_sets_every_kind(void **state)
{
	struct config *c = load("# edge of the north\n"
	                        "name: edge-1\n"
	                        "roles: [edge, scheduler]\n"
	                        "zones: 10.0.0.0/8=north, 2001:db8::/32=south,\n"
	                        "open: yes\n"
	                        "chunk_size: 2M\n"
	                        "dns_ttl: 1500ms\n"
	                        "slots: 16\n"
	                        "dns_listen:\n"
	                        "site: \"a: b # c\"\n",
	                        NULL, 0);

	assert_string_equal(c->name, "edge-1");
	assert_int_equal(c->roles.count, 2);
	assert_string_equal(c->roles.items[1], "scheduler");
	assert_int_equal(c->zones.count, 2);
	assert_string_equal(c->zones.items[1], "2001:db8::/32=south");
	assert_true(c->open);
	assert_true(c->access_log); /* a default */
	assert_int_equal(c->chunk_size, 2 << 20);
	assert_int_equal(c->dns_ttl_us, 1500000);
	assert_int_equal(c->slots, 16);
	assert_string_equal(c->dns_listen, "");
	assert_string_equal(c->site, "a: b # c");
	assert_string_equal(c->engine, "llama");
	config_free(c);
}

static void test_empty_file_means_defaults_and_host_name(void **state)
{
	static const char *const empty[] = {"", "# only words\n", "---\n", "{}\n"};
	char host[256] = "";

	gethostname(host, sizeof(host) - 1);
	for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
		struct config *c = load(empty[i], NULL, 0);
		assert_string_equal(c->name, host);
		assert_int_equal(c->cert_life_us, INT64_C(3600000000));
		assert_int_equal(c->roles.count, 0);
		config_free(c);
	}
}

static void test_unknown_key_names_line_and_nearest(void **state)
{
	check_refused("name: a\n\nfetch_paralel: 3\n",
	              "3: unknown key \"fetch_paralel\"; the nearest known key is \"fetch_parallel\"");
	check_refused("log-level: info\n", "1: unknown key \"log-level\"; the nearest known key is \"log_level\"");
	check_refused("<<: {name: a}\n", "1: unknown key \"<<\"; the nearest known key is \"pin\"");
	check_refused("name: a\nsite: b\nname: c\n", "3: name is here a second time; it was set in line 1");
}

static void test_wrong_value_names_line_key_and_remedy(void **state)
{
	check_refused("name: a\nslots: many\n", "2: slots: \"many\" is not a whole number");
	check_refused(
	    "name: a\ndns_ttl: 20\n",
	    "2: dns_ttl: \"20\" is not a duration: write a number and its unit, such as 250ms, 20s, 10m, 1h, 1d");
	check_refused("chunk_size: 4 MB\n",
	              "1: chunk_size: \"4 MB\" is not a number of bytes: write 1048576, 512K, 4M, 2G");
	check_refused("open: maybe\n", "1: open: \"maybe\" is not true or false");
	check_refused("slots: [1, 2]\n", "1: slots: expected one value, not a list or a mapping; it is a whole number");
	check_refused("site: b\nname:\n  first: a\n",
	              "2: name: expected one value, not a list or a mapping; it is a text");
	check_refused("roles: {edge: yes}\n", "1: roles: expected a list of texts, such as [a, b]");
	check_refused("\nroles: [edge, [center]]\n", "2: roles: expected a list of texts, such as [a, b]");
	check_refused("site: ~\n", "1: site: null says nothing; leave the key out, or write \"\"");
}

static void test_value_out_of_rule_names_the_rule(void **state)
{
	check_refused("cert_life: 25h\n", "1: cert_life is out of range: it must be 1s to 24h");
	check_refused("chunk_size: 512K\n", "1: chunk_size is out of range: it must be 1M to 16M");
	check_refused("engine: vllm\n", "1: engine: \"vllm\" is none of: llama, remote, synthetic");
	check_refused("roles: edge, middle\n", "1: roles: \"middle\" is none of: repository, center, edge, scheduler");
	check_refused("fetch_rate: 9223372036854775808\n", "1: fetch_rate: \"9223372036854775808\" is not a number of "
	                                                   "bytes: write 1048576, 512K, 4M, 2G");
}

static void test_bad_yaml_names_the_line(void **state)
{
	check_refused("name: a\nsite: 'x\n", "3: not valid YAML: found unexpected end of stream");
	check_refused("name: a\n site: x\n", "2: not valid YAML: mapping values are not allowed in this context");
	check_refused("- name\n", "1: expected keys and values, such as \"name: edge-1\"");
	check_refused("just words\n", "1: expected keys and values, such as \"name: edge-1\"");
	check_refused("name: a\n---\nname: b\n", "2: a second document begins here; one file holds one");
	check_refused("name: &n a\nsite: *n\n", "2: aliases (*name) are not supported; write the value again");
	check_refused("site: \"a\\0b\"\n", "1: a NUL character in a text");
	check_refused("? [a]\n: b\n", "1: expected a key, such as \"name: edge-1\"");
}

static void test_missing_and_huge_files_are_refused(void **state)
{
	struct config *c = NULL;
	struct error err = {0};

	assert_int_equal(config_load("/nonexistent/mdn.yaml", NULL, 0, &c, &err), E_NOTFOUND);
	assert_string_equal(err.text, "there is no configuration file /nonexistent/mdn.yaml");
	assert_int_equal(config_load("/tmp", NULL, 0, &c, &err), E_IO);
	assert_int_equal(config_load("/dev/zero", NULL, 0, &c, &err), E_LIMIT);
	assert_null(c);
}

static void test_flag_beats_file_beats_default(void **state)
{
	const struct config_override flags[] = {
	    {"slots", "3"}, {"log-level", "debug"}, {"roles", "edge,center"}, {"slots", "4"}};
	struct config *c = load("slots: 16\ncontext: 1024\nroles: [scheduler]\n", flags, 4);

	assert_int_equal(c->slots, 4); /* the last flag wins */
	assert_string_equal(c->log_level, "debug");
	assert_int_equal(c->roles.count, 2);
	assert_string_equal(c->roles.items[0], "edge");
	assert_int_equal(c->context, 1024);
	assert_int_equal(c->batch_tokens, 512);
	config_free(c);
}

static void test_bad_flag_is_named(void **state)
{
	struct config *c = NULL;
	struct error err = {0};

	assert_int_equal(config_load(NULL, &(struct config_override){"slot", "1"}, 1, &c, &err), E_INVAL);
	assert_string_equal(err.text, "unknown key \"slot\"; the nearest known key is \"slots\"");
	assert_int_equal(config_load(NULL, &(struct config_override){"token-life", "10"}, 1, &c, &err), E_INVAL);
	assert_non_null(strstr(err.text, "--token-life: \"10\" is not a duration: "));
}

static void test_show_hides_secrets_and_loads_again(void **state)
{
	const struct config_override flags[] = {{"remote_key", "sk-very-secret"},
	                                        {"site", "a: \"b\" # c"},
	                                        {"zones", "10.0.0.0/8=n,::/0=s"},
	                                        {"dns_ttl", "90s"},
	                                        {"fetch_rate", "3072"},
	                                        {"dns_listen", ""},
	                                        {"token_life", "1d"}};
	struct config *c = load("", flags, 7);
	char *yaml = show(c, false), *json = show(c, true);

	assert_null(strstr(yaml, "very-secret"));
	assert_null(strstr(json, "very-secret"));
	assert_non_null(strstr(yaml, "remote_key: \"***\"\n"));
	assert_non_null(strstr(json, "\"remote_key\": \"***\""));
	assert_non_null(strstr(yaml, "fetch_rate: 3K\n"));
	assert_non_null(strstr(json, "\"fetch_rate\": 3072,"));
	assert_non_null(strstr(json, "\"dns_ttl\": \"90s\""));
	for (int i = 0; i < 2; i++) { /* JSON is YAML too */
		struct config *again = load(i == 0 ? yaml : json, NULL, 0);
		char *shown = show(again, false);
		assert_string_equal(shown, yaml);
		free(shown);
		config_free(again);
	}
	free(yaml);
	free(json);
	config_free(c);
}

/* Good for the key and not its default, where it takes a second value at all */
static const char *other_value(size_t i)
{
	static const struct {
		const char *key, *value;
	} words[] = {{"roles", "edge"},
	             {"state", "sqlite"},
	             {"engine", "remote"},
	             {"repository_access", "key"},
	             {"log_level", "warn"},
	             {"log_format", "json"},
	             {"engine_isolation", "none"},
	             {"itl_target", "20ms"},
	             {"route_policy", "session"}};
	const char *kind = config_key_kind(i);

	for (size_t j = 0; j < sizeof(words) / sizeof(words[0]); j++)
		if (strcmp(config_key_name(i), words[j].key) == 0)
			return words[j].value;
	if (strcmp(kind, "flag") == 0)
		return strcmp(config_key_fallback(i), "true") == 0 ? "false" : "true";
	if (strcmp(kind, "duration") == 0)
		return "77s";
	if (strcmp(kind, "bytes") == 0)
		return "3M";
	if (strcmp(kind, "integer") == 0)
		return "64";
	return "x,y";
}

struct seen {
	unsigned count;
	const char *key;
	bool live;
};

static void on_difference(void *arg, const char *key, bool live)
{
	struct seen *s = arg;

	s->count++;
	s->key = key;
	s->live = live;
}

static void test_every_key_goes_round_by_flag_and_file_and_is_told_apart(void **state)
{
	struct config *before = load("name: n\n", NULL, 0);

	for (size_t i = 0; i < config_key_count(); i++) {
		struct config_override flags[] = {{"name", "n"}, {config_key_name(i), other_value(i)}};
		struct config *after = load("", flags, 2);
		char *yaml = show(after, false);
		struct config *again = load(yaml, NULL, 0);
		struct seen seen = {0};

		config_compare(before, after, on_difference, &seen);
		if (strcmp(config_key_name(i), "state") == 0) { /* has one value only, yet */
			assert_int_equal(seen.count, 0);
		} else {
			assert_int_equal(seen.count, 1);
			assert_string_equal(seen.key, config_key_name(i));
			assert_int_equal(seen.live, config_key_is_live(i));
		}
		seen.count = 0;
		config_compare(after, again, on_difference, &seen);
		assert_int_equal(seen.count, strcmp(config_key_kind(i), "secret") == 0);
		config_free(again);
		config_free(after);
		free(yaml);
	}
	config_free(before);
}

static void test_explain_knows_every_key_and_the_nearest(void **state)
{
	struct error err = {0};
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	assert_int_equal(config_explain(NULL, out, &err), 0);
	assert_int_equal(config_explain("dns_tll", out, &err), E_NOTFOUND);
	assert_string_equal(err.text, "there is no key \"dns_tll\"; the nearest is \"dns_ttl\"");
	fclose(out);
	for (size_t i = 0; i < config_key_count(); i++) {
		assert_non_null(strstr(text, config_key_name(i)));
		assert_non_null(strstr(text, config_key_help(i)));
		assert_true(config_is_key(config_key_name(i)));
	}
	assert_false(config_is_key(""));
	assert_false(config_is_key("dns"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_file_sets_every_kind),
	    cmocka_unit_test(test_empty_file_means_defaults_and_host_name),
	    cmocka_unit_test(test_unknown_key_names_line_and_nearest),
	    cmocka_unit_test(test_wrong_value_names_line_key_and_remedy),
	    cmocka_unit_test(test_value_out_of_rule_names_the_rule),
	    cmocka_unit_test(test_bad_yaml_names_the_line),
	    cmocka_unit_test(test_missing_and_huge_files_are_refused),
	    cmocka_unit_test(test_flag_beats_file_beats_default),
	    cmocka_unit_test(test_bad_flag_is_named),
	    cmocka_unit_test(test_show_hides_secrets_and_loads_again),
	    cmocka_unit_test(test_every_key_goes_round_by_flag_and_file_and_is_told_apart),
	    cmocka_unit_test(test_explain_knows_every_key_and_the_nearest),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
