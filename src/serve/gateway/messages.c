/* SPDX-License-Identifier: Apache-2.0 */
/* How: fixed texts and escaped strings, appended. Thinking becomes reasoning_content, as templates know it. */
#include "serve/gateway/messages.h"

static void put(struct buf *out, const char *text)
{
	buf_append(out, text, strlen(text));
}

static void put_json(struct buf *out, const struct buf *text)
{
	buf_append_json(out, text->base ? buf_str(text) : STR(""));
}

void messages_line(struct buf *to, struct str text)
{
	if (to->len)
		buf_append(to, "\n", 1);
	buf_append_str(to, text);
}

static void open_message(struct messages *m, const char *role)
{
	buf_printf(m->out, "%c{\"role\":\"%s\",\"content\":", m->count++ ? ',' : '[', role);
}

static void flush_assistant(struct messages *m)
{
	if (!m->has_said && !m->thinking.len && !m->calls.len)
		return;
	open_message(m, "assistant");
	if (m->calls.len && !m->said.len)
		put(m->out, "null");
	else
		put_json(m->out, &m->said);
	if (m->thinking.len) {
		put(m->out, ",\"reasoning_content\":");
		put_json(m->out, &m->thinking);
	}
	if (m->calls.len) {
		put(m->out, ",\"tool_calls\":[");
		buf_append_str(m->out, buf_str(&m->calls));
		put(m->out, "]");
	}
	put(m->out, "}");
	buf_clear(&m->said);
	buf_clear(&m->thinking);
	buf_clear(&m->calls);
	m->has_said = false;
}

void messages_say(struct messages *m, const char *role)
{
	flush_assistant(m);
	open_message(m, role);
	put_json(m->out, &m->text);
	put(m->out, "}");
	buf_clear(&m->text);
}

void messages_assistant(struct messages *m)
{
	if (m->has_said || m->calls.len)
		flush_assistant(m);
	m->has_said = true;
}

void messages_call(struct messages *m, struct str id, struct str name, struct str arguments)
{
	put(&m->calls, m->calls.len ? ",{\"id\":" : "{\"id\":");
	buf_append_json(&m->calls, id);
	put(&m->calls, ",\"type\":\"function\",\"function\":{\"name\":");
	buf_append_json(&m->calls, name);
	put(&m->calls, ",\"arguments\":");
	buf_append_json(&m->calls, arguments);
	put(&m->calls, "}}");
}

void messages_tool(struct messages *m, struct str id, struct str name, struct str text)
{
	flush_assistant(m);
	open_message(m, "tool");
	buf_append_json(m->out, text.base ? text : STR(""));
	if (id.len) {
		put(m->out, ",\"tool_call_id\":");
		buf_append_json(m->out, id);
	}
	if (name.len) {
		put(m->out, ",\"name\":");
		buf_append_json(m->out, name);
	}
	put(m->out, "}");
}

void messages_end(struct messages *m)
{
	flush_assistant(m);
	put(m->out, m->count ? "]" : "[]");
}

void messages_fini(struct messages *m)
{
	buf_fini(&m->text);
	buf_fini(&m->said);
	buf_fini(&m->thinking);
	buf_fini(&m->calls);
}
