/* SPDX-License-Identifier: Apache-2.0 */
/* admission.c - see the header. */
#include "core/admission.h"

#include "core/request_queue.h"

enum { TENANT_SHARE = 4 };

static const int32_t ceiling_percent[QUEUE_CLASSES] = {100, 95, 90, 50};

int32_t admission_ceiling(int32_t limit, int service_class)
{
	int32_t ceiling = (int32_t)((int64_t)limit * ceiling_percent[service_class] / 100);

	return ceiling > 0 ? ceiling : 1;
}

bool admission_counts_tenants(int32_t limit, int service_class, int32_t waiting)
{
	return waiting >= TENANT_SHARE * (admission_ceiling(limit, service_class) - waiting);
}

enum admission admission_check(int32_t limit, int service_class, int32_t waiting, int32_t of_tenant)
{
	int32_t room = admission_ceiling(limit, service_class) - waiting;

	if (room <= 0)
		return ADMISSION_CLASS_FULL;
	return of_tenant >= TENANT_SHARE * room ? ADMISSION_TENANT_FULL : ADMISSION_YES;
}

/* The next is let in while of_tenant + k < TENANT_SHARE x (room - k), k having come before it. */
int32_t admission_room(int32_t limit, int service_class, int32_t waiting, int32_t of_tenant)
{
	int32_t room = admission_ceiling(limit, service_class) - waiting;
	int32_t most = (TENANT_SHARE * room - of_tenant + TENANT_SHARE) / (TENANT_SHARE + 1);

	most = most < room ? most : room;
	return most > 0 ? most : 0;
}

int64_t admission_deadline(int64_t now_us, int service_class, int64_t given_us, int64_t limit_us)
{
	if (given_us > 0)
		return given_us;
	if (limit_us <= 0 || service_class == QUEUE_CLASSES - 1 || now_us > INT64_MAX - limit_us)
		return INT64_MAX;
	return now_us + limit_us;
}
