/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/quantize_file.h"

#include "cli/exit.h"
#include "engine/engine.h"

#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE 15

static void on_progress(void *arg, int done, int total)
{
	printf("%d %d\n", done, total);
	fflush(stdout);
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
	if (engine_quantize_file(argv[0], argv[1], argv[2], 0, on_progress, NULL, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return EXIT_FAILED;
	}
	return EXIT_DONE;
}
