/* SPDX-License-Identifier: Apache-2.0 */
/* client.h - what subcommands use to speak to a network: one blocking call at a time, as the operator.
 *
 * The operator's identity is a folder made by `mdn init` (cert.pem, key.pem, ca.pem, center.url, center.id):
 * --operator, else $MDN_OPERATOR, else ~/.mdn/operator. Errors carry the words of the other side. Main thread; Ctrl-C,
 * SIGTERM and SIGHUP end the call that runs and all after it (E_CANCELED).
 */
#ifndef MDN_CLI_CLIENT_H
#define MDN_CLI_CLIENT_H

#include "base/error.h"
#include "base/json.h"
#include "net/http.h"

struct client;

/* operator_dir NULL: the defaults above. */
int client_open(const char *operator_dir, struct client **ret_client, struct error *err);
/* Without an identity: for the public API, scheduler and repository ports. */
int client_open_plain(struct client **ret_client, struct error *err);
void client_close(struct client *c);
const char *client_center_url(const struct client *c);
void client_set_center(struct client *c, const char *url); /* when it moved to another port */
const char *client_operator_dir_default(char *buffer, size_t size);

struct client_call {
	const char *method;         /* NULL: GET */
	const char *url;            /* starts with '/': at the center */
	const char *node_id;        /* whom it must be, when it is not the center; NULL: the center, or plain HTTP */
	const char *content_type;   /* NULL: application/json when there is a body */
	const char *bearer, *range; /* NULL: none */
	struct str body;
	int fd; /* > 0: the body is fd's next `length` bytes */
	uint64_t length;
	void (*on_progress)(void *arg, uint64_t done); /* bytes sent or received so far */
	/* The answer piece by piece; returning false ends the call with E_CANCELED. NULL: collected for *ret_body. */
	bool (*on_data)(void *arg, int status, struct str data);
	void *arg;
	int64_t timeout_us; /* for the head; 0: 30 s */
	bool endless;       /* a stream that may be silent */
	size_t body_max;    /* 0: 64 MiB */
};

/* An error status of the other side becomes its code and words. Either out-parameter may be NULL. `location` and the
 * like: client_header after the call. */
int client_run(struct client *c, const struct client_call *call, int *ret_status, struct buf *ret_body,
               struct error *err);
/* Waits; E_CANCELED after Ctrl-C. With 0: only looks, for work that goes long without a call. */
int client_sleep(struct client *c, int64_t us, struct error *err);
bool client_header(const struct client *c, const char *name, struct str *ret_value); /* of the last answer */

/* GET or POST JSON at the center; the document is the caller's to free. ret_doc NULL: the answer is dropped. */
int client_json(struct client *c, const char *method, const char *path, struct str body, yyjson_doc **ret_doc,
                struct error *err);
#endif
