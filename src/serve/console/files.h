/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - the files of web/, built in: tools/embed writes the table when MDN is built. */
#ifndef MDN_SERVE_CONSOLE_FILES_H
#define MDN_SERVE_CONSOLE_FILES_H

#include <stddef.h>

struct console_file {
	const char *name, *type, *etag; /* etag: with its quotes */
	const unsigned char *data;
	size_t size;
};
extern const struct console_file console_files[]; /* a NULL name ends it */

#endif
