/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - a node's configuration: one YAML file checked against one table (config.def), each key also a flag.
 *
 * A config owns its strings. Order of precedence: flag, file, default. Unknown keys are refused with file, line and the
 * nearest known key. Immutable once loaded: a reload makes a new one and compares. Loading is libcyaml. Any thread.
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
#define CONFIG_FIELD_list(name) struct config_list name;
#define CONFIG_FIELD_bytes(name) uint64_t name;
#define CONFIG_FIELD_duration(name) int64_t name##_us;
#define CONFIG_FIELD_integer(name) int64_t name;
#define CONFIG_FIELD_flag(name) bool name;
#include "base/config.def"
#undef CONFIG
};

struct config_override { /* from --key value; a list's value is comma-separated */
	const char *key, *value;
};

/* path NULL: defaults and overrides only. */
int config_load(const char *path, const struct config_override *overrides, size_t override_count,
                struct config **ret_config, struct error *err);
void config_free(struct config *c);
void config_show(const struct config *c, FILE *out, bool json); /* remote_key and the like as "***" */
/* Words for one key, or all when key is NULL; E_NOTFOUND names the nearest. */
int config_explain(const char *key, FILE *out, struct error *err);
bool config_is_key(const char *key);
size_t config_key_count(void);
const char *config_key_name(size_t i); /* for flags and completion */
const char *config_key_help(size_t i);
/* Keys that differ and cannot be applied live, one call each; live ones are the caller's to apply. */
void config_compare(const struct config *before, const struct config *after,
                    void (*fn)(void *arg, const char *key, bool live), void *arg);

#endif
