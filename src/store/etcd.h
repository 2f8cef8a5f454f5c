/* SPDX-License-Identifier: Apache-2.0 */
/* etcd.h - calls to an etcd v3 cluster over its JSON gateway, and what their bodies are made of. Not for other rooms.
 *
 * Blocking; one thread at a time for each `struct etcd`. A member that does not answer, or answers that it has no
 * leader, is followed by the next; so a call may be carried out twice, and callers send only what may be.
 * Format: etcd 3.4 api/v3 (rpc.proto) as grpc-gateway maps it: bytes are base64, 64-bit numbers are text.
 */
#ifndef MDN_STORE_ETCD_H
#define MDN_STORE_ETCD_H

#include "base/json.h"

#define ETCD_ENDPOINTS_MAX 16

struct etcd_options {
	const char *const *endpoints; /* http:// or https://HOST:PORT */
	size_t endpoint_count;
	struct str ca_file, cert_file, key_file; /* PEM; empty: the system's, none */
};

struct etcd;
int etcd_new(const struct etcd_options *options, struct etcd **ret_etcd, struct error *err); /* speaks to nobody yet */
void etcd_free(struct etcd *e);
/* POST `path`; each member gets 0.7 s, all together `within_us`. E_UNAVAILABLE with words: none of them did it, as far
 * as is known. E_PEER: refused. *ret_doc is the caller's. */
int etcd_call(struct etcd *e, const char *path, struct str body, int64_t within_us, yyjson_doc **ret_doc,
              struct error *err);

void etcd_append_bytes(struct buf *out, struct str bytes); /* as a JSON string */
/* A value of an answer: base64 appended to *out; a number that may be text, 0 when absent. */
int etcd_bytes(yyjson_val *o, const char *key, struct buf *out, struct error *err);
int64_t etcd_number(yyjson_val *o, const char *key);

#endif
