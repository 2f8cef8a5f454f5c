/* SPDX-License-Identifier: Apache-2.0 */
/* admission.h - may one more request wait, and until when?
 *
 * The queue of an engine is bounded. Each class may fill it to a ceiling of its own, so that bulk work is refused first
 * and there is room for what matters more. Near its ceiling a tenant may hold TENANT_SHARE times what is still free
 * (dynamic thresholds, Choudhury and Hahne 1998): one that floods fills most of the queue, never all of it.
 *
 * Pure. Classes as in core/request_queue.h.
 */
#ifndef MDN_CORE_ADMISSION_H
#define MDN_CORE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

enum admission { ADMISSION_YES, ADMISSION_CLASS_FULL, ADMISSION_TENANT_FULL };

int32_t admission_ceiling(int32_t limit, int service_class); /* requests that may wait before this class is refused */
/* waiting: all that wait now; of_tenant: those of the same tenant. */
enum admission admission_check(int32_t limit, int service_class, int32_t waiting, int32_t of_tenant);
/* How many more would be let in if they came now, one after the other, and none left. */
int32_t admission_room(int32_t limit, int service_class, int32_t waiting, int32_t of_tenant);
/* False: however many of these are one tenant's, the answer is the same; no need to count. */
bool admission_counts_tenants(int32_t limit, int service_class, int32_t waiting);
/* When a request that came now must have begun; INT64_MAX: no limit. given_us: its own deadline, 0 none. limit_us: the
 * engine's, 0 none; bulk has none but its own, since waiting is what it is for. */
int64_t admission_deadline(int64_t now_us, int service_class, int64_t given_us, int64_t limit_us);

#endif
