/* SPDX-License-Identifier: Apache-2.0 */
/* How: many error codes, few exit codes: a script wants to know whether to try again, to log in, or to give up. */
#include "cli/exit.h"

#include "base/error.h"

enum exit_code exit_code_of(int error_code)
{
	switch (error_code) {
	case 0:
		return EXIT_DONE;
	case E_AUTH:
	case E_FORBIDDEN:
		return EXIT_REFUSED;
	case E_NOTFOUND:
		return EXIT_NOTFOUND;
	case E_BUSY:
	case E_CONFLICT:
	case E_LIMIT:
		return EXIT_BUSY;
	case E_PEER:
	case E_UNAVAILABLE:
	case E_TIMEOUT:
		return EXIT_UNREACHABLE;
	case E_NOSPACE:
		return EXIT_NOSPACE;
	case E_CANCELED:
		return EXIT_INTERRUPTED;
	default:
		return EXIT_FAILED;
	}
}
