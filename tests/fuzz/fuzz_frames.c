/* SPDX-License-Identifier: Apache-2.0 */
/* A stream in frames, as another node may send it, and what a request says of where to begin. */
#include "serve/gateway/resume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str rest = {(const char *)data, size};
	struct resume *resume = resume_new(STR("sha256:ab")), *begun;
	struct error err;
	struct frame f;
	yyjson_doc *doc;
	size_t used;

	while (frame_take(rest, &f, &used, &err) == 1 && resume_note_frame(resume, &f, &err) == 0)
		rest = (struct str){rest.base + used, rest.len - used};
	if (!resume->lost && resume->count > resume->room)
		__builtin_trap();
	resume_free(resume);
	if (json_parse((struct str){(const char *)data, size}, &doc, &err) == 0) {
		if (resume_read_body(yyjson_doc_get_root(doc), &begun, &err) == 0)
			resume_free(begun);
		yyjson_doc_free(doc);
	}
	return 0;
}
