/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors: what is accepted has one text, and that text means the same. API keys ride along. */
#include "core/api_key.h"
#include "core/placement.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct selector s, again;
	struct buf once = {0}, twice = {0};
	struct error err = {0};
	char id[API_KEY_ID_SIZE];
	if (api_key_parse(text, id, &err) == 0 && api_key_matches(text, STR("")))
		abort();
	if (selector_parse(text, &s, &err) < 0)
		return 0;
	selector_format(&s, &once);
	if (selector_parse(buf_str(&once), &again, &err) < 0)
		abort();
	selector_format(&again, &twice);
	if (!str_equal(buf_str(&once), buf_str(&twice)))
		abort();
	selector_fini(&s);
	selector_fini(&again);
	buf_fini(&once);
	buf_fini(&twice);
	return 0;
}
