/* SPDX-License-Identifier: Apache-2.0 */
/* session.h - who may see the console: one-time tickets, and the cookies they are traded for.
 *
 * A ticket is 192 random bits in memory, good once and for TICKET_LIFE_US. A cookie is `UNTIL.HMAC`, UNTIL in seconds,
 * HMAC-SHA-256 with a secret that is kept in a file: so sessions outlive a restart, and nothing is kept of each. A new
 * secret ends them all. Loop thread; times are the wall clock's.
 */
#ifndef MDN_SERVE_CONSOLE_SESSION_H
#define MDN_SERVE_CONSOLE_SESSION_H

#include "base/error.h"
#include "base/str.h"

#define TICKET_LIFE_US (5 * 60 * INT64_C(1000000))
#define SESSION_LIFE_S (24 * 3600)
#define SESSION_TICKETS 16 /* the oldest goes */
#define TICKET_SIZE 33     /* base64url of 24 bytes, and NUL */
#define COOKIE_SIZE 96

struct sessions {
	char *secret_path;
	unsigned char secret[32];
	char name[24]; /* of the cookie: browsers share cookies among the ports of a host */
	struct ticket {
		char text[TICKET_SIZE];
		int64_t until_us;
	} tickets[SESSION_TICKETS];
	size_t next;
};

int sessions_init(struct sessions *s, struct str secret_path, struct error *err);
void sessions_fini(struct sessions *s);
int sessions_end_all(struct sessions *s, struct error *err);
/* A ticket, until it is taken or `now_us` + TICKET_LIFE_US. */
const char *sessions_ticket_new(struct sessions *s, int64_t now_us);
bool sessions_ticket_take(struct sessions *s, struct str text, int64_t now_us);
/* The value of a cookie that is good for SESSION_LIFE_S. */
void sessions_cookie(const struct sessions *s, int64_t now_us, char ret_text[static COOKIE_SIZE]);
/* What is left of the session that a Cookie header holds, in seconds; 0: none. */
int64_t sessions_left_s(const struct sessions *s, struct str cookies, int64_t now_us);

#endif
