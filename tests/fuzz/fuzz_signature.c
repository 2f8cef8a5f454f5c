/* SPDX-License-Identifier: Apache-2.0 */
/* A signature bundle from a repository, and both kinds of statements; the bytes are taken as each of the three. */
#include "store/channel.h"
#include "store/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_statement(struct str text)
{
	struct signed_model m;
	struct channel c;
	struct buf out = {0};
	if (!signed_model_parse(text, &m, NULL)) {
		signed_model_format(&m, &out);
		struct signed_model again;
		if (signed_model_parse(buf_str(&out), &again, NULL))
			__builtin_trap(); /* what we write, we read */
		signed_model_fini(&again);
		signed_model_fini(&m);
	}
	if (!channel_parse(text, &c, NULL))
		channel_fini(&c);
	buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str text = {(const char *)data, size};
	struct envelope e;
	if (!envelope_parse(text, &e, NULL)) {
		static const char root[] =
		    "-----BEGIN CERTIFICATE-----\nMIIBgjCCASmgAwIBAgIUA\n-----END CERTIFICATE-----\n";
		struct envelope_trust trust = {.roots_pem = str_from(root)};
		envelope_verify(&e, &trust, NULL, NULL);
		read_statement(buf_str(&e.payload));
		envelope_fini(&e);
	}
	read_statement(text);
	return 0;
}
