/* SPDX-License-Identifier: Apache-2.0 */
/* A node's report: refused with words, or taken and told again the same. */
#include "core/report.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct node_report r, back;
	struct error err = {0};
	struct buf one = {0}, two = {0};
	if (node_report_parse((struct str){(const char *)data, size}, &r, &err) < 0) {
		if (!err.text[0])
			abort();
		return 0;
	}
	node_report_format(&r, &one);
	if (node_report_parse(buf_str(&one), &back, &err) < 0)
		abort();
	node_report_format(&back, &two);
	if (!str_equal(buf_str(&one), buf_str(&two)))
		abort();
	node_report_fini(&r);
	node_report_fini(&back);
	buf_fini(&one);
	buf_fini(&two);
	return 0;
}
