/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_node.c - what moves blobs between nodes, alone: a store with a peer over plain HTTP, on one loop.
 *
 *   transfer_node put STORE FILE             takes the file in; prints DIGEST SIZE LIST-DIGEST
 *   transfer_node list STORE FILE            the same, but only the list is kept
 *   transfer_node send STORE PORT            serves it
 *   transfer_node receive STORE URL DIGEST SIZE LIST-DIGEST
 *                                            fetches it from there in verified chunks; prints seconds when it is whole
 */
#include "base/clock.h"
#include "base/file.h"
#include "serve/peer/peer.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STEP (1u << 20)
#define PIECE (UINT64_C(4) << 20)
#define PARALLEL 16 /* as configured by default */

static struct {
	struct loop *loop;
	struct blob_store *store;
	struct peer *peer;
	int64_t started_us;
} bench;

static void check(int rc, const struct error *err)
{
	if (rc < 0) {
		fprintf(stderr, "transfer_node: %s\n", err->text);
		exit(1);
	}
}

static int open_file(const char *path, uint64_t *ret_size)
{
	struct error err = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (size < 0)
		check(error_set(&err, E_NOTFOUND, "cannot open %s", path), &err);
	*ret_size = (uint64_t)size;
	return fd;
}

static int say_names(const struct chunk_list *list)
{
	struct error err = {0};
	struct buf text = {0};
	struct digest d;
	char name[DIGEST_TEXT_SIZE], list_name[DIGEST_TEXT_SIZE];
	chunk_list_format(list, &text);
	check(blob_put(bench.store, buf_str(&text), &d, &err), &err);
	digest_format(&list->file, name);
	digest_format(&d, list_name);
	printf("%s %llu %s\n", name, (unsigned long long)list->size, list_name);
	return 0;
}

static int put(const char *path)
{
	struct error err = {0};
	struct digest_stream *hash = digest_stream_new();
	struct blob_upload *u;
	struct chunk_list list;
	uint64_t size;
	char *step = mem_new(STEP);
	int fd = open_file(path, &size);
	check(blob_upload_new(bench.store, &u, &err), &err);
	blob_upload_chunk(u, size, PIECE);
	for (uint64_t at = 0; at < size; at += STEP) {
		struct str part = {step, size - at < STEP ? (size_t)(size - at) : STEP};
		if (file_read_at(fd, at, step, part.len) != (ssize_t)part.len)
			exit(1);
		digest_stream_add(hash, part.base, part.len);
		check(blob_upload_append(u, part, &err), &err);
	}
	struct digest d = digest_stream_end(hash);
	if (!blob_upload_list(u, &d, &list))
		exit(1);
	check(blob_upload_finish(u, &d, &err), &err);
	return say_names(&list);
}

/* Without a copy of the file: it may be larger than the disk has room for twice. */
static int list(const char *path)
{
	struct chunk_list made = {0};
	struct digest_stream *hash = digest_stream_new();
	char *piece = mem_new(PIECE);
	int fd = open_file(path, &made.size);
	made.count = (uint32_t)((made.size + PIECE - 1) / PIECE);
	made.ends = mem_new(made.count * sizeof *made.ends);
	made.digests = mem_new(made.count * sizeof *made.digests);
	for (uint32_t i = 0; i < made.count; i++) {
		made.ends[i] = i + 1 < made.count ? (i + 1) * PIECE : made.size;
		size_t len = (size_t)chunk_length(&made, i);
		if (file_read_at(fd, chunk_offset(&made, i), piece, len) != (ssize_t)len)
			exit(1);
		digest_stream_add(hash, piece, len);
		made.digests[i] = digest_of(piece, len);
	}
	made.file = digest_stream_end(hash);
	return say_names(&made);
}

static void on_request(void *arg, struct http_exchange *x)
{
	struct error err = {0};
	if (!peer_handle(bench.peer, x)) {
		error_set(&err, E_NOTFOUND, "nothing is here");
		http_respond_error(x, &err);
	}
}

static void on_ready(void *arg, const struct version *v)
{
	printf("%.6f\n", (double)(clock_mono_us() - bench.started_us) / 1e6);
	fflush(stdout);
	loop_stop(bench.loop);
}

static void peer_start(void)
{
	struct error err = {0};
	struct http_client_options client = {0};
	struct peer_options o = {.store = bench.store,
	                         .client = http_client_new(bench.loop, &client),
	                         .self_id = STR("bench"),
	                         .site = STR("here"),
	                         .domain = STR("bench"),
	                         .parallel = PARALLEL,
	                         .on_ready = on_ready};
	check(peer_new(bench.loop, &o, &bench.peer, &err), &err);
}

static int serve(const char *port)
{
	struct error err = {0};
	struct http_server *server;
	char address[64];
	snprintf(address, sizeof address, "127.0.0.1:%s", port);
	struct http_server_options o = {
	    .address = str_from(address), .inherited_fd = -1, .handler = on_request, .room = "bench"};
	peer_start();
	check(http_server_new(bench.loop, &o, &server, &err), &err);
	loop_run(bench.loop);
	return 0;
}

static int receive(char **words)
{
	struct peer_source source = {.id = "origin", .site = "here", .origin = true};
	struct version_file file = {.path = "bench"};
	struct version v = {.name = "bench", .tag = "1", .files = &file, .file_count = 1};
	snprintf(source.url, sizeof source.url, "%s", words[0]);
	check(digest_parse(str_from(words[1]), &file.digest), &(struct error){.text = "a bad digest"});
	check(str_to_u64(str_from(words[2]), &file.size), &(struct error){.text = "a bad size"});
	check(digest_parse(str_from(words[3]), &file.chunks), &(struct error){.text = "a bad digest"});
	peer_start();
	bench.started_us = clock_mono_us();
	peer_set_sources(bench.peer, &source, 1);
	peer_set_assigned(bench.peer, &v, 1);
	loop_run(bench.loop);
	peer_free(bench.peer);
	return 0;
}

int main(int argc, char **argv)
{
	struct error err = {0};
	signal(SIGPIPE, SIG_IGN);
	if (argc < 4)
		return 2;
	check(blob_store_open(str_from(argv[2]), &bench.store, &err), &err);
	check(loop_new(&bench.loop), &(struct error){.text = "no loop"});
	if (!strcmp(argv[1], "put"))
		return put(argv[3]);
	if (!strcmp(argv[1], "list"))
		return list(argv[3]);
	if (!strcmp(argv[1], "send"))
		return serve(argv[3]);
	if (!strcmp(argv[1], "receive") && argc == 7)
		return receive(argv + 3);
	return 2;
}
