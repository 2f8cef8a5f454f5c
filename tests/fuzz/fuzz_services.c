/* SPDX-License-Identifier: Apache-2.0 */
/* A file of service classes, and a request that is looked up in it. */
#include "serve/gateway/services.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool header(void *arg, const char *name, struct str *ret_value)
{
	(void)arg;
	*ret_value = str_from(name);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct service_query q = {.texts = {STR("t"), STR("a.example"), STR("curl/8"), STR("chat"), STR("m:v")},
	                          .header = header};
	struct service_rules rules;

	if (!services_parse("fuzz", (struct str){(const char *)data, size}, &rules, NULL)) {
		service_find(&rules, &q);
		service_rules_fini(&rules);
	}
	return 0;
}
