/* SPDX-License-Identifier: Apache-2.0 */
/* blob_answer.h - a blob as the body of an answer: sendfile where it is plain, decrypted piece by piece where not. */
#ifndef MDN_STORE_BLOB_ANSWER_H
#define MDN_STORE_BLOB_ANSWER_H

#include "net/http.h"
#include "store/blob.h"

/* Takes over f. 206 and Content-Range for a part, else 200, as http_respond_file_part. */
void blob_answer(struct http_exchange *x, struct blob_file *f, bool part, uint64_t from, uint64_t length);
/* With a status and a type of one's own, and no Content-Range. */
void blob_answer_as(struct http_exchange *x, struct blob_file *f, int status, const char *content_type, uint64_t from,
                    uint64_t length);

#endif
