/* SPDX-License-Identifier: Apache-2.0 */
/* A trust policy; the keys it names are not looked for. */
#include "store/trust.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_here(void *arg, const char *nodes)
{
	return nodes[0] == 's';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct trust_policy *p;
	if (!trust_policy_parse("fuzz", (struct str){(const char *)data, size}, NULL, &p, NULL)) {
		trust_rule_for(p, STR("a/b:c"), is_here, NULL);
		trust_policy_free(p);
	}
	return 0;
}
