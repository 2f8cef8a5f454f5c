/* SPDX-License-Identifier: Apache-2.0 */
/* The mdn program: everything is in the table of commands. */
#include "cli/options.h"

int main(int argc, char **argv)
{
	return options_main(argc, argv);
}
