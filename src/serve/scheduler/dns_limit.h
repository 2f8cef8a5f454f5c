/* SPDX-License-Identifier: Apache-2.0 */
/* dns_limit.h - response rate limiting: how many like replies a network gets per second, so that queries with a forged
 * sender cannot turn us against whoever really lives there.
 *
 * A bucket per (network of 24 or 56 bits, kind of reply), in a table of fixed size: a flood from everywhere makes it
 * forget, not grow. Of what is over the rate every second one is answered with TC, as a real client comes back over TCP
 * or with a cookie; the others are dropped. After BIND's RRL. One thread.
 */
#ifndef MDN_SERVE_DNS_LIMIT_H
#define MDN_SERVE_DNS_LIMIT_H

#include "core/lpm.h"

enum dns_limit_verdict { DNS_LIMIT_SEND, DNS_LIMIT_SLIP, DNS_LIMIT_DROP };

struct dns_limit;
struct dns_limit *dns_limit_new(void);
void dns_limit_free(struct dns_limit *l);
/* kind: a number that like replies have in common. rate: replies a second, > 0. */
enum dns_limit_verdict dns_limit_check(struct dns_limit *l, const struct ip *from, uint64_t kind, uint32_t rate,
                                       int64_t now_us);

#endif
