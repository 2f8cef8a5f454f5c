/* SPDX-License-Identifier: Apache-2.0 */
/* test_tls.c - who may talk to whom: a CA of our own, nodes with certificates, server and client on one loop. */
#include "net_test.h"

#include "net/tls.h"
#include "net/x509.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <sys/mman.h>
#include <unistd.h>

#define DAY_US (24 * 3600 * US_PER_S)
#define HOUR_US (3600 * US_PER_S)
#define SERVER_ID "spiffe://test/node/server"
#define FILE_SIZE 500000
#define CLIENT_ID "spiffe://test/node/client"

static struct {
	char *ca, *ca_key, *other_ca, *other_ca_key;
	struct loop *loop;
	struct http_server *server;
	struct tls_context *server_tls, *client_tls;
	struct http_client *client;
	char seen[TLS_IDENTITY_SIZE];
	int done, code, status, gone;
	struct http_exchange *held;
	struct buf body;
	char error[512];
	const char *skew_for; /* of contexts made from now on */
	bool hostless;        /* certificates made from now on say no host, as those of plain nodes */
} w;

static char *node_cert(const char *ca, const char *ca_key, const char *key, const char *identity, int64_t from_us,
                       int64_t until_us)
{
	char *csr, *cert;
	struct error err;
	assert_int_equal(x509_request_new(str_from(key), STR("node"), &csr, &err), 0);
	struct x509_issue issue = {.ca_cert_pem = str_from(ca),
	                           .ca_key_pem = str_from(ca_key),
	                           .csr_pem = str_from(csr),
	                           .identity = str_from(identity),
	                           .dns_name = w.hostless ? STR("") : STR("node.test"),
	                           .ip = w.hostless ? STR("") : STR("127.0.0.1"),
	                           .not_before_wall_us = clock_wall_us() + from_us,
	                           .not_after_wall_us = clock_wall_us() + until_us};
	int rc = x509_issue(&issue, &cert, &err);
	if (rc != 0)
		fail_msg("%s", err.text);
	free(csr);
	return cert;
}

struct who {
	const char *ca, *ca_key; /* of its certificate; NULL: none */
	const char *identity;
	int64_t from_us, until_us;
};

static struct who good(const char *identity)
{
	return (struct who){w.ca, w.ca_key, identity, -HOUR_US, HOUR_US};
}

static struct tls_context *context(struct who who, enum tls_peer peer, const char *trust, const char *pin,
                                   struct tls_context *replace)
{
	struct error err;
	char *key = NULL, *cert = NULL;
	struct tls_context *tls = replace;
	assert_int_equal(x509_key_new(&key, &err), 0);
	if (who.ca)
		cert = node_cert(who.ca, who.ca_key, key, who.identity, who.from_us, who.until_us);
	struct tls_options options = {.cert_pem = str_from(cert),
	                              .key_pem = str_from(key),
	                              .ca_pem = str_from(trust),
	                              .ca_pin_hex = str_from(pin),
	                              .peer = peer,
	                              .skew_us = 600 * US_PER_S,
	                              .skew_for = str_from(w.skew_for)};
	int rc = replace ? tls_context_replace(tls, &options, &err) : tls_context_new(&options, &tls, &err);
	if (rc != 0)
		fail_msg("%s", err.text);
	free(key);
	free(cert);
	return tls;
}

static void gone(void *arg)
{
	(void)arg;
	w.gone = 1;
}

static bool echo(void *arg, struct str data)
{
	return http_write(arg, data);
}
static void echo_done(void *arg, const struct error *err)
{
	if (err)
		http_abort(arg);
	else
		http_end(arg);
}
static void echo_more(void *arg)
{
	http_body_resume(arg);
}

static char file_byte(size_t at)
{
	return (char)(at * 7 + at / 1000);
}

static void handler(void *arg, struct http_exchange *x)
{
	(void)arg;
	str_copy(http_peer_identity(x), w.seen, sizeof(w.seen));
	if (str_equal(http_path(x), STR("/hold"))) {
		w.held = x;
		http_watch(x, NULL, gone, NULL);
	} else if (str_equal(http_path(x), STR("/echo"))) {
		http_respond_begin(x, 200, NULL, -1);
		http_watch(x, echo_more, NULL, x);
		http_body_read(x, UINT64_MAX, echo, echo_done, x);
	} else if (str_equal(http_path(x), STR("/file"))) {
		int fd = memfd_create("file", MFD_CLOEXEC);
		char data[FILE_SIZE];
		for (size_t i = 0; i < FILE_SIZE; i++)
			data[i] = file_byte(i);
		assert_int_equal(write(fd, data, FILE_SIZE), FILE_SIZE);
		http_respond_file(x, 200, NULL, fd, 0, FILE_SIZE);
	} else {
		http_respond(x, 200, NULL, STR("secret"));
	}
}

static void start(struct tls_context *server, struct tls_context *client)
{
	struct error err;
	loop_new(&w.loop);
	w.server_tls = server;
	w.client_tls = client;
	w.seen[0] = '\0';
	w.gone = 0;
	struct http_server_options so = {
	    .address = STR("127.0.0.1:0"), .inherited_fd = -1, .tls = server, .handler = handler};
	assert_int_equal(http_server_new(w.loop, &so, &w.server, &err), 0);
	w.client = http_client_new(w.loop, &(struct http_client_options){.tls = client});
}

static void stop(void)
{
	http_client_free(w.client);
	http_server_free(w.server);
	loop_free(w.loop);
	tls_context_free(w.server_tls);
	tls_context_free(w.client_tls);
}

static bool on_data(void *arg, struct str data)
{
	(void)arg;
	buf_append_str(&w.body, data);
	return true;
}

static void on_done(void *arg, struct http_call *call, const struct error *err)
{
	(void)arg;
	w.done = 1;

	w.status = http_call_status(call);
	w.code = err ? err->code : 0;
	str_copy(str_from(err ? err->text : ""), w.error, sizeof(w.error));
}

static struct http_call *call(const char *path, const char *identity, struct str body)
{
	char url[128];
	buf_clear(&w.body);
	w.done = 0;
	snprintf(url, sizeof(url), "https://" STR_FMT "%s", STR_ARG(http_server_address(w.server)), path);
	struct http_call_options o = {.url = str_from(url),
	                              .method = body.len ? STR("POST") : STR("GET"),
	                              .body = body,
	                              .peer_identity = str_from(identity),
	                              .on_data = on_data,
	                              .on_done = on_done,
	                              .body_length = -1};
	return http_call_start(w.client, &o);
}

/* 0 and "secret", or the code and words of the failure. */
static int ask(const char *identity)
{
	call("/", identity, STR(""));
	run_until(w.loop, &w.done);
	assert_true(w.code != 0 || str_equal(buf_str(&w.body), STR("secret")));
	return w.code;
}

static int once(struct who server, struct who client, const char *identity)
{
	start(context(server, TLS_PEER_REQUIRED, w.ca, NULL, NULL),
	      context(client, TLS_PEER_REQUIRED, w.ca, NULL, NULL));
	int code = ask(identity);
	stop();
	return code;
}

static void test_both_sides_know_each_other(void **state)
{
	(void)state;
	assert_int_equal(once(good(SERVER_ID), good(CLIENT_ID), SERVER_ID), 0);
	assert_string_equal(w.seen, CLIENT_ID);
	assert_int_equal(once(good(SERVER_ID), good(CLIENT_ID), NULL), 0); /* by its address in the certificate */
}

static void test_strangers_are_refused(void **state)
{
	(void)state;
	struct who stranger = {w.other_ca, w.other_ca_key, CLIENT_ID, -HOUR_US, HOUR_US};
	w.seen[0] = '\0';
	assert_int_equal(once(good(SERVER_ID), stranger, SERVER_ID), E_PEER);
	assert_int_equal(once(good(SERVER_ID), (struct who){0}, SERVER_ID), E_PEER);
	assert_non_null(strstr(w.error, "certificate required"));
	stranger.identity = SERVER_ID;
	assert_int_equal(once(stranger, good(CLIENT_ID), SERVER_ID), E_PEER);
	assert_int_equal(once(good("spiffe://test/node/another"), good(CLIENT_ID), SERVER_ID), E_PEER);
	assert_non_null(strstr(w.error, "the peer is spiffe://test/node/another, not " SERVER_ID));
	assert_string_equal(w.seen, "");
}

static void test_dates_count_with_ten_minutes_of_tolerance(void **state)
{
	(void)state;
	struct who c = good(CLIENT_ID), s = good(SERVER_ID);
	c.from_us = 540 * US_PER_S; /* begins in 9 minutes */
	assert_int_equal(once(s, c, SERVER_ID), 0);
	c.from_us = 660 * US_PER_S;
	assert_int_equal(once(s, c, SERVER_ID), E_PEER);
	c.from_us = -HOUR_US;
	c.until_us = -540 * US_PER_S; /* ended 9 minutes ago */
	assert_int_equal(once(s, c, SERVER_ID), 0);
	c.until_us = -660 * US_PER_S;
	assert_int_equal(once(s, c, SERVER_ID), E_PEER);
	s.until_us = -660 * US_PER_S;
	assert_int_equal(once(s, good(CLIENT_ID), SERVER_ID), E_PEER);
	assert_non_null(strstr(w.error, "certificate has expired"));
}

static void test_tolerance_can_be_for_some_identities_only(void **state)
{
	(void)state;
	struct who node = good(CLIENT_ID), operator= good("spiffe://test/operator/admin");
	node.until_us = operator.until_us = - 60 * US_PER_S;
	assert_int_equal(once(good(SERVER_ID), operator, SERVER_ID), 0);
	w.skew_for = "spiffe://test/node/";
	assert_int_equal(once(good(SERVER_ID), node, SERVER_ID), 0);
	assert_int_equal(once(good(SERVER_ID), operator, SERVER_ID), E_PEER);
	assert_int_equal(once(good(SERVER_ID), good("spiffe://test/operator/admin"), SERVER_ID), 0);
	w.skew_for = NULL;
}

/* SPIFFE X509-SVID section 2: who shows two names has none. */
static void test_two_identities_in_one_certificate_are_none(void **state)
{
	(void)state;
	struct error err;
	char *key, *cert, identity[TLS_IDENTITY_SIZE], *text;
	int64_t from, until;
	assert_int_equal(x509_key_new(&key, &err), 0);
	cert = node_cert(w.ca, w.ca_key, key, CLIENT_ID, -HOUR_US, HOUR_US);
	BIO *in = BIO_new_mem_buf(cert, -1), *out = BIO_new(BIO_s_mem());
	X509 *x = PEM_read_bio_X509(in, NULL, NULL, NULL);
	X509_EXTENSION *two = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name,
	                                          "URI:spiffe://test/node/a,URI:spiffe://test/operator/b");
	X509_EXTENSION_free(X509_delete_ext(x, X509_get_ext_by_NID(x, NID_subject_alt_name, -1)));
	assert_int_equal(X509_add_ext(x, two, -1), 1);
	i2d_re_X509_tbs(x, NULL); /* forget the text it was read from */
	PEM_write_bio_X509(out, x);
	long len = BIO_get_mem_data(out, &text);
	assert_int_equal(
	    x509_cert_info((struct str){text, (size_t)len}, identity, sizeof(identity), &from, &until, &err), E_INVAL);
	X509_EXTENSION_free(two);
	X509_free(x);
	BIO_free(in);
	BIO_free(out);
	free(cert);
	free(key);
}

static void test_join_trusts_the_pinned_ca_only(void **state)
{
	(void)state;
	struct error err;
	char pin[65], other_pin[65];
	assert_int_equal(x509_cert_pin(str_from(w.ca), pin, &err), 0);
	assert_int_equal(x509_cert_pin(str_from(w.other_ca), other_pin, &err), 0);
	start(context(good(SERVER_ID), TLS_PEER_OPTIONAL, w.ca, NULL, NULL),
	      context((struct who){0}, TLS_PEER_NONE, NULL, pin, NULL));
	assert_int_equal(ask(NULL), 0);
	assert_string_equal(w.seen, "");
	context((struct who){0}, TLS_PEER_NONE, NULL, other_pin, w.client_tls);
	http_client_cut(w.client, STR(SERVER_ID));
	assert_int_equal(ask(NULL), E_PEER);
	stop();
	/* A node of the network, which has such a chain, too, but is not the host asked for. */
	w.hostless = true;
	start(context(good(SERVER_ID), TLS_PEER_OPTIONAL, w.ca, NULL, NULL),
	      context((struct who){0}, TLS_PEER_NONE, NULL, pin, NULL));
	assert_int_equal(ask(NULL), E_PEER);
	assert_non_null(strstr(w.error, "mismatch"));
	stop();
	w.hostless = false;
	/* An impostor whose chain merely encloses the pinned CA. */
	char *key, *cert;
	struct tls_context *tls;
	assert_int_equal(x509_key_new(&key, &err), 0);
	cert = node_cert(w.other_ca, w.other_ca_key, key, SERVER_ID, -HOUR_US, HOUR_US);
	struct buf chain = {0};
	buf_append_str(&chain, str_from(cert));
	buf_append_str(&chain, str_from(w.ca));
	struct tls_options options = {.cert_pem = buf_str(&chain), .key_pem = str_from(key)};
	assert_int_equal(tls_context_new(&options, &tls, &err), 0);
	start(tls, context((struct who){0}, TLS_PEER_NONE, NULL, pin, NULL));
	assert_int_equal(ask(NULL), E_PEER);
	stop();
	buf_fini(&chain);
	free(key);
	free(cert);
}

static void test_renewal_keeps_what_lives(void **state)
{
	(void)state;
	start(context(good(SERVER_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL),
	      context(good(CLIENT_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL));
	call("/hold", SERVER_ID, STR(""));
	for (int i = 0; i < 200 && !w.held; i++)
		run_for(w.loop, 2000);
	assert_non_null(w.held);
	context(good("spiffe://test/node/renewed"), TLS_PEER_REQUIRED, w.ca, NULL, w.server_tls);
	struct error err;
	assert_int_not_equal(tls_context_replace(w.server_tls, &(struct tls_options){.cert_pem = STR("junk")}, &err),
	                     0);
	http_respond(w.held, 200, NULL, STR("old"));
	run_until(w.loop, &w.done);
	assert_true(str_equal(buf_str(&w.body), STR("old")));
	assert_int_equal(ask(SERVER_ID), 0); /* the pooled connection */
	assert_int_equal(ask("spiffe://test/node/renewed"), 0);
	stop();
}

static void test_cut_ends_live_connections_of_an_identity(void **state)
{
	(void)state;
	start(context(good(SERVER_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL),
	      context(good(CLIENT_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL));
	w.held = NULL;
	call("/hold", SERVER_ID, STR(""));
	for (int i = 0; i < 200 && !w.held; i++)
		run_for(w.loop, 2000);
	assert_int_equal(http_server_cut(w.server, STR("spiffe://test/node/nobody")), 0);
	assert_int_equal(http_server_cut(w.server, STR(CLIENT_ID)), 1);
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, E_PEER);
	run_until(w.loop, &w.gone);
	assert_int_equal(ask(SERVER_ID), 0);
	assert_int_equal(http_client_cut(w.client, STR(SERVER_ID)), 1);
	call("/hold", SERVER_ID, STR(""));
	run_for(w.loop, 50000);
	assert_int_equal(http_client_cut(w.client, STR(SERVER_ID)), 1);
	assert_int_equal(w.code, E_PEER);
	stop();
}

static void test_large_bodies_and_files_pass_through_tls(void **state)
{
	(void)state;
	size_t size = 3000000;
	char *data = malloc(size);
	for (size_t i = 0; i < size; i++)
		data[i] = (char)(i * 7 + i / 1000);
	start(context(good(SERVER_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL),
	      context(good(CLIENT_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL));
	call("/echo", SERVER_ID, (struct str){data, size});
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_true(str_equal(buf_str(&w.body), (struct str){data, size}));
	call("/file", SERVER_ID, STR(""));
	run_until(w.loop, &w.done);
	assert_int_equal(w.code, 0);
	assert_int_equal(w.body.len, FILE_SIZE);
	stop();
	free(data);
}

static struct {
	char bytes[FILE_SIZE + 1000];
	size_t len, in_place;
	struct http_call *call;
} room;

static char *give_room(void *arg, size_t *ret_size)
{
	(void)arg;
	*ret_size = sizeof(room.bytes) - room.len; /* more than the body is long */
	return room.bytes + room.len;
}

static void room_resume(void *arg)
{
	(void)arg;
	if (!w.done)
		http_call_resume(room.call);
}

static bool room_data(void *arg, struct str data)
{
	(void)arg;
	assert_true(data.len <= sizeof(room.bytes) - room.len);
	if (data.base == room.bytes + room.len)
		room.in_place += data.len;
	else
		memcpy(room.bytes + room.len, data.base, data.len);
	room.len += data.len;
	loop_post(w.loop, room_resume, NULL);
	return false;
}

static void test_a_body_arrives_where_its_reader_has_room(void **state)
{
	(void)state;
	for (int tls = 0; tls < 2; tls++) {
		char url[128];
		start(tls ? context(good(SERVER_ID), TLS_PEER_NONE, w.ca, NULL, NULL) : NULL,
		      tls ? context(good(CLIENT_ID), TLS_PEER_NONE, w.ca, NULL, NULL) : NULL);
		snprintf(url, sizeof(url), "%s://" STR_FMT "/file", tls ? "https" : "http",
		         STR_ARG(http_server_address(w.server)));
		for (int i = 0; i < 2; i++) { /* the second on the same connection */
			memset(&room, 0, sizeof(room));
			w.done = 0;
			struct http_call_options o = {.url = str_from(url),
			                              .on_room = give_room,
			                              .on_data = room_data,
			                              .on_done = on_done,
			                              .peer_identity = str_from(tls ? SERVER_ID : "")};
			room.call = http_call_start(w.client, &o);
			run_until(w.loop, &w.done);
			assert_int_equal(w.code, 0);
			assert_int_equal(room.len, FILE_SIZE);
			assert_true(room.in_place > FILE_SIZE / 2);
			for (size_t at = 0; at < FILE_SIZE; at++)
				assert_true(room.bytes[at] == file_byte(at));
		}
		stop();
	}
}

static void test_plain_http_on_a_tls_port_and_garbage_do_no_harm(void **state)
{
	(void)state;
	char answer[256];
	start(context(good(SERVER_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL),
	      context(good(CLIENT_ID), TLS_PEER_REQUIRED, w.ca, NULL, NULL));
	int fd = raw_connect(port_of(http_server_address(w.server)));
	raw_send(fd, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
	run_for(w.loop, 20000);
	assert_true(raw_read(fd, answer, sizeof(answer), NULL));
	close(fd);
	assert_int_equal(ask(SERVER_ID), 0);
	stop();
}

static void test_certificate_says_what_was_asked(void **state)
{
	(void)state;
	struct error err;
	char *key, *cert, *csr, *cert2, identity[TLS_IDENTITY_SIZE], pin_a[65], pin_b[65];
	int64_t from, until, now = clock_wall_us();
	assert_int_equal(x509_key_new(&key, &err), 0);
	cert = node_cert(w.ca, w.ca_key, key, CLIENT_ID, -HOUR_US, HOUR_US);
	cert2 = node_cert(w.ca, w.ca_key, key, CLIENT_ID, -HOUR_US, HOUR_US);
	assert_int_equal(x509_request_new(str_from(key), STR("x"), &csr, &err), 0);
	assert_int_equal(x509_cert_info(str_from(cert), identity, sizeof(identity), &from, &until, &err), 0);
	assert_string_equal(identity, CLIENT_ID);
	assert_in_range(now - from, HOUR_US - 2 * US_PER_S, HOUR_US + 2 * US_PER_S);
	assert_in_range(until - now, HOUR_US - 2 * US_PER_S, HOUR_US + 2 * US_PER_S);
	assert_int_equal(x509_cert_pin(str_from(cert), pin_a, &err), 0);
	assert_int_equal(x509_request_pin(str_from(csr), pin_b, &err), 0);
	assert_string_equal(pin_a, pin_b);
	assert_string_not_equal(cert, cert2); /* serial numbers differ */
	BIO *in = BIO_new_mem_buf(cert, -1);
	X509 *x = PEM_read_bio_X509(in, NULL, NULL, NULL);
	assert_int_equal(X509_check_host(x, "node.test", 0, 0, NULL), 1);
	assert_int_equal(X509_check_ip_asc(x, "127.0.0.1", 0), 1);
	assert_int_equal(X509_check_purpose(x, X509_PURPOSE_SSL_SERVER, 0), 1);
	assert_int_equal(X509_check_purpose(x, X509_PURPOSE_SSL_CLIENT, 0), 1);
	assert_int_equal(X509_check_ca(x), 0);
	X509_free(x);
	BIO_free(in);
	/* A request changed after it was signed, an odd identity, and a foreign CA key. */
	struct x509_issue issue = {.ca_cert_pem = str_from(w.ca),
	                           .ca_key_pem = str_from(w.ca_key),
	                           .csr_pem = str_from(csr),
	                           .identity = STR(CLIENT_ID),
	                           .not_before_wall_us = now,
	                           .not_after_wall_us = now + HOUR_US};
	char *out = NULL;
	issue.identity = STR("spiffe://test/node/a,DNS:evil");
	assert_int_equal(x509_issue(&issue, &out, &err), 0); /* one odd URI, no second name */
	assert_int_equal(x509_cert_info(str_from(out), identity, sizeof(identity), &from, &until, &err), 0);
	assert_string_equal(identity, "spiffe://test/node/a,DNS:evil");
	free(out);
	issue.identity = STR("http://test");
	assert_int_equal(x509_issue(&issue, &out, &err), E_INVAL);
	issue.identity = STR(CLIENT_ID);
	issue.ca_key_pem = str_from(w.other_ca_key);
	assert_int_equal(x509_issue(&issue, &out, &err), E_INTERNAL);
	issue.ca_key_pem = str_from(w.ca_key);
	csr[80] = csr[80] == 'A' ? 'B' : 'A';
	issue.csr_pem = str_from(csr);
	assert_int_equal(x509_issue(&issue, &out, &err), E_INVAL);
	issue.csr_pem = STR("junk");
	assert_int_equal(x509_issue(&issue, &out, &err), E_INVAL);
	free(key);
	free(cert);
	free(cert2);
	free(csr);
}

static int setup(void **state)
{
	(void)state;
	struct error err;
	int64_t from = clock_wall_us() - DAY_US;
	return x509_ca_new(STR("test"), from, 365 * DAY_US, &w.ca, &w.ca_key, &err) ||
	       x509_ca_new(STR("other"), from, 365 * DAY_US, &w.other_ca, &w.other_ca_key, &err);
}

static int teardown(void **state)
{
	(void)state;
	free(w.ca);
	free(w.ca_key);
	free(w.other_ca);
	free(w.other_ca_key);
	buf_fini(&w.body);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_certificate_says_what_was_asked),
	    cmocka_unit_test(test_both_sides_know_each_other),
	    cmocka_unit_test(test_strangers_are_refused),
	    cmocka_unit_test(test_dates_count_with_ten_minutes_of_tolerance),
	    cmocka_unit_test(test_tolerance_can_be_for_some_identities_only),
	    cmocka_unit_test(test_two_identities_in_one_certificate_are_none),
	    cmocka_unit_test(test_join_trusts_the_pinned_ca_only),
	    cmocka_unit_test(test_renewal_keeps_what_lives),
	    cmocka_unit_test(test_cut_ends_live_connections_of_an_identity),
	    cmocka_unit_test(test_large_bodies_and_files_pass_through_tls),
	    cmocka_unit_test(test_a_body_arrives_where_its_reader_has_room),
	    cmocka_unit_test(test_plain_http_on_a_tls_port_and_garbage_do_no_harm),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
