/* SPDX-License-Identifier: Apache-2.0 */
/* process.h - engines in processes of their own: what a program does for them in its main().
 *
 * The process of an engine is this same program, started again with the word below. So a program whose llama engines
 * are to be processes calls engine_process_hook first of all; where no one has called it, they are in process.
 */
#ifndef MDN_ENGINE_PROCESS_H
#define MDN_ENGINE_PROCESS_H

#include "engine/engine.h"

#define ENGINE_PROCESS "engine-process"

/* -1: this is an ordinary start, and engines may be processes from now on. Else this was an engine's process, which has
 * ended: the status to exit with. */
int engine_process_hook(int argc, char **argv);

/* ---- inside the room ---------------------------------------------------------------------------- */

bool engine_process_possible(void); /* the hook was called */
int engine_process_main(void);      /* the child: its socket is descriptor 0 */

/* The files an engine with these options opens to read: models, all parts of split ones. Heap, both the list and the
 * paths; NULL at the end. */
char **engine_process_files(const struct engine_options *options);
void engine_process_files_free(char **files);
/* The descriptor that a path of /proc/self/fd, or a link to one, means; -1: none. */
int engine_process_file_fd(const char *path);

#endif
