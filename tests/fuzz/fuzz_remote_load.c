/* SPDX-License-Identifier: Apache-2.0 */
/* What a remote server tells of its load: metrics and the ORCA header. */
#include "engine/remote_load.h"

static void check(const struct remote_told *t)
{
	if (!(t->kv_usage >= 0 && t->kv_usage <= 1 && t->running >= 0 && t->waiting >= 0))
		__builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct remote_told told;

	remote_metrics_parse(text, STR("m"), &told);
	check(&told);
	remote_orca_parse(text, &told);
	check(&told);
	return 0;
}
