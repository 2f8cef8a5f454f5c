/* SPDX-License-Identifier: Apache-2.0 */
/* quantize_file.h - the process in which a repository quantizes: `mdn quantize-file IN OUT TYPE`.
 *
 * Prints "DONE TOTAL" (tensors) on stdout, words on stderr. Yields to everybody else on the machine, and ends when its
 * parent does, however that ends.
 */
#ifndef MDN_CLI_QUANTIZE_FILE_H
#define MDN_CLI_QUANTIZE_FILE_H

#define QUANTIZE_FILE "quantize-file"

int quantize_file_main(int argc, char **argv); /* without the program and the word */

#endif
