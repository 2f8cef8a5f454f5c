/* SPDX-License-Identifier: Apache-2.0 */
/* exit.h - what mdn's exit code says; the only table of them. Help and man page print it. */
#ifndef MDN_CLI_EXIT_H
#define MDN_CLI_EXIT_H

#define EXIT_TABLE(X) \
	X(EXIT_DONE, 0, "done") \
	X(EXIT_FAILED, 1, "failed; the words on stderr say why") \
	X(EXIT_USAGE, 2, "the command line or the configuration is wrong") \
	X(EXIT_UNREACHABLE, 3, "the other side cannot be reached or does not answer") \
	X(EXIT_REFUSED, 4, "not allowed: wrong or expired token, key or certificate") \
	X(EXIT_NOTFOUND, 5, "no such model, node, key or file") \
	X(EXIT_BUSY, 6, "not now: at a limit, or in conflict with what is going on") \
	X(EXIT_NOSPACE, 7, "the disk is full") \
	X(EXIT_INTERRUPTED, 130, "stopped by Ctrl-C")

enum exit_code {
#define X(name, number, words) name = (number),
	EXIT_TABLE(X)
#undef X
};

/* From a code of base/error.h; 0 is EXIT_DONE. */
enum exit_code exit_code_of(int error_code);

#endif
