/* SPDX-License-Identifier: Apache-2.0 */
/* messages.h - writes a conversation down as OpenAI's "messages", for dialects whose own look otherwise.
 *
 * What the assistant said may come in pieces (thinking, text, calls) and becomes one message when somebody else, or it
 * anew, speaks, or at the end. The writer appends to `out`, which the caller owns. Pure; any thread.
 */
#ifndef MDN_GATEWAY_MESSAGES_H
#define MDN_GATEWAY_MESSAGES_H

#include "base/str.h"

struct messages {
	struct buf *out;
	size_t count;
	struct buf text;                  /* of the message being gathered, whoever says it */
	struct buf said, thinking, calls; /* the assistant's, not written yet */
	bool has_said;
};

/* Lines gathered in `text` until somebody is said to have said them. */
void messages_line(struct buf *to, struct str text);
void messages_say(struct messages *m, const char *role); /* user or system */
/* The assistant begins to speak: `said` is filled next, `thinking` may be already. */
void messages_assistant(struct messages *m);
void messages_call(struct messages *m, struct str id, struct str name, struct str arguments);
void messages_tool(struct messages *m, struct str id, struct str name, struct str text); /* what a tool answered */
void messages_end(struct messages *m);
void messages_fini(struct messages *m);

#endif
