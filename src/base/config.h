/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - a node's configuration: one YAML file checked against one table (config.def), each key also a flag.
 *
 * A config owns its strings. Order of precedence: flag, file, default. Unknown keys are refused with file, line and the
 * nearest known key. Immutable once loaded: a reload makes a new one and compares. Loading is libcyaml. Any thread.
 * Texts are never NULL; `name` is the host name when nothing sets it.
 */
#ifndef MDN_BASE_CONFIG_H
#define MDN_BASE_CONFIG_H

#include "base/error.h"
#include "base/str.h"

#include <stdio.h>

struct config_list {
	char **items;
	unsigned count;
};

struct config {
#define CONFIG(kind, name, fallback, reload, help) CONFIG_FIELD_##kind(name)
#define CONFIG_FIELD_text(name) char *name;
#define CONFIG_FIELD_secret(name) char *name;
#define CONFIG_FIELD_list(name) struct config_list name;
#define CONFIG_FIELD_bytes(name) uint64_t name;
#define CONFIG_FIELD_duration(name) int64_t name##_us;
#define CONFIG_FIELD_integer(name) int64_t name;
#define CONFIG_FIELD_flag(name) bool name;
#include "base/config.def"
#undef CONFIG
};

struct config_override { /* from --key value; `-` in a key means `_`; a list's value is comma-separated */
	const char *key, *value;
};

/* path NULL: defaults and overrides only. */
int config_load(const char *path, const struct config_override *overrides, size_t override_count,
                struct config **ret_config, struct error *err);
/* The same from memory; `name` stands for the file in error words. */
int config_load_text(const char *name, struct str text, const struct config_override *overrides, size_t override_count,
                     struct config **ret_config, struct error *err);
void config_free(struct config *c);
void config_show(const struct config *c, FILE *out, bool json); /* YAML that loads again; secrets as "***" */
/* Words for one key, or all when key is NULL; E_NOTFOUND names the nearest. */
int config_explain(const char *key, FILE *out, struct error *err);
bool config_is_key(const char *key);
size_t config_key_count(void);
const char *config_key_name(size_t i); /* for flags and completion */
const char *config_key_help(size_t i);
const char *config_key_kind(size_t i);     /* "text", "duration", ... */
const char *config_key_fallback(size_t i); /* as it would stand in the file */
bool config_key_is_live(size_t i);
/* Which values of its kind it takes ("1M to 16M"; "llama, remote, synthetic"); NULL: all. */
const char *config_key_rule(size_t i);
/* Every key that differs, one call each; the live ones are the caller's to apply, the others need a restart. */
void config_compare(const struct config *before, const struct config *after,
                    void (*fn)(void *arg, const char *key, bool live), void *arg);

#endif
