/* SPDX-License-Identifier: Apache-2.0 */
/* error.h - one table of error codes; how a failure is told upwards.
 *
 * Functions that can fail return 0 or a negative code from this table and write the words once,
 * where they are known, into the caller's `struct error` (NULL is fine: the words are dropped).
 * A function returns or logs, never both. Any thread; no allocation.
 */
#ifndef MDN_BASE_ERROR_H
#define MDN_BASE_ERROR_H

/* code, number, HTTP status, OpenAI error type, metric label */
#define ERROR_TABLE(X) \
	X(E_INVAL, 1, 400, "invalid_request_error", "invalid") \
	X(E_AUTH, 2, 401, "authentication_error", "auth") \
	X(E_FORBIDDEN, 3, 403, "permission_error", "forbidden") \
	X(E_NOTFOUND, 4, 404, "not_found_error", "not_found") \
	X(E_METHOD, 5, 405, "invalid_request_error", "method") \
	X(E_CONFLICT, 6, 409, "conflict_error", "conflict") \
	X(E_LIMIT, 7, 413, "invalid_request_error", "limit") \
	X(E_RANGE, 8, 416, "invalid_request_error", "range") \
	X(E_UNSUPPORTED, 9, 422, "invalid_request_error", "unsupported") \
	X(E_BUSY, 10, 429, "rate_limit_error", "busy") \
	X(E_CANCELED, 11, 499, "canceled", "canceled") \
	X(E_INTERNAL, 12, 500, "server_error", "internal") \
	X(E_IO, 13, 500, "server_error", "io") \
	X(E_CORRUPT, 14, 500, "server_error", "corrupt") \
	X(E_PEER, 15, 502, "server_error", "peer") \
	X(E_UNAVAILABLE, 16, 503, "overloaded_error", "unavailable") \
	X(E_TIMEOUT, 17, 504, "server_error", "timeout") \
	X(E_NOSPACE, 18, 507, "server_error", "no_space") \
	X(E_LOOP, 19, 508, "server_error", "loop")

enum error_code {
#define X(name, number, status, type, label) name = -(number),
	ERROR_TABLE(X)
#undef X
};

struct error {
	int code;       /* 0: nothing happened */
	char text[504]; /* one sentence, no newline, says what to do next where it can */
};

/* Writes the words and returns `code`, so that `return error_set(err, E_INVAL, ...)` reads well. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Puts words before what is already there, with ": " between unless the words end so; returns err->code (E_INTERNAL
 * when err is NULL). */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Same for a failed system call: adds strerror(saved_errno); ENOSPC and EDQUOT become E_NOSPACE. */
int error_errno(struct error *err, int saved_errno, const char *format, ...) __attribute__((format(printf, 3, 4)));

int error_http_status(int code);         /* 500 for unknown codes */
const char *error_openai_type(int code); /* "server_error" for unknown codes */
const char *error_label(int code);       /* metric label; "ok" for 0 */

#endif
