/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and prefixes, one a line: what is read prints and reads back the same; the map finds what was put in. */
#include "core/lpm.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(struct lpm *l, struct str line, uint32_t value)
{
	struct ip_prefix p, back;
	char address[IP_TEXT_SIZE], text[IP_TEXT_SIZE + 8];
	uint32_t found;
	uint8_t scope;
	if (ip_prefix_parse(line, &p) < 0)
		return;
	ip_format(&p.ip, address);
	snprintf(text, sizeof(text), "%s/%u", address, p.length);
	if (ip_prefix_parse(str_from(text), &back) < 0 || memcmp(&p, &back, sizeof(p)) != 0)
		abort();
	if (lpm_set(l, &p, value) < 0 || !lpm_find(l, &p.ip, &found, &scope) || scope > p.ip.bits)
		abort();
	/* A longer one may hold the first address, but then its line came before and is as long at least. */
	if (found != value && p.length == p.ip.bits)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lpm *l = lpm_new();
	struct str rest = {(const char *)data, size < 4096 ? size : 4096};
	for (uint32_t i = 0; rest.len > 0 && i < 64; i++)
		check_line(l, str_cut(rest, '\n', &rest), i);
	lpm_seal(l);
	lpm_free(l);
	return 0;
}
