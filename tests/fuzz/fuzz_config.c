/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files: whatever loads is shown as a file that loads to the same. */
#include "base/config.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *show(const struct config *c, size_t *ret_len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, ret_len);

	config_show(c, out, false);
	fclose(out);
	return text;
}

static void on_difference(void *arg, const char *key, bool live)
{
	if (strcmp(key, "remote_key") != 0) /* shown as *** */
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *c = NULL, *again = NULL;
	struct error err = {0};
	size_t len;

	if (config_load_text("f", (struct str){(const char *)data, size}, NULL, 0, &c, &err) != 0) {
		if (c != NULL || err.text[0] == '\0' || strchr(err.text, '\n') != NULL)
			abort();
		return 0;
	}
	char *text = show(c, &len);
	if (config_load_text("again", (struct str){text, len}, NULL, 0, &again, &err) != 0)
		abort();
	config_compare(c, again, on_difference, NULL);
	free(text);
	config_free(again);
	config_free(c);
	return 0;
}
