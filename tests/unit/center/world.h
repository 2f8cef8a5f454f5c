/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - a center on a thread of its own with real TLS on loopback, and blocking calls to it, for tests. */
#ifndef MDN_TESTS_WORLD_H
#define MDN_TESTS_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "net/http.h"
#include "serve/center/center.h"
#include "serve/member/member.h"

#include <pthread.h>
#include <semaphore.h>

struct world {
	char folder[64];                       /* made and removed by the world */
	char data[96], operators[96], url[64]; /* of the center */
	int port;
	int64_t cert_life_us;
	bool running;
	pthread_t thread;
	sem_t ready;
	struct loop *loop;
	struct member *member;
	struct center *center;
	struct http_server *server;
};

void world_init(struct world *w); /* a network nobody runs yet */
void world_new(struct world *w);  /* init and start */
void world_free(struct world *w);
int world_setup(void **state); /* of a group of tests: one world for all */
int world_teardown(void **state);
void world_start(struct world *w);
void world_stop(struct world *w);
int free_port(void);
void temporary_folder(char ret_folder[static 64]); /* the caller removes it */

/* One exchange on a loop of its own. `as`: folder with cert.pem, key.pem, ca.pem; NULL: no client certificate. The
 * status, or a negative error code when there was no answer; the body goes to *reply (cleared before). */
int ask(struct world *w, const char *as, const char *method, const char *path, const char *body, struct buf *reply);
struct tls_context *tls_of(const char *folder, enum tls_peer peer);
/* A string member of a JSON object, heap; NULL when absent. */
char *json_get(const struct buf *json, const char *key);
char *world_token(struct world *w, const char *options); /* heap */
/* Joins as a new node into folder/NAME; its data folder. */
void world_join(struct world *w, const char *name, const char *site, uint32_t roles, char ret_data[static 96]);

/* Runs the loop until the claim holds; fails the test after timeout_us. */
void run_until(struct loop *loop, bool (*claim)(void *arg), void *arg, int64_t timeout_us);
void run_for(struct loop *loop, int64_t us);
char *read_file(const char *folder, const char *name); /* heap */

#endif
