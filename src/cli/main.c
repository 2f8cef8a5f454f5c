/* SPDX-License-Identifier: Apache-2.0 */
/* The mdn program: everything is in the table of commands, but for the two that only mdn itself calls. */
#include "cli/options.h"
#include "cli/quantize_file.h"
#include "engine/process.h"

#include <string.h>

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], QUANTIZE_FILE) == 0)
		return quantize_file_main(argc - 2, argv + 2);
	int status = engine_process_hook(argc, argv);
	return status >= 0 ? status : options_main(argc, argv);
}
