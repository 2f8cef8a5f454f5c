/* SPDX-License-Identifier: Apache-2.0 */
/* memory.h - how much memory this machine has, and how much of it can be had now. Bytes; 0: cannot be told. Any thread.
 *
 * Source: proc(5), /proc/meminfo, MemAvailable; sysconf(3).
 */
#ifndef MDN_BASE_MEMORY_H
#define MDN_BASE_MEMORY_H

#include <stdint.h>

uint64_t memory_of_machine(void);
uint64_t memory_available(void); /* without swapping, by the kernel's own estimate */

#endif
