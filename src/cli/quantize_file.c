/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/quantize_file.h"

#include "cli/exit.h"
#include "engine/engine.h"
#include "engine/process.h"
#include "engine/process_sandbox.h"

#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE 15

static void on_progress(void *arg, int done, int total)
{
	printf("%d %d\n", done, total);
	fflush(stdout);
}

/* It reads a file of a stranger: that, its other parts, and the folder of the result are all it can open. */
static int lock_up(const char *in, const char *out, struct error *err)
{
	struct engine_options options = {.model_path = str_from(in)};
	char **files = engine_process_files(&options), missing[512], *folder = str_dup(str_from(out));
	struct sandbox sandbox = {0};
	for (char **file = files; *file && sandbox.read_count < SANDBOX_PATHS_MAX; file++)
		sandbox.reads[sandbox.read_count++] = *file;
	sandbox.folder = dirname(folder);
	int rc = sandbox_enter(&sandbox, missing, sizeof missing, err);
	engine_process_files_free(files);
	free(folder);
	return rc;
}

int quantize_file_main(int argc, char **argv)
{
	struct error err = {0};
	if (argc != 3) {
		fprintf(stderr, "mdn %s is called by mdn itself\n", QUANTIZE_FILE);
		return EXIT_USAGE;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == 1)
		return EXIT_FAILED; /* the parent ended before the line above */
	setpriority(PRIO_PROCESS, 0, NICE);
	if (lock_up(argv[0], argv[1], &err) ||
	    engine_quantize_file(argv[0], argv[1], argv[2], 0, on_progress, NULL, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}
