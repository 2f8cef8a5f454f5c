/* SPDX-License-Identifier: Apache-2.0 */
/* Hands on to the implementation. A compare-and-set is one transaction that reads and then writes. */
#include "store/state_private.h"

#define VALUE_MAX (1u << 20)
#define KEY_MAX 4096

void state_close(struct state *s)
{
	if (s)
		s->ops->close(s);
}

int state_get(struct state *s, const char *space, struct str key, struct buf *out, struct error *err)
{
	return s->ops->get(s, space, key, out, err);
}

int state_put(struct state *s, const char *space, struct str key, struct str value, struct error *err)
{
	if (value.len > VALUE_MAX || key.len > KEY_MAX || !key.len)
		return error_set(err, E_LIMIT,
		                 "the state takes keys of 1 to %d and values of up to %u bytes, not %zu and %zu",
		                 KEY_MAX, VALUE_MAX, key.len, value.len);
	return s->ops->put(s, space, key, value, err);
}

int state_begin(struct state *s, struct error *err)
{
	return s->ops->begin(s, err);
}

int state_commit(struct state *s, struct error *err)
{
	return s->ops->commit(s, err);
}

void state_undo(struct state *s)
{
	s->ops->undo(s);
}

static int put_if(struct state *s, const char *space, struct str key, struct str expected, struct str value,
                  struct error *err)
{
	struct buf now = {0};
	int rc = state_get(s, space, key, &now, err);
	bool absent = rc == E_NOTFOUND;
	if (!rc || absent)
		rc = (absent ? !expected.len : expected.len && str_equal(buf_str(&now), expected))
		         ? state_put(s, space, key, value, err)
		         : error_set(err, E_CONFLICT, STR_FMT " in %s was changed by somebody else meanwhile",
		                     STR_ARG(key), space);
	buf_fini(&now);
	return rc;
}

int state_put_if(struct state *s, const char *space, struct str key, struct str expected, struct str value,
                 struct error *err)
{
	int rc = state_begin(s, err);
	if (rc)
		return rc;
	rc = put_if(s, space, key, expected, value, err);
	if (!rc)
		return state_commit(s, err);
	state_undo(s);
	return rc;
}

int state_delete(struct state *s, const char *space, struct str key, struct error *err)
{
	return s->ops->delete (s, space, key, err);
}

struct copying {
	struct state *to, *from;
	const char *space, *last;
	struct error *err;
	int rc;
};

static void copy_value(void *arg, struct str key, struct str value)
{
	struct copying *c = arg;
	if (c->rc == 0)
		c->rc = state_put(c->to, c->space, key, value, c->err);
}

static void copy_space(void *arg, const char *space)
{
	struct copying *c = arg;
	c->space = space;
	if (c->rc < 0 || (c->rc = state_begin(c->to, c->err)) < 0)
		return;
	int rc = state_each(c->from, space, copy_value, c, c->err);
	c->rc = rc < 0 ? rc : c->rc;
	if (c->rc == 0)
		c->rc = state_commit(c->to, c->err);
	else
		state_undo(c->to);
}

static void copy_unless_last(void *arg, const char *space)
{
	if (strcmp(space, ((struct copying *)arg)->last) != 0)
		copy_space(arg, space);
}

int state_copy(struct state *to, struct state *from, const char *last, struct error *err)
{
	struct copying c = {.to = to, .from = from, .last = last, .err = err};
	int rc = from->ops->spaces(from, copy_unless_last, &c, err);
	if (rc == 0 && c.rc == 0)
		copy_space(&c, last);
	return rc < 0 ? rc : c.rc;
}

int state_each(struct state *s, const char *space, state_fn *fn, void *arg, struct error *err)
{
	return s->ops->each(s, space, fn, arg, err);
}
