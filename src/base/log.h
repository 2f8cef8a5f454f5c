/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - lines to stderr: for people on a terminal, JSON otherwise. Any thread, one write a line.
 *
 * Never log prompts, answers, keys or tokens. `room` is the folder's name ("gateway").
 */
#ifndef MDN_BASE_LOG_H
#define MDN_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_setup(enum log_level least, bool json, const char *node); /* node may be NULL; copied */
void log_set_level(enum log_level least);
int log_level_parse(const char *text, enum log_level *ret_level); /* E_INVAL */
void log_line(enum log_level level, const char *room, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Every written line also goes to fn, from whatever thread logs, until log_tap(NULL, NULL); set while one thread runs.
 */
void log_tap(void (*fn)(void *arg, const char *line, size_t len), void *arg);
/* A ready JSON object (one line, no newline), such as an access record. */
void log_json(const char *json);

#define log_debug(room, ...) log_line(LOG_DEBUG, room, __VA_ARGS__)
#define log_info(room, ...) log_line(LOG_INFO, room, __VA_ARGS__)
#define log_warn(room, ...) log_line(LOG_WARN, room, __VA_ARGS__)
#define log_error(room, ...) log_line(LOG_ERROR, room, __VA_ARGS__)

#endif
