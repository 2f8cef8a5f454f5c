/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, through main's own door: what is printed, and the exit code. */
#include "cli/help.h"
#include "cli/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char said[1 << 18]; /* stdout and stderr of the last call */

/* Words separated by spaces; "" is a word, too. */
static int mdn(const char *line)
{
	char copy[512], *argv[32] = {"mdn"};
	int argc = 1, saved[2] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
	FILE *file = tmpfile();

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *rest = copy, *word; (word = strsep(&rest, " ")) != NULL && line[0] != '\0';)
		argv[argc++] = word;
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	dup2(fileno(file), STDERR_FILENO);
	int code = options_main(argc, argv);
	fflush(stdout);
	dup2(saved[0], STDOUT_FILENO);
	dup2(saved[1], STDERR_FILENO);
	close(saved[0]);
	close(saved[1]);
	rewind(file);
	said[fread(said, 1, sizeof(said) - 1, file)] = '\0';
	fclose(file);
	return code;
}

static void assert_says(const char *words)
{
	if (strstr(said, words) == NULL)
		fail_msg("\"%s\" is not in:\n%s", words, said);
}

static void check(const char *line, int code, const char *words)
{
	int got = mdn(line);

	if (got != code)
		fail_msg("`mdn %s` exits with %d:\n%s", line, got, said);
	assert_says(words);
}

static void test_slips_are_answered_with_the_nearest(void **state)
{
	check("", EXIT_USAGE, "Usage: mdn COMMAND");
	check("hepl", EXIT_USAGE, "no command \"hepl\"; the nearest is `mdn help`");
	check("config", EXIT_USAGE, "config explain");
	check("config --help", EXIT_DONE, "config explain");
	check("config shwo", EXIT_USAGE, "no command \"config shwo\"; the nearest is `mdn config show`");
	check("cofnig", EXIT_USAGE, "the nearest is `mdn config`");
	check("xyzzy", EXIT_USAGE, "no command \"xyzzy\". All of them: `mdn help`");
	check("config show --xyzzy", EXIT_USAGE, "unknown option --xyzzy; see `mdn config show --help`");
	check("config show --slotz 3", EXIT_USAGE, "unknown option --slotz; the nearest is --slots");
	check("config show --slotz=3", EXIT_USAGE, "unknown option --slotz; the nearest is --slots");
	check("version -x", EXIT_USAGE, "unknown option -x; see `mdn version --help`");
	check("config explain dns_tll", EXIT_NOTFOUND, "the nearest is \"dns_ttl\"");
}

static void test_options_that_would_not_be_heeded_are_refused(void **state)
{
	check("sign no-model:v1", EXIT_USAGE, "say with which key");
	check("sign no-model:v1 --key k --method shards", EXIT_USAGE, "--method goes with a folder or file");
	check("sign no-model:v1 --key k --ignore x", EXIT_USAGE, "--ignore goes with a folder or file");
	check("sign --channel no-model:v1 --key k -o x", EXIT_USAGE, "--output goes with a folder or file");
	check("sign no-model:v1 --key k --expires 7d", EXIT_USAGE, "--expires goes with --channel");
	check("sign --channel no-model:v1 --key k --expires soon", EXIT_USAGE, "--expires is a duration");
	check("sign --channel no-model:v1 --key k --counter 0", EXIT_USAGE, "--counter is a number");
	check("sign . --key k --shard-size 1M", EXIT_USAGE, "--shard-size goes with --method shards");
	check("sign . --key k --method shards --shard-size big", EXIT_USAGE, "--shard-size is bytes");
	check("sign . --key k --method md5", EXIT_USAGE, "none of files|shards");
	check("verify no-model:v1 --key k --ignore x", EXIT_USAGE, "go with a folder or file");
	check("import a.tar --key k --root r", EXIT_USAGE, "--key or --root, one of them");
	check("import a.tar --subject x", EXIT_USAGE, "--subject goes with --root");
	check("import hf:a/b --key k", EXIT_USAGE, "--key goes with a bundle");
	check("import /proc/self/exe --sha256 00", EXIT_USAGE, "--sha256 goes with hf: and https: sources");
	check("export --have-list -o x", EXIT_USAGE, "--have-list goes alone");
}

static void test_operands_are_counted_by_the_table(void **state)
{
	check("completion", EXIT_USAGE, "bash|zsh is missing");
	check("completion fish", EXIT_USAGE, "\"fish\" is none of bash|zsh");
	check("completion bash zsh", EXIT_USAGE, "too many words: \"zsh\"");
	check("version now", EXIT_USAGE, "too many words: \"now\"");
	check("config explain slots dns_ttl", EXIT_DONE, "Time to live");
	check("version --json=3", EXIT_USAGE, "--json takes no value");
	check("config show --slots", EXIT_USAGE, "--slots needs a value: --slots N");
}

static void test_every_configuration_key_is_an_option(void **state)
{
	check("config show --slots 3 --log-level=debug --open --roles edge,center", EXIT_DONE, "slots: 3\n");
	assert_says("log_level: debug\n");
	assert_says("open: true\n");
	assert_says("roles: [edge, center]\n");
	check("config show --open=false --json", EXIT_DONE, "\"open\": false,");
	check("config show --slots many", EXIT_USAGE, "mdn config show: --slots: \"many\" is not a whole number");
	check("config show --help", EXIT_DONE, "--drain-deadline TIME");
	for (size_t i = 0; i < config_key_count(); i++) {
		char flag[80];
		snprintf(flag, sizeof(flag), "--%s", config_key_name(i));
		for (char *p = flag; *p != '\0'; p++)
			*p = *p == '_' ? '-' : *p;
		assert_says(flag);
	}
}

static void test_check_names_file_line_and_key(void **state)
{
	char path[] = "/tmp/mdn-cli-XXXXXX", line[128];
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "name: a\nslot: 4\n", 16), 16);
	close(fd);
	snprintf(line, sizeof(line), "config check %s", path);
	check(line, EXIT_USAGE, ":2: unknown key \"slot\"; the nearest known key is \"slots\"");
	snprintf(line, sizeof(line), "config show -c %s", path);
	check(line, EXIT_USAGE, ":2: unknown key");
	unlink(path);
	check("config check /nonexistent.yaml", EXIT_USAGE, "there is no configuration file /nonexistent.yaml");
	check("config check --slots 4", EXIT_DONE, "right");
}

static void test_help_and_pages_cover_the_whole_table(void **state)
{
	static const char *const pages[] = {"help", "help --man", "help --markdown", "completion bash",
	                                    "completion zsh"};

	for (size_t p = 0; p < sizeof(pages) / sizeof(pages[0]); p++) {
		assert_int_equal(mdn(pages[p]), EXIT_DONE);
		for (unsigned i = 0; i < command_count; i++)
			assert_says(commands[i].words);
	}
	for (unsigned i = 0; i < command_count; i++) {
		char line[128];
		const char *example, *what;
		snprintf(line, sizeof(line), "help %s", commands[i].words);
		check(line, EXIT_DONE, commands[i].summary);
		assert_true(command_example_at(&commands[i], 0, &example, &what)); /* each has one */
		assert_says(example);
	}
	assert_int_equal(mdn("config explain --markdown"), EXIT_DONE);
	for (size_t i = 0; i < config_key_count(); i++)
		assert_says(config_key_name(i));
}

static void test_no_command_has_an_option_twice(void **state)
{
	struct command_option a, b;

	for (unsigned c = 0; c < command_count; c++)
		for (unsigned i = 0; command_option_at(&commands[c], i, &a); i++)
			for (unsigned j = 0; j < i && command_option_at(&commands[c], j, &b); j++)
				if (strcmp(a.name, b.name) == 0 || (a.letter != 0 && a.letter == b.letter))
					fail_msg("mdn %s: --%s and --%s", commands[c].words, a.name, b.name);
}

static void test_help_fits_eighty_columns(void **state)
{
	assert_int_equal(mdn("config show --help"), EXIT_DONE);
	for (char *rest = said, *line; (line = strsep(&rest, "\n")) != NULL;)
		if (strlen(line) > 80)
			fail_msg("too wide: %s", line);
}

/* Runs the script as bash does, with the cursor after the last word. */
static void check_completion(const char *words, const char *want)
{
	char command[1024], got[1024] = "", path[] = "/tmp/mdn-bash-XXXXXX";
	int fd = mkstemp(path);

	assert_int_equal(mdn("completion bash"), EXIT_DONE);
	assert_int_equal(write(fd, said, strlen(said)), strlen(said));
	close(fd);
	snprintf(
	    command, sizeof(command),
	    "bash -c '. %s; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _mdn; echo ${COMPREPLY[*]}' 2>&1",
	    path, words);
	FILE *p = popen(command, "r");
	got[fread(got, 1, sizeof(got) - 1, p)] = '\0';
	pclose(p);
	unlink(path);
	got[strcspn(got, "\n")] = '\0';
	if (strcmp(got, want) != 0)
		fail_msg("completing (%s) gives \"%s\"", words, got);
}

static void test_bash_completes_commands_options_values_and_keys(void **state)
{
	if (system("command -v bash >/dev/null") != 0)
		skip();
	check_completion("mdn confi", "config");
	check_completion("mdn config \"\"", "show check explain");
	check_completion("mdn config show --eng", "--engine --engine-isolation --engine-user");
	check_completion("mdn config show --engine \"\"", "llama remote synthetic");
	check_completion("mdn config explain dns_tt", "dns_ttl");
	check_completion("mdn completion \"\"", "bash zsh");
	check_completion("mdn config show --config /etc/hostnam", "/etc/hostname");
}

static void test_errors_become_documented_exit_codes(void **state)
{
	assert_int_equal(exit_code_of(0), 0);
	assert_int_equal(exit_code_of(E_AUTH), EXIT_REFUSED);
	assert_int_equal(exit_code_of(E_TIMEOUT), EXIT_UNREACHABLE);
	assert_int_equal(exit_code_of(E_NOSPACE), EXIT_NOSPACE);
	assert_int_equal(exit_code_of(E_INTERNAL), EXIT_FAILED);
}

int main(void)
{
	unsetenv("MDN_CONFIG");
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_slips_are_answered_with_the_nearest),
	    cmocka_unit_test(test_options_that_would_not_be_heeded_are_refused),
	    cmocka_unit_test(test_operands_are_counted_by_the_table),
	    cmocka_unit_test(test_every_configuration_key_is_an_option),
	    cmocka_unit_test(test_check_names_file_line_and_key),
	    cmocka_unit_test(test_help_and_pages_cover_the_whole_table),
	    cmocka_unit_test(test_no_command_has_an_option_twice),
	    cmocka_unit_test(test_help_fits_eighty_columns),
	    cmocka_unit_test(test_bash_completes_commands_options_values_and_keys),
	    cmocka_unit_test(test_errors_become_documented_exit_codes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
