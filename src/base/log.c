/* SPDX-License-Identifier: Apache-2.0 */
/* How: a line is put together in a buffer of its own and leaves in one writev(2), so lines of threads and processes
 * that share the descriptor do not mix. The settings are written by log_setup before there are threads; only the
 * level may change later. A message that is too long is cut; a line that cannot be written is dropped, because
 * nobody could be told.
 */
#include "base/log.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/str.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define MESSAGE_MAX 4096
#define WRITE_WAIT_MS 1000

static atomic_int least_level = LOG_INFO;
static bool as_json, in_colour;
static char node_name[128];
static void (*tap_fn)(void *arg, const char *line, size_t len);
static void *tap_arg;

static const struct {
	const char *name, *padded, *colour;
} levels[] = {{"debug", "debug", "\033[2m"},
              {"info", "info ", ""},
              {"warn", "warn ", "\033[33m"},
              {"error", "error", "\033[31m"}};

void log_setup(enum log_level least, bool json, const char *node)
{
	as_json = json;
	in_colour = !json && isatty(STDERR_FILENO) == 1 && getenv("NO_COLOR") == NULL;
	snprintf(node_name, sizeof(node_name), "%s", node != NULL ? node : "");
	log_set_level(least);
}

void log_set_level(enum log_level least)
{
	atomic_store_explicit(&least_level, (int)least, memory_order_relaxed);
}

void log_tap(void (*fn)(void *arg, const char *line, size_t len), void *arg)
{
	tap_fn = fn;
	tap_arg = arg;
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
	for (unsigned i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(text, levels[i].name) == 0) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return E_INVAL;
}

/* One write when the kernel takes it whole, which it does but for full pipes. */
static void write_line(const char *text, size_t len)
{
	struct iovec parts[2] = {{(void *)(uintptr_t)text, len}, {(void *)(uintptr_t) "\n", 1}};
	int first = 0;

	if (tap_fn)
		tap_fn(tap_arg, text, len);
	while (first < 2) {
		ssize_t done = writev(STDERR_FILENO, parts + first, 2 - first);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
			if (poll(&p, 1, WRITE_WAIT_MS) > 0)
				continue;
		}
		if (done < 0)
			return;
		for (; first < 2 && (size_t)done >= parts[first].iov_len; first++)
			done -= (ssize_t)parts[first].iov_len;
		if (first < 2) {
			parts[first].iov_base = (char *)parts[first].iov_base + done;
			parts[first].iov_len -= (size_t)done;
		}
	}
}

static void format_json(struct buf *line, enum log_level level, const char *room, struct str message)
{
	char now[25];

	clock_format(clock_wall_us(), now);
	buf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"room\":", now, levels[level].name);
	buf_append_json(line, str_from(room));
	if (node_name[0] != '\0') {
		buf_append_str(line, STR(",\"node\":"));
		buf_append_json(line, str_from(node_name));
	}
	buf_append_str(line, STR(",\"message\":"));
	buf_append_json(line, message);
	buf_append_str(line, STR("}"));
}

static void format_text(struct buf *line, enum log_level level, const char *room, struct str message)
{
	char now[25];

	clock_format(clock_wall_us(), now);
	buf_printf(line, "%.12sZ %s%s%s %-10s ", now + 11, in_colour ? levels[level].colour : "", levels[level].padded,
	           in_colour ? "\033[0m" : "", room);
	if (node_name[0] != '\0')
		buf_printf(line, "%s: ", node_name);
	size_t from = line->len;
	buf_append_str(line, message);
	/* A message may quote a peer; it must not move the cursor or begin a line of its own. */
	str_blank_controls(line->base + from, line->len - from);
}

void log_line(enum log_level level, const char *room, const char *format, ...)
{
	int saved_errno = errno;
	char message[MESSAGE_MAX];
	struct buf line = {0};
	va_list args;

	if ((int)level < atomic_load_explicit(&least_level, memory_order_relaxed))
		return;
	va_start(args, format);
	int len = vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	struct str text = {message, len < 0 ? 0 : (size_t)len};
	if (text.len >= sizeof(message))
		text.len = utf8_complete_prefix((struct str){message, sizeof(message) - 1});
	(as_json ? format_json : format_text)(&line, level, room, text);
	write_line(line.base, line.len);
	buf_fini(&line);
	errno = saved_errno;
}

void log_json(const char *json)
{
	write_line(json, strlen(json));
}
