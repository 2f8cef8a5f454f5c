/* SPDX-License-Identifier: Apache-2.0 */
/* Three libuv handles: the process and two pipes. on_exit waits for all three, since what the child wrote last may come
 * after its end; the memory goes when all are closed and the owner has let go. */
#include "net/child.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uv.h>

#define READ_SIZE 4096

struct child {
	uv_process_t process;
	uv_pipe_t out, err;
	int open; /* handles not closed yet */
	bool freed, running, told;
	int64_t status;
	int signal;
	void (*on_line)(void *arg, struct str line);
	void (*on_error_line)(void *arg, struct str line);
	void (*on_exit)(void *arg, int64_t status, int signal, struct str errors);
	void *arg;
	struct child_line {
		char text[CHILD_LINE_MAX];
		size_t len;
	} line, error_line;
	char errors[2 * CHILD_ERRORS_MAX];
	size_t errors_len;
	char piece[READ_SIZE];
};

static struct str last_words(struct child *c)
{
	size_t from = c->errors_len > CHILD_ERRORS_MAX ? c->errors_len - CHILD_ERRORS_MAX : 0;
	while (c->errors_len > from && (c->errors[c->errors_len - 1] == '\n' || c->errors[c->errors_len - 1] == ' '))
		c->errors_len--;
	str_blank_controls(c->errors + from, c->errors_len - from);
	return (struct str){c->errors + from, c->errors_len - from};
}

static void on_closed(uv_handle_t *handle)
{
	struct child *c = handle->data;
	if (--c->open)
		return;
	if (!c->freed && !c->told) {
		c->told = true;
		c->on_exit(c->arg, c->status, c->signal, last_words(c)); /* may free */
		return;
	}
	if (c->freed)
		free(c);
}

static void close_one(uv_handle_t *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, on_closed);
}

static void on_exited(uv_process_t *process, int64_t status, int signum)
{
	struct child *c = process->data;
	c->running = false;
	c->status = status;
	c->signal = signum;
	close_one((uv_handle_t *)process);
}

static void on_alloc(uv_handle_t *handle, size_t wanted, uv_buf_t *buf)
{
	struct child *c = handle->data;
	*buf = uv_buf_init(c->piece, sizeof c->piece);
}

static void add_line_bytes(struct child *c, struct child_line *line, void (*on_line)(void *arg, struct str line),
                           const char *base, size_t len)
{
	for (size_t i = 0; i < len && !c->freed; i++) {
		if (base[i] != '\n') {
			if (line->len < sizeof line->text)
				line->text[line->len++] = base[i];
			continue;
		}
		if (on_line)
			on_line(c->arg, (struct str){line->text, line->len});
		line->len = 0;
	}
}

static void add_errors(struct child *c, const char *base, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (c->errors_len == sizeof c->errors) {
			memmove(c->errors, c->errors + CHILD_ERRORS_MAX, CHILD_ERRORS_MAX);
			c->errors_len = CHILD_ERRORS_MAX;
		}
		c->errors[c->errors_len++] = base[i];
	}
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
	struct child *c = stream->data;
	if (got < 0) {
		close_one((uv_handle_t *)stream);
	} else if ((uv_stream_t *)&c->out == stream) {
		add_line_bytes(c, &c->line, c->on_line, buf->base, (size_t)got);
	} else {
		add_errors(c, buf->base, (size_t)got);
		add_line_bytes(c, &c->error_line, c->on_error_line, buf->base, (size_t)got);
	}
}

static void close_all(struct child *c)
{
	close_one((uv_handle_t *)&c->out);
	close_one((uv_handle_t *)&c->err);
	close_one((uv_handle_t *)&c->process);
}

/* 0 to 2, and what is kept where it is; ret_count counts the gaps, too. */
static uv_stdio_container_t *descriptors(struct child *c, const struct child_options *o, int *ret_count)
{
	int most = 2;
	for (size_t i = 0; i < o->kept_count; i++)
		if (o->kept[i] > most && o->kept[i] < CHILD_KEPT_MAX)
			most = o->kept[i];
	uv_stdio_container_t *all = mem_new(((size_t)most + 1) * sizeof *all);
	for (int i = 0; i <= most; i++)
		all[i].flags = UV_IGNORE;
	for (size_t i = 0; i < o->kept_count; i++)
		if (o->kept[i] > 2 && o->kept[i] < CHILD_KEPT_MAX)
			all[o->kept[i]] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = o->kept[i]};
	if (o->has_stdin)
		all[0] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = o->stdin_fd};
	all[1] =
	    (uv_stdio_container_t){.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->out};
	all[2] =
	    (uv_stdio_container_t){.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->err};
	*ret_count = most + 1;
	return all;
}

/* Linux weighs sessions against each other (autogroups) and nice only within one. The child leads a session of its own,
 * so without this a niced node's children would run as if nothing had been said. */
static void keep_nice(int pid)
{
	int nice = getpriority(PRIO_PROCESS, 0);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/autogroup", pid);
	FILE *f = nice ? fopen(path, "r+e") : NULL;
	if (f) {
		fprintf(f, "%d", nice);
		fclose(f);
	}
}

int child_start(struct loop *loop, const struct child_options *options, struct child **ret_child, struct error *err)
{
	uv_loop_t *uv = loop_uv(loop);
	struct child *c = NEW(struct child);
	c->on_line = options->on_line;
	c->on_error_line = options->on_error_line;
	c->on_exit = options->on_exit;
	c->arg = options->arg;
	uv_pipe_init(uv, &c->out, 0);
	uv_pipe_init(uv, &c->err, 0);
	c->open = 3; /* uv_spawn makes the third, whether it works or not */
	c->process.data = c->out.data = c->err.data = c;
	int count;
	uv_stdio_container_t *stdio = descriptors(c, options, &count);
	uv_process_options_t o = {.exit_cb = on_exited,
	                          .file = options->file,
	                          .args = options->argv,
	                          .env = options->env,
	                          .flags = UV_PROCESS_DETACHED,
	                          .stdio_count = count,
	                          .stdio = stdio};
	int failed = uv_spawn(uv, &c->process, &o);
	free(stdio);
	if (failed) {
		c->freed = true;
		close_all(c);
		return error_set(err, E_IO, "cannot start %s: %s", options->file, uv_strerror(failed));
	}
	c->running = true;
	keep_nice(c->process.pid);
	uv_read_start((uv_stream_t *)&c->out, on_alloc, on_read);
	uv_read_start((uv_stream_t *)&c->err, on_alloc, on_read);
	*ret_child = c;
	return 0;
}

void child_kill(struct child *c)
{
	if (c->running)
		uv_process_kill(&c->process, SIGKILL);
}

int child_pid(const struct child *c)
{
	return c->running ? c->process.pid : 0;
}

void child_free(struct child *c)
{
	if (!c || c->freed)
		return;
	c->freed = true;
	child_kill(c);
	if (!c->open) {
		free(c);
		return;
	}
	/* The process handle is closed when its end is known: a zombie must not stay. */
	close_one((uv_handle_t *)&c->out);
	close_one((uv_handle_t *)&c->err);
}
