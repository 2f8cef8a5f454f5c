/* SPDX-License-Identifier: Apache-2.0 */
#include "serve/console/session.h"

#include "base/clock.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/rng.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#define MAC_SIZE 32

static void use_secret(struct sessions *s)
{
	struct digest d = digest_of(s->secret, sizeof s->secret);
	char hex[9];
	hex_encode(d.bytes, 4, hex);
	snprintf(s->name, sizeof s->name, "mdn-console-%s", hex);
}

int sessions_end_all(struct sessions *s, struct error *err)
{
	unsigned char fresh[sizeof s->secret];
	rng_secret(fresh, sizeof fresh);
	int rc = file_write(s->secret_path, 0600, (struct str){(char *)fresh, sizeof fresh}, err);
	if (rc)
		return rc;
	memcpy(s->secret, fresh, sizeof fresh);
	memset(s->tickets, 0, sizeof s->tickets);
	use_secret(s);
	return 0;
}

int sessions_init(struct sessions *s, struct str secret_path, struct error *err)
{
	struct buf kept = {0};
	struct error ignored = {0};
	s->secret_path = str_dup(secret_path);
	int rc = file_read(s->secret_path, sizeof s->secret, &kept, &ignored);
	if (rc == 0 && kept.len == sizeof s->secret) {
		memcpy(s->secret, kept.base, kept.len);
		use_secret(s);
	} else { /* not there, or damaged: people sign in again */
		rc = sessions_end_all(s, err);
	}
	buf_fini(&kept);
	return rc;
}

void sessions_fini(struct sessions *s)
{
	free(s->secret_path);
	OPENSSL_cleanse(s, sizeof *s);
}

/* ---- tickets ------------------------------------------------------------------------------------- */

const char *sessions_ticket_new(struct sessions *s, int64_t now_us)
{
	struct ticket *t = &s->tickets[s->next++ % SESSION_TICKETS];
	uint8_t bits[24];
	rng_secret(bits, sizeof bits);
	base64url_encode(bits, sizeof bits, t->text);
	t->until_us = now_us + TICKET_LIFE_US;
	return t->text;
}

bool sessions_ticket_take(struct sessions *s, struct str text, int64_t now_us)
{
	bool taken = false;
	for (size_t i = 0; i < SESSION_TICKETS && text.len == TICKET_SIZE - 1; i++) {
		struct ticket *t = &s->tickets[i];
		if (t->until_us <= now_us || CRYPTO_memcmp(t->text, text.base, text.len) != 0)
			continue;
		*t = (struct ticket){0};
		taken = true;
	}
	return taken;
}

/* ---- cookies ------------------------------------------------------------------------------------- */

static void sign(const struct sessions *s, int64_t until_s, unsigned char ret_mac[static MAC_SIZE])
{
	char text[48];
	unsigned len = MAC_SIZE;
	int size = snprintf(text, sizeof text, "mdn console\n%" PRId64, until_s);
	if (!HMAC(EVP_sha256(), s->secret, sizeof s->secret, (unsigned char *)text, (size_t)size, ret_mac, &len))
		abort();
}

void sessions_cookie(const struct sessions *s, int64_t now_us, char ret_text[static COOKIE_SIZE])
{
	int64_t until_s = now_us / US_PER_S + SESSION_LIFE_S;
	unsigned char mac[MAC_SIZE];
	char hex[2 * MAC_SIZE + 1];
	sign(s, until_s, mac);
	hex_encode(mac, MAC_SIZE, hex);
	snprintf(ret_text, COOKIE_SIZE, "%" PRId64 ".%s", until_s, hex);
}

static int64_t cookie_left_s(const struct sessions *s, struct str value, int64_t now_us)
{
	struct str hex, until = str_cut(value, '.', &hex);
	unsigned char given[MAC_SIZE], right[MAC_SIZE];
	int64_t until_s, now_s = now_us / US_PER_S;
	if (str_to_i64(until, &until_s) || hex.len != 2 * MAC_SIZE || hex_decode(hex, given, MAC_SIZE))
		return 0;
	sign(s, until_s, right);
	if (CRYPTO_memcmp(given, right, MAC_SIZE) != 0 || until_s <= now_s || until_s > now_s + SESSION_LIFE_S)
		return 0;
	return until_s - now_s;
}

int64_t sessions_left_s(const struct sessions *s, struct str cookies, int64_t now_us)
{
	int64_t most = 0;
	while (cookies.len) {
		struct str value, rest, name = str_cut(str_trim(str_cut(cookies, ';', &rest)), '=', &value);
		if (str_equal(name, str_from(s->name))) {
			int64_t left = cookie_left_s(s, value, now_us);
			most = left > most ? left : most;
		}
		cookies = rest;
	}
	return most;
}
