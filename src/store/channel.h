/* SPDX-License-Identifier: Apache-2.0 */
/* channel.h - a signed word on which version a channel (a tag) names now, and until when that word is good.
 *
 * A signature alone says that a version was once good: it cannot tell an old version, put back by whoever holds the
 * repository, from the newest. A statement can, by a counter that only rises and by a date it ends (TUF's answers to
 * roll-back and freeze). It is an in-toto statement like a model signature, of its own kind, and covers the same files.
 * Format: docs/wire.md, "Channel statement". Pure; any thread.
 */
#ifndef MDN_STORE_CHANNEL_H
#define MDN_STORE_CHANNEL_H

#include "store/signature.h"

#define CHANNEL_PREDICATE "urn:mdn:channel:v1"

struct channel {
	char name[260]; /* "NAME:TAG" */
	struct digest manifest;
	uint64_t counter; /* at least 1 */
	int64_t issued_wall_us, expires_wall_us;
	struct signed_model files;
};

void channel_fini(struct channel *c);
/* About the version as it is; counter and times are set by the caller. */
void channel_of_version(const struct version *v, struct channel *ret_channel);
void channel_format(struct channel *c, struct buf *out);
int channel_parse(struct str payload, struct channel *ret_channel, struct error *err); /* E_NOTFOUND: another kind */

/* What a node remembers of a channel: the highest counter it believed, and what that named. */
struct channel_seen {
	uint64_t counter; /* 0: nothing seen */
	struct digest manifest;
};
/* E_FORBIDDEN in words: another channel or version, older than what was seen (replay), or out of date. */
int channel_check(const struct channel *c, const struct version *v, const struct channel_seen *seen,
                  int64_t now_wall_us, struct error *err);

#endif
