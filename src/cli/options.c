/* SPDX-License-Identifier: Apache-2.0 */
/* How: commands.def becomes three flat arrays: commands, options, examples; an option belongs to a command when its
 * owner is the command or one of the command's sets. For a call the command's options are gathered into what
 * getopt_long wants, and the result into `struct args`. Unknown words are answered with the nearest known one.
 */
#include "cli/options.h"

#include "cli/help.h"

#include <assert.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const struct command commands[] = {
#define COMMAND(id, group, words, operands, sets, summary, details) \
	{#id, group, words, operands, (sets) | with_help, summary, details, cmd_##id},
#include "cli/commands.def"
};
const unsigned command_count = sizeof(commands) / sizeof(commands[0]);

static const struct {
	const char *owner;
	struct command_option option;
} options[] = {
#define OPTION(owner, letter, name, argument, help) {#owner, {letter, name, argument, help, NULL, false, false}},
#include "cli/commands.def"
};

static const struct {
	const char *owner, *line, *what;
} examples[] = {
#define EXAMPLE(owner, line, what) {#owner, line, what},
#include "cli/commands.def"
};

static const char *const set_names[] = {
#define SET(id) #id,
#include "cli/commands.def"
};

/* ---- the table ---- */

static bool is_owner(const struct command *c, const char *owner)
{
	if (strcmp(owner, c->id) == 0)
		return true;
	for (unsigned i = 0; i < sizeof(set_names) / sizeof(set_names[0]); i++)
		if ((c->sets & 1u << i) != 0 && strcmp(owner, set_names[i]) == 0)
			return true;
	return false;
}

#define KEY_NAME_SIZE 64

/* Keys with `-`; made once, for the names must outlive the call. */
static const char *key_option_name(unsigned i)
{
	static char(*names)[KEY_NAME_SIZE];

	if (names == NULL) {
		names = mem_new(config_key_count() * sizeof(*names));
		for (size_t k = 0; k < config_key_count(); k++) {
			bool fits = str_copy(str_from(config_key_name(k)), names[k], KEY_NAME_SIZE);
			assert(fits);
			for (char *p = names[k]; *p != '\0'; p++)
				*p = *p == '_' ? '-' : *p;
		}
	}
	return names[i];
}

static const char *key_argument(unsigned i)
{
	const char *kind = config_key_kind(i);

	if (strcmp(kind, "list") == 0)
		return "A,B,...";
	if (strcmp(kind, "bytes") == 0)
		return "BYTES";
	if (strcmp(kind, "duration") == 0)
		return "TIME";
	if (strcmp(kind, "integer") == 0)
		return "N";
	return strcmp(kind, "flag") == 0 ? "true|false" : "TEXT";
}

static void key_option(unsigned i, struct command_option *ret)
{
	const char *rule = config_key_rule(i);
	bool is_flag = strcmp(config_key_kind(i), "flag") == 0;

	*ret = (struct command_option){.name = key_option_name(i),
	                               .argument = key_argument(i),
	                               .help = config_key_help(i),
	                               .choices = rule != NULL && strstr(rule, " to ") == NULL ? rule : NULL,
	                               .argument_is_optional = is_flag,
	                               .is_key = true};
	if (is_flag)
		ret->choices = "true, false";
}

bool command_option_at(const struct command *c, unsigned i, struct command_option *ret_option)
{
	for (unsigned j = 0; j < sizeof(options) / sizeof(options[0]); j++) {
		if (!is_owner(c, options[j].owner))
			continue;
		if (i-- > 0)
			continue;
		*ret_option = options[j].option;
		if (ret_option->argument != NULL && strchr(ret_option->argument, '|') != NULL)
			ret_option->choices = ret_option->argument;
		return true;
	}
	if ((c->sets & with_keys) == 0 || i >= config_key_count())
		return false;
	key_option(i, ret_option);
	return true;
}

bool command_example_at(const struct command *c, unsigned i, const char **ret_line, const char **ret_what)
{
	for (unsigned j = 0; j < sizeof(examples) / sizeof(examples[0]); j++) {
		if (strcmp(examples[j].owner, c->id) != 0 || i-- > 0)
			continue;
		*ret_line = examples[j].line;
		*ret_what = examples[j].what;
		return true;
	}
	return false;
}

const struct command *command_find(char *const *words, unsigned count, unsigned *ret_used)
{
	for (unsigned i = 0; i < command_count; i++) {
		struct str second, first = str_cut(str_from(commands[i].words), ' ', &second);
		unsigned need = second.len > 0 ? 2 : 1;
		if (count < need || !str_equal(first, str_from(words[0])) ||
		    (need == 2 && !str_equal(second, str_from(words[1]))))
			continue;
		*ret_used = need;
		return &commands[i];
	}
	return NULL;
}

bool command_is_below(const struct command *c, const char *word)
{
	struct str second, first = str_cut(str_from(c->words), ' ', &second);

	return second.len > 0 && str_equal(first, str_from(word));
}

bool command_operand_at(const struct command *c, unsigned i, struct str *ret_name, bool *ret_required,
                        bool *ret_repeats)
{
	struct str rest = str_from(c->operands), word = {0};

	for (unsigned j = 0; j <= i; j++) {
		if (rest.len == 0)
			return false;
		word = str_cut(rest, ' ', &rest);
	}
	*ret_required = word.base[0] != '[';
	if (!*ret_required)
		word = (struct str){word.base + 1, word.len - 2};
	*ret_repeats = str_ends(word, STR("..."));
	if (*ret_repeats)
		word.len -= 3;
	*ret_name = word;
	return true;
}

/* ---- what was given ---- */

static bool has_option(const struct command *c, const char *name)
{
	struct command_option o;

	for (unsigned i = 0; command_option_at(c, i, &o); i++)
		if (strcmp(o.name, name) == 0)
			return true;
	return false;
}

static const struct given_option *given(const struct args *a, const char *name, unsigned n)
{
	for (unsigned i = 0; i < a->option_count; i++)
		if (strcmp(a->options[i].name, name) == 0 && n-- == 0)
			return &a->options[i];
	assert(has_option(a->command, name));
	return NULL;
}

bool args_has(const struct args *a, const char *option)
{
	return given(a, option, 0) != NULL;
}

const char *args_nth(const struct args *a, const char *option, unsigned n)
{
	const struct given_option *o = given(a, option, n);

	return o != NULL ? o->value : NULL;
}

const char *args_value(const struct args *a, const char *option)
{
	const char *value = NULL, *next;

	for (unsigned n = 0; (next = args_nth(a, option, n)) != NULL; n++)
		value = next;
	return value;
}

const char *args_operand(const struct args *a, unsigned n)
{
	return n < a->operand_count ? a->operands[n] : NULL;
}

const char *args_config_path(const struct args *a)
{
	const char *path = args_value(a, "config");

	if (path == NULL)
		path = getenv("MDN_CONFIG");
	if (path == NULL && access("mdn.yaml", F_OK) == 0)
		path = "mdn.yaml";
	return path != NULL && path[0] != '\0' ? path : NULL;
}

int args_config(const struct args *a, struct config **ret_config, struct error *err)
{
	return config_load(args_config_path(a), a->overrides, a->override_count, ret_config, err);
}

int args_fail(const struct args *a, const struct error *err)
{
	fprintf(stderr, "mdn %s: %s\n", a->command->words, err->text);
	return (int)exit_code_of(err->code);
}

int args_fail_words(const struct args *a, const struct error *err)
{
	int code = args_fail(a, err);
	return err->code == E_INVAL ? EXIT_USAGE : code;
}

int args_usage(const struct args *a, const char *format, ...)
{
	va_list rest;

	fprintf(stderr, "mdn %s: ", a->command->words);
	va_start(rest, format);
	vfprintf(stderr, format, rest);
	va_end(rest);
	fprintf(stderr, "; see `mdn %s --help`\n", a->command->words);
	return EXIT_USAGE;
}

/* ---- parsing ---- */

#define LONG_BASE 1000 /* getopt_long gives LONG_BASE + index for a long option */

struct spec {
	struct command_option *options;
	struct option *longs; /* getopt_long's */
	char letters[64];
	unsigned count;
};

static void spec_init(struct spec *s, const struct command *c)
{
	struct command_option o;
	size_t at = 0;

	*s = (struct spec){0};
	while (command_option_at(c, s->count, &o))
		s->count++;
	s->options = mem_new(s->count * sizeof(*s->options));
	s->longs = mem_new((s->count + 1) * sizeof(*s->longs));
	s->letters[at++] = ':'; /* we print the words */
	for (unsigned i = 0; i < s->count; i++) {
		command_option_at(c, i, &s->options[i]);
		const struct command_option *p = &s->options[i];
		int kind = p->argument == NULL       ? no_argument
		           : p->argument_is_optional ? optional_argument
		                                     : required_argument;
		s->longs[i] = (struct option){p->name, kind, NULL, LONG_BASE + (int)i};
		if (p->letter != 0 && at + 2 < sizeof(s->letters)) {
			s->letters[at++] = p->letter;
			if (p->argument != NULL)
				s->letters[at++] = ':';
		}
	}
}

static void spec_fini(struct spec *s)
{
	free(s->options);
	free(s->longs);
}

static const struct command_option *spec_option(const struct spec *s, int got)
{
	if (got >= LONG_BASE)
		return &s->options[got - LONG_BASE];
	for (unsigned i = 0; i < s->count; i++)
		if (s->options[i].letter == got)
			return &s->options[i];
	return NULL;
}

/* So near to what was typed that it may have been meant: half of the letters are right. */
static bool is_slip(size_t typed, size_t distance)
{
	return 2 * distance <= typed;
}

static int unknown_option(const struct args *a, const struct spec *s, const char *text)
{
	struct str rest, word = str_cut(str_from(text + strspn(text, "-")), '=', &rest);
	size_t least = SIZE_MAX, at = 0;

	for (unsigned i = 0; i < s->count; i++) {
		size_t distance = str_distance(word, str_from(s->options[i].name));
		if (distance < least) {
			least = distance;
			at = i;
		}
	}
	if (!is_slip(word.len, least))
		return args_usage(a, "unknown option --" STR_FMT, STR_ARG(word));
	return args_usage(a, "unknown option --" STR_FMT "; the nearest is --%s", STR_ARG(word), s->options[at].name);
}

static int bad_option(const struct args *a, const struct spec *s, int got, const char *text)
{
	const struct command_option *o = optopt != 0 ? spec_option(s, optopt) : NULL;

	if (got == ':' && o != NULL)
		return args_usage(a, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
	if (o != NULL)
		return args_usage(a, "--%s takes no value", o->name);
	if (optopt != 0)
		return args_usage(a, "unknown option -%c", optopt);
	return unknown_option(a, s, text);
}

static bool is_choice(struct str choices, struct str word)
{
	while (choices.len > 0)
		if (str_equal(str_cut(choices, '|', &choices), word))
			return true;
	return false;
}

static void take_option(struct args *a, const struct command_option *o, const char *value)
{
	if (o->is_key)
		a->overrides[a->override_count++] = (struct config_override){o->name, value != NULL ? value : "true"};
	a->options[a->option_count++] = (struct given_option){o->name, value};
}

static int check_operands(const struct args *a)
{
	bool required, repeats = false;
	struct str name;
	unsigned i = 0;

	for (; command_operand_at(a->command, i, &name, &required, &repeats); i++) {
		if (required && i >= a->operand_count)
			return args_usage(a, STR_FMT " is missing", STR_ARG(name));
		if (i < a->operand_count && memchr(name.base, '|', name.len) != NULL &&
		    !is_choice(name, str_from(a->operands[i])))
			return args_usage(a, "\"%s\" is none of " STR_FMT, a->operands[i], STR_ARG(name));
	}
	if (a->operand_count > i && !repeats)
		return args_usage(a, "too many words: \"%s\"", a->operands[i]);
	return EXIT_DONE;
}

/* argv[0] is the last word of the command. */
static int parse(struct args *a, const struct spec *s, int argc, char **argv)
{
	int got;

	optind = 0; /* GNU: from the start again */
	opterr = 0;
	while ((got = getopt_long(argc, argv, s->letters, s->longs, NULL)) != -1) {
		if (got == '?' || got == ':')
			return bad_option(a, s, got, argv[optind - 1]);
		const struct command_option *o = spec_option(s, got);
		if (!o->is_key && o->choices != NULL && !is_choice(str_from(o->choices), str_from(optarg)))
			return args_usage(a, "--%s \"%s\" is none of %s", o->name, optarg, o->choices);
		take_option(a, o, optarg);
	}
	a->operands = argv + optind;
	a->operand_count = (unsigned)(argc - optind);
	return args_has(a, "help") ? EXIT_DONE : check_operands(a);
}

static int run(const struct command *c, int argc, char **argv)
{
	struct args a = {.command = c};
	struct spec s;

	spec_init(&s, c);
	a.options = mem_new((size_t)argc * sizeof(*a.options));
	a.overrides = mem_new((size_t)argc * sizeof(*a.overrides));
	int code = parse(&a, &s, argc, argv);
	if (code == EXIT_DONE && args_has(&a, "help"))
		help_command(c, stdout);
	else if (code == EXIT_DONE)
		code = c->run(&a);
	free(a.options);
	free(a.overrides);
	spec_fini(&s);
	return code;
}

/* How far the typed words are from a command; *ret_says is what to suggest then. */
static size_t distance_to(const struct command *c, const char *first, const char *second, char ret_says[static 64])
{
	struct str below, head = str_cut(str_from(c->words), ' ', &below);
	bool both = below.len > 0 && second[0] != '\0' && second[0] != '-';

	snprintf(ret_says, 64, "%.*s", both ? 63 : (int)head.len, c->words);
	return str_distance(str_from(first), head) + (both ? str_distance(str_from(second), below) : 0);
}

/* `mdn nods`, `mdn config`, `mdn config shwo`, `mdn config --help` */
static int no_command(char *const *words, unsigned count)
{
	const char *second = count > 1 ? words[1] : "";
	char says[64], nearest[64] = "";
	size_t least = SIZE_MAX;
	bool is_below = false;

	for (unsigned i = 0; i < command_count; i++) {
		size_t distance = distance_to(&commands[i], words[0], second, says);
		is_below |= command_is_below(&commands[i], words[0]);
		if (distance >= least)
			continue;
		least = distance;
		memcpy(nearest, says, sizeof(nearest));
	}
	if (is_below && (second[0] == '\0' || second[0] == '-')) {
		bool asked = strcmp(second, "--help") == 0 || strcmp(second, "-h") == 0;
		help_overview(words[0], asked ? stdout : stderr);
		return asked ? EXIT_DONE : EXIT_USAGE;
	}
	fprintf(stderr, "mdn: there is no command \"%s%s%s\"", words[0], is_below ? " " : "", is_below ? second : "");
	if (is_slip(strlen(words[0]) + (is_below ? strlen(second) : 0), least))
		fprintf(stderr, "; the nearest is `mdn %s`", nearest);
	fprintf(stderr, ". All of them: `mdn help`\n");
	return EXIT_USAGE;
}

int options_main(int argc, char **argv)
{
	static char help_word[] = "help", version_word[] = "version";
	unsigned used;

	if (argc < 2) {
		help_overview(NULL, stderr);
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		argv[1] = help_word;
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		argv[1] = version_word;
	const struct command *c = command_find(argv + 1, (unsigned)argc - 1, &used);
	int code = c != NULL ? run(c, argc - (int)used, argv + used) : no_command(argv + 1, (unsigned)argc - 1);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		perror("mdn: cannot write the output");
		return EXIT_FAILED;
	}
	return code;
}
