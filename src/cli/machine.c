/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/machine.h"

#include "base/memory.h"

#include <stdio.h>
#include <unistd.h>

static bool is_word(struct str s, bool needs_colon)
{
	bool colon = false;
	for (size_t i = 0; i < s.len; i++) {
		char c = s.base[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!letter && c != '.' && c != '-' && c != '_' && c != '/' && c != ':')
			return false;
		colon = colon || (c == ':' && i > 0 && i + 1 < s.len);
	}
	return s.len > 0 && (colon || !needs_colon);
}

static int take_labels(const struct config *c, struct machine *m, struct error *err)
{
	if (c->labels.count > NODE_LABELS_MAX)
		return error_set(err, E_INVAL, "labels: at most %d", NODE_LABELS_MAX);
	for (unsigned i = 0; i < c->labels.count; i++) {
		struct str label = str_from(c->labels.items[i]);
		if (!is_word(label, true) || !str_copy(label, m->labels[m->label_count], NODE_TEXT_SIZE))
			return error_set(err, E_INVAL,
			                 "labels: `%.100s` is not KEY:VALUE of letters, digits, '.', '-', '_', '/'",
			                 c->labels.items[i]);
		m->label_count++;
	}
	return 0;
}

int machine_describe(const struct config *c, struct machine *ret_machine, struct error *err)
{
	struct machine m = {.memory_bytes = c->memory_max ? c->memory_max : memory_of_machine()};
	const char *accelerator = c->accelerator;
	int rc = take_labels(c, &m, err);
	if (rc)
		return rc;
	if (strcmp(accelerator, "auto") == 0)
		accelerator = access("/dev/nvidiactl", F_OK) == 0 ? "cuda" : "none";
	if (!is_word(str_from(accelerator), false) ||
	    !str_copy(str_from(accelerator), m.accelerator, sizeof m.accelerator))
		return error_set(err, E_INVAL, "accelerator: write cuda, none, auto or another short word");
	*ret_machine = m;
	return 0;
}

void machine_report(const struct machine *m, struct node_report *report)
{
	report->labels = mem_new((m->label_count + 1) * sizeof *report->labels);
	memcpy(report->labels, m->labels, m->label_count * sizeof *report->labels);
	report->label_count = m->label_count;
	report->memory_bytes = m->memory_bytes;
	memcpy(report->accelerator, m->accelerator, sizeof report->accelerator);
}
