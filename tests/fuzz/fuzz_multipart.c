/* SPDX-License-Identifier: Apache-2.0 */
/* The first line is the Content-Type, the rest the body, fed in pieces. Cut otherwise it must tell the same. */
#include "serve/gateway/multipart.h"

#include <stdlib.h>

static int on_part(void *arg, struct str name, struct str filename, struct error *err)
{
	(void)err;
	buf_append(arg, "[", 1);
	buf_append_str(arg, name);
	buf_append_str(arg, filename);
	return 0;
}

static int on_data(void *arg, struct str data, struct error *err)
{
	(void)err;
	buf_append_str(arg, data);
	return 0;
}

static int on_end(void *arg, struct error *err)
{
	(void)err;
	buf_append(arg, "]", 1);
	return 0;
}

static const struct multipart_events events = {on_part, on_data, on_end};

static int read_form(struct str type, struct str body, size_t step, struct buf *told)
{
	struct multipart m;
	struct error err;
	int rc = multipart_init(&m, type, &events, told, &err);

	for (size_t at = 0; rc == 0 && at < body.len; at += step)
		rc =
		    multipart_feed(&m, (struct str){body.base + at, body.len - at < step ? body.len - at : step}, &err);
	rc = rc ? rc : multipart_finish(&m, &err);
	multipart_fini(&m);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str body, type = str_cut((struct str){(const char *)data, size}, '\n', &body);
	struct buf whole = {0}, pieces = {0};
	int rc = read_form(type, body, body.len + 1, &whole);

	if (rc != read_form(type, body, 5, &pieces) || (rc == 0 && !str_equal(buf_str(&whole), buf_str(&pieces))))
		abort();
	buf_fini(&whole);
	buf_fini(&pieces);
	return 0;
}
