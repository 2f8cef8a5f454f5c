/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - a small network on one loop: gateways with real servers, a scheduler that says what the test wants, peers
 * that misbehave on purpose, and a client. Everything speaks over 127.0.0.1. */
#ifndef MDN_TEST_GATEWAY_WORLD_H
#define MDN_TEST_GATEWAY_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"
#include "core/node_map.h"
#include "net/sse.h"
#include "serve/gateway/gateway.h"

struct world {
	struct loop *loop;
	struct http_client *client, *between; /* the test's own; the nodes' */
	struct loop_timer *watchdog, *pause;
};

struct place { /* one node */
	struct gateway *g;
	struct http_server *public_port, *node_port;
	char api[96], url[96];
};

struct reply {
	struct world *w;
	int status;
	struct buf body;
	bool done, broken, hold; /* hold: read nothing */
	struct error err;
	struct http_call *call;
	struct buf headers; /* "name: value\n" each */
	uint64_t bytes;
};

void world_init(struct world *w);
void world_fini(struct world *w);
void world_run(struct world *w);              /* until loop_stop, at most 20 s */
void world_wait(struct world *w, int64_t us); /* lets things happen */

struct gateway_options place_options(const char *id, const char *site);
void place_start(struct world *w, struct place *p, const struct gateway_options *options);
void place_stop(struct place *p);
void place_model(struct world *w, struct place *p, const char *name); /* added and ready */

/* A scheduler publishing whatever map it is given. */
struct scheduler_double {
	struct world *w;
	struct http_server *server;
	struct node_map *map;
	struct watcher {
		struct http_exchange *x;
	} watchers[8];
	size_t watcher_count;
	char url[96];
	const char *down; /* id of a node that it calls down, or NULL */
};
void scheduler_double_start(struct world *w, struct scheduler_double *s);
void scheduler_double_stop(struct scheduler_double *s);
void scheduler_double_report(struct scheduler_double *s, const char *id, const char *site, const char *url,
                             const char *api, const char *model, enum node_state state);
void scheduler_double_publish(struct scheduler_double *s);
void follow(struct place *p, struct scheduler_double *s); /* and waits for the map */

/* A peer that answers as the handler likes. */
struct peer_double {
	struct http_server *server;
	char url[96];
	unsigned requests;
	struct buf last_headers, last_body;
	char last_path[64];
	http_on_body *answer;
};
void peer_double_start(struct world *w, struct peer_double *p, http_on_body *answer);
void peer_double_stop(struct peer_double *p);

/* Extra headers as "name: value" strings, NULL ends. */
void reply_start(struct world *w, struct reply *r, const char *method, const char *base, const char *path,
                 const char *body, const char *const *headers);
void reply_wait(struct reply *r);
void reply_fini(struct reply *r);
void ask(struct world *w, struct reply *r, const char *method, const char *base, const char *path, const char *body);
void ask_with(struct world *w, struct reply *r, const char *base, const char *path, const char *body,
              const char *header);
bool reply_header(const struct reply *r, const char *name, char *to, size_t size);
/* The value at a path such as "choices.0.message.content"; NULL when absent. The document dies with reply_doc's free.
 */
yyjson_val *at(yyjson_doc *doc, const char *path);
yyjson_doc *reply_doc(const struct reply *r);
/* Payloads of the stream's data lines, one after the other: NULL at the end. */
const char *stream_next(const char *cursor, struct str *ret_data);
size_t stream_count(const struct reply *r, const char *needle);

#define assert_text(val, text) assert_string_equal(yyjson_get_str(val) ? yyjson_get_str(val) : "(none)", text)

#endif
