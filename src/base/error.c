/* SPDX-License-Identifier: Apache-2.0 */
/* How: the table of error.h becomes three lookups; words are formatted into a scratch text first, so that the old
 * text of an error may be an argument of the new one. Control characters become spaces: words may quote a peer, and
 * end up on a terminal or in a log line. A text that is too long ends at a whole character.
 */
#include "base/error.h"

#include "base/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static void set_text(struct error *err, const char *text)
{
	size_t len = strlen(text);

	if (len >= sizeof(err->text)) {
		len = sizeof(err->text) - 1;
		len = utf8_complete_prefix((struct str){text, len});
	}
	memcpy(err->text, text, len);
	str_blank_controls(err->text, len);
	err->text[len] = '\0';
}

int error_set(struct error *err, int code, const char *format, ...)
{
	char text[2 * sizeof(err->text)];
	va_list args;

	if (err == NULL)
		return code;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	err->code = code;
	set_text(err, text);
	return code;
}

int error_prefix(struct error *err, const char *format, ...)
{
	char text[2 * sizeof(err->text)];
	va_list args;

	if (err == NULL)
		return E_INTERNAL; /* the code is lost with the words, but it stays a failure */
	va_start(args, format);
	int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (len > 0 && (size_t)len < sizeof(text)) {
		char last = text[len - 1];
		snprintf(text + len, sizeof(text) - (size_t)len, "%s%s",
		         last == ' '   ? ""
		         : last == ':' ? " "
		                       : ": ",
		         err->text);
	}
	set_text(err, text);
	return err->code;
}

int error_errno(struct error *err, int saved_errno, const char *format, ...)
{
	int code = saved_errno == ENOSPC || saved_errno == EDQUOT ? E_NOSPACE : E_IO;
	char text[2 * sizeof(err->text)], words[128];
	va_list args;

	if (err == NULL)
		return code;
	va_start(args, format);
	int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	/* The GNU strerror_r: thread safe, and may give a constant instead of filling the buffer. */
	if (len >= 0 && (size_t)len < sizeof(text))
		snprintf(text + len, sizeof(text) - (size_t)len, ": %s", strerror_r(saved_errno, words, sizeof(words)));
	err->code = code;
	set_text(err, text);
	return code;
}

int error_http_status(int code)
{
	switch (code) {
#define X(name, number, status, type, label) \
	case name: \
		return status;
		ERROR_TABLE(X)
#undef X
	}
	return 500;
}

const char *error_openai_type(int code)
{
	switch (code) {
#define X(name, number, status, type, label) \
	case name: \
		return type;
		ERROR_TABLE(X)
#undef X
	}
	return "server_error";
}

const char *error_label(int code)
{
	switch (code) {
#define X(name, number, status, type, label) \
	case name: \
		return label;
		ERROR_TABLE(X)
#undef X
	}
	return code == 0 ? "ok" : "internal";
}
