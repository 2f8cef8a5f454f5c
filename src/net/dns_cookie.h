/* SPDX-License-Identifier: Apache-2.0 */
/* dns_cookie.h - server cookies of RFC 9018: made from a secret, the client's cookie, its address and the time, so that
 * nothing is stored, and servers that share the secret take each other's.
 *
 *     version 1 | 3 bytes 0 | seconds since 1970 | SipHash-2-4(secret, client cookie | the 8 bytes before | address)
 *
 * No I/O, no clock; one owner, any thread.
 */
#ifndef MDN_NET_DNS_COOKIE_H
#define MDN_NET_DNS_COOKIE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_COOKIE_SECRET 16
#define DNS_COOKIE_CLIENT 8
#define DNS_COOKIE_SERVER 16
#define DNS_COOKIE_AGE_S 3600  /* taken so long */
#define DNS_COOKIE_AHEAD_S 300 /* another server's clock may be ahead of ours */
#define DNS_COOKIE_RENEW_S 1800

struct dns_cookies; /* a hash at work; not for two threads at once */
struct dns_cookies *dns_cookies_new(void);
void dns_cookies_free(struct dns_cookies *c);
/* address: 4 or 16 bytes. */
void dns_cookie_make(struct dns_cookies *c, const uint8_t secret[static DNS_COOKIE_SECRET],
                     const uint8_t client[static DNS_COOKIE_CLIENT], const uint8_t *address, size_t address_len,
                     uint32_t now_s, uint8_t ret_cookie[static DNS_COOKIE_SERVER]);
/* Whether the cookie is one made by this secret for this client and not too old. */
bool dns_cookie_check(struct dns_cookies *c, const uint8_t secret[static DNS_COOKIE_SECRET],
                      const uint8_t client[static DNS_COOKIE_CLIENT], const uint8_t *address, size_t address_len,
                      uint32_t now_s, const uint8_t cookie[static DNS_COOKIE_SERVER]);
uint32_t dns_cookie_time(const uint8_t cookie[static DNS_COOKIE_SERVER]);

#endif
