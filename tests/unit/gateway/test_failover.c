/* SPDX-License-Identifier: Apache-2.0 */
/* Streams that outlive who gives them: a node that goes, peers that lie about what they said. */
#include "world.h"

#include "serve/gateway/resume.h"

#include <stdio.h>
#include <stdlib.h>

#define CHAT "/v1/chat/completions"
#define SAID "[{\"role\":\"user\",\"content\":\"where am I?\"}]"
enum { WORDS = 60 };

struct fixture {
	struct world w;
	struct place a, b, c; /* a talks to the client */
	struct scheduler_double s;
};

static double metric(struct fixture *f, struct place *p, const char *name)
{
	struct reply r = {0};
	double value = -1;

	ask(&f->w, &r, "GET", p->api, "/metrics", NULL);
	for (char *line = r.body.base; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
			value = strtod(line + strlen(name), NULL);
	reply_fini(&r);
	return value;
}

static void start(struct fixture *f, struct place *p, const char *id, bool model)
{
	struct gateway_options o = place_options(id, "west");

	o.engine.itl_base_us = 2 * US_PER_MS;
	place_start(&f->w, p, &o);
	if (!model)
		return;
	place_model(&f->w, p, "m:latest");
	scheduler_double_report(&f->s, id, "west", p->url, p->api, "m:latest", NODE_READY);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	world_init(&f->w);
	scheduler_double_start(&f->w, &f->s);
	start(f, &f->a, "n-a", false);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	world_wait(&f->w, 20 * US_PER_MS);
	assert_int_equal(gateway_running(f->a.g), 0);
	assert_true(metric(f, &f->a, "mdn_ledger_open") == 0);
	place_stop(&f->a);
	if (f->b.g)
		place_stop(&f->b);
	if (f->c.g)
		place_stop(&f->c);
	scheduler_double_stop(&f->s);
	world_fini(&f->w);
	free(f);
	return 0;
}

/* ---- what a stream said ------------------------------------------------------------------------------------ */

struct said {
	struct buf text;
	size_t events, begins, ends, errors;
	int64_t sequence, completion_tokens; /* -1: none was told */
};

static void note_text(struct said *s, yyjson_val *text)
{
	if (yyjson_is_str(text))
		buf_append_str(&s->text, str_from(yyjson_get_str(text)));
}

static void note_event(struct said *s, yyjson_val *e)
{
	yyjson_val *choice = yyjson_arr_get_first(yyjson_obj_get(e, "choices")), *delta = yyjson_obj_get(e, "delta");
	const char *type = yyjson_get_str(yyjson_obj_get(e, "type"));
	yyjson_val *sequence = yyjson_obj_get(e, "sequence_number"), *usage = yyjson_obj_get(e, "usage");

	s->events++;
	s->errors += yyjson_is_obj(yyjson_obj_get(e, "error"));
	if (sequence) {
		assert_int_equal(yyjson_get_int(sequence), s->sequence + 1);
		s->sequence++;
		usage = yyjson_obj_get(yyjson_obj_get(e, "response"), "usage");
	}
	if (yyjson_is_obj(usage)) {
		yyjson_val *tokens = yyjson_obj_get(usage, "completion_tokens");
		s->completion_tokens = yyjson_get_int(tokens ? tokens : yyjson_obj_get(usage, "output_tokens"));
	}
	note_text(s, yyjson_obj_get(choice, "text"));
	note_text(s, yyjson_obj_get(yyjson_obj_get(choice, "delta"), "content"));
	note_text(s, yyjson_is_obj(delta) ? yyjson_obj_get(delta, "text") : delta);
	s->begins += yyjson_obj_get(yyjson_obj_get(choice, "delta"), "role") != NULL;
	s->begins += type && (strcmp(type, "response.created") == 0 || strcmp(type, "message_start") == 0);
	s->ends += yyjson_is_str(yyjson_obj_get(choice, "finish_reason"));
	s->ends += type && (strcmp(type, "response.incomplete") == 0 || strcmp(type, "message_stop") == 0);
}

static void said_read(struct said *s, const struct reply *r)
{
	*s = (struct said){.sequence = -1, .completion_tokens = -1};
	for (const char *line = r->body.base; line && *line;
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		yyjson_doc *doc;
		const char *end = strchr(line, '\n');
		if (strncmp(line, "data: {", 7) != 0 || !end)
			continue;
		struct error err;
		if (json_parse((struct str){line + 6, (size_t)(end - line - 6)}, &doc, &err) < 0)
			fail_msg("%s in %.*s", err.text, (int)(end - line), line);
		note_event(s, yyjson_doc_get_root(doc));
		yyjson_doc_free(doc);
	}
	buf_append(&s->text, "", 1);
}

static void wait_for_words(struct fixture *f, struct reply *r)
{
	for (int i = 0; i < 2000 && r->bytes < 2500; i++)
		world_wait(&f->w, US_PER_MS);
	assert_true(r->bytes >= 2500);
}

static struct place *place_of(struct fixture *f, const struct reply *r)
{
	char id[64];

	assert_true(reply_header(r, "x-mdn-node", id, sizeof(id)));
	return strcmp(id, "n-b") == 0 ? &f->b : strcmp(id, "n-c") == 0 ? &f->c : &f->a;
}

static void expect_same(const struct said *whole, const struct reply *r)
{
	struct said s;

	said_read(&s, r);
	assert_string_equal(s.text.base, whole->text.base);
	assert_int_equal(s.begins, whole->begins);
	assert_int_equal(s.ends, 1);
	assert_int_equal(s.errors, 0);
	assert_int_equal(s.completion_tokens, whole->completion_tokens);
	assert_false(r->broken);
	buf_fini(&s.text);
}

/* ---- a node goes ---------------------------------------------------------------------------------------------- */

static const struct {
	const char *path, *body;
} asks[] = {
    {CHAT, "{\"model\":\"m\",\"messages\":" SAID
           ",\"max_tokens\":60,\"stream\":true,\"stream_options\":{\"include_usage\":true}}"},
    {"/v1/completions", "{\"model\":\"m\",\"prompt\":\"where?\",\"max_tokens\":60,\"stream\":true,\"echo\":true,"
                        "\"stream_options\":{\"include_usage\":true},\"stop\":[\" no such words\"]}"},
    {"/v1/responses", "{\"model\":\"m\",\"input\":\"where?\",\"max_output_tokens\":60,\"stream\":true}"},
    {"/v1/messages", "{\"model\":\"m\",\"messages\":" SAID ",\"max_tokens\":60,\"stream\":true}"},
};

static void check_node_goes(struct fixture *f, size_t which)
{
	struct reply r = {0};
	struct said whole;

	start(f, &f->b, "n-b", true);
	start(f, &f->c, "n-c", true);
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, asks[which].path, asks[which].body);
	said_read(&whole, &r);
	reply_fini(&r);
	assert_true(whole.text.len > 4 * WORDS);
	assert_int_equal(whole.completion_tokens, WORDS);
	reply_start(&f->w, &r, "POST", f->a.api, asks[which].path, asks[which].body, NULL);
	wait_for_words(f, &r);
	assert_false(r.done);
	place_stop(place_of(f, &r));
	place_of(f, &r)->g = NULL;
	reply_wait(&r);
	expect_same(&whole, &r);
	reply_fini(&r);
	buf_fini(&whole.text);
	assert_true(metric(f, &f->a, "mdn_resumed_total") == 1);
	assert_true(metric(f, &f->a, "mdn_broken_total") == 0);
}

static void test_a_chat_goes_on_at_another_node(void **state)
{
	check_node_goes(*state, 0);
}

static void test_a_completion_with_an_echo_goes_on(void **state)
{
	check_node_goes(*state, 1);
}

static void test_a_response_keeps_its_sequence(void **state)
{
	check_node_goes(*state, 2);
}

static void test_a_message_goes_on(void **state)
{
	check_node_goes(*state, 3);
}

static void test_another_version_does_not_go_on(void **state)
{
	struct fixture *f = *state;
	struct reply r = {0};
	struct said s;
	struct error err;

	start(f, &f->b, "n-b", true);
	start(f, &f->c, "n-c", false);
	assert_int_equal(gateway_model_add(f->c.g, STR("m:latest"), STR("sha256:ffff"), STR("/nowhere"), &err), 0);
	world_wait(&f->w, 20 * US_PER_MS);
	scheduler_double_report(&f->s, "n-c", "far", f->c.url, f->c.api, "m:latest", NODE_READY);
	follow(&f->a, &f->s);
	reply_start(&f->w, &r, "POST", f->a.api, CHAT, asks[0].body, NULL);
	wait_for_words(f, &r);
	assert_ptr_equal(place_of(f, &r), &f->b);
	place_stop(&f->b);
	f->b.g = NULL;
	reply_wait(&r);
	said_read(&s, &r);
	assert_int_equal(s.errors, 1);
	assert_int_equal(s.ends, 0);
	assert_true(r.broken);
	buf_fini(&s.text);
	reply_fini(&r);
}

/* ---- peers that lie ------------------------------------------------------------------------------------------------
 */

static const char *lie; /* what a peer sends behind one good frame */
static bool lie_cut;

static void answer_with_lie(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	static const char piece[] = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
	struct buf out = {0};
	const int32_t tokens[] = {99};
	(void)arg;
	(void)body;
	(void)err;

	frame_put(&out,
	          &(struct frame){
		      .kind = FRAME_TEXT, .shown = 3, .tokens = tokens, .token_count = 1, .piece = str_from(piece)});
	http_add_header(x, "x-mdn-frames", STR("sha256:0123456789abcdef"));
	http_respond_begin(x, 200, "text/event-stream", -1);
	http_write(x, buf_str(&out));
	http_write(x, str_from(lie));
	if (lie_cut)
		http_abort(x);
	else
		http_end(x);
	buf_fini(&out);
}

/* The node that is asked to go on knows no such token: the client has one word and is told, once. */
static void test_what_peers_make_up_ends_in_an_error_event(void **state)
{
	static const char *const lies[] = {
	    "",
	    "no frame at all\n",
	    "00000000 00000000 t 3 7 x\n",
	    "00000000 00000000 t 3 -7\n",
	    "ffffffff 00000000 t 3\n",
	    "00000005 00000000 b 3\nerror",
	    "00000000 00000000 q 3\n",
	    "00000010 00000000 t 9 1 2 3\ntoo little",
	};
	struct fixture *f = *state;
	struct peer_double p;

	peer_double_start(&f->w, &p, answer_with_lie);
	start(f, &f->b, "n-b", true);
	scheduler_double_report(&f->s, "n-b", "far", f->b.url, f->b.api, "m:latest", NODE_READY);
	scheduler_double_report(&f->s, "n-p", "west", p.url, "", "m:latest", NODE_READY);
	follow(&f->a, &f->s);
	for (size_t i = 0; i < 2 * sizeof(lies) / sizeof(lies[0]); i++) {
		struct reply r = {0};
		struct said s;
		lie = lies[i / 2];
		lie_cut = i % 2;
		ask(&f->w, &r, "POST", f->a.api, CHAT, asks[0].body);
		said_read(&s, &r);
		if (place_of(f, &r) == &f->b) { /* the map has had enough of the liar */
			expect_same(&s, &r);
		} else {
			assert_string_equal(s.text.base, "one");
			assert_int_equal(s.errors, 1);
			assert_int_equal(s.ends, 0);
			assert_true(r.broken);
		}
		buf_fini(&s.text);
		reply_fini(&r);
		scheduler_double_publish(&f->s);
		world_wait(&f->w, 20 * US_PER_MS);
	}
	assert_true(p.requests > 0);
	peer_double_stop(&p);
}

static void test_clients_cannot_say_where_to_begin(void **state)
{
	static const char body[] =
	    "{\"mdn_resume\":{\"digest\":\"sha256:0123456789abcdef\",\"shown\":4,\"tokens\":[1]},"
	    "\"model\":\"m\",\"messages\":" SAID ",\"max_tokens\":3,\"stream\":true}";
	static const char *const bad[] = {"{\"digest\":\"sha256:0123456789abcdef\",\"tokens\":[]}", "{}", "3",
	                                  "{\"digest\":\"sha256:0123456789abcdef\",\"tokens\":[-1]}",
	                                  "{\"digest\":\"\",\"tokens\":[1]}"};
	struct fixture *f = *state;
	const char *const hop[] = {"x-mdn-hop: 1", "x-mdn-resume: 1", NULL};
	struct reply r = {0};
	struct said s;

	place_model(&f->w, &f->a, "m:latest");
	follow(&f->a, &f->s);
	ask(&f->w, &r, "POST", f->a.api, CHAT, body);
	said_read(&s, &r);
	assert_int_equal(s.begins, 1);
	assert_int_equal(s.ends, 1);
	buf_fini(&s.text);
	reply_fini(&r);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[512];
		snprintf(text, sizeof(text),
		         "{\"mdn_resume\":%s,\"model\":\"m\",\"messages\":" SAID ",\"stream\":true}", bad[i]);
		reply_start(&f->w, &r, "POST", f->a.url, CHAT, text, hop);
		reply_wait(&r);
		assert_int_equal(r.status, 400);
		reply_fini(&r);
	}
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static void test_frames_come_whole_or_not_at_all(void **state)
{
	const int32_t tokens[] = {0, 7, INT32_MAX};
	const struct frame in = {.kind = FRAME_TEXT,
	                         .sequence = 0xabc,
	                         .shown = 12345678901,
	                         .tokens = tokens,
	                         .token_count = 3,
	                         .piece = STR("data: {}\n\n")};
	struct resume *resume = resume_new(STR("sha256:ab")), *back;
	struct frame out;
	struct error err;
	struct buf b = {0}, body = {0};
	size_t used;
	yyjson_doc *doc;
	(void)state;

	frame_put(&b, &in);
	for (size_t len = 0; len < b.len; len++)
		assert_int_equal(frame_take((struct str){b.base, len}, &out, &used, &err), 0);
	frame_put(&b, &in);
	assert_int_equal(frame_take(buf_str(&b), &out, &used, &err), 1);
	assert_int_equal(used, b.len / 2);
	assert_true(str_equal(out.piece, in.piece) && out.sequence == in.sequence && out.shown == in.shown);
	assert_int_equal(resume_note_frame(resume, &out, &err), 0);
	assert_int_equal(resume->count, 3);
	assert_memory_equal(resume->tokens, tokens, sizeof(tokens));
	resume_append_body(resume, STR(" {\"model\":\"m\"}"), &body);
	assert_int_equal(json_parse(buf_str(&body), &doc, &err), 0);
	assert_text(at(doc, "model"), "m");
	assert_int_equal(resume_read_body(yyjson_doc_get_root(doc), &back, &err), 0);
	assert_memory_equal(back->tokens, tokens, sizeof(tokens));
	assert_true(back->sequence == in.sequence && back->shown == in.shown);
	yyjson_doc_free(doc);
	resume_free(back);
	assert_true(resume_again(resume) && resume_again(resume));
	assert_false(resume_again(resume)); /* twice is enough */
	resume_free(resume);
	/* A piece that is too long for one goes in several; behind the first nobody can go on. */
	struct frame large = in;
	buf_clear(&b);
	buf_clear(&body);
	while (body.len <= FRAME_PIECE_MAX)
		buf_append_str(&body, in.piece);
	large.piece = buf_str(&body);
	frame_put(&b, &large);
	assert_int_equal(frame_take(buf_str(&b), &out, &used, &err), 1);
	assert_int_equal(out.kind, FRAME_LOST);
	assert_int_equal(frame_take((struct str){b.base + used, b.len - used}, &out, &used, &err), 1);
	assert_int_equal(out.kind, FRAME_TEXT);
	buf_fini(&b);
	buf_fini(&body);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_a_chat_goes_on_at_another_node),    TEST(test_a_completion_with_an_echo_goes_on),
	    TEST(test_a_response_keeps_its_sequence),     TEST(test_a_message_goes_on),
	    TEST(test_another_version_does_not_go_on),    TEST(test_what_peers_make_up_ends_in_an_error_event),
	    TEST(test_clients_cannot_say_where_to_begin), cmocka_unit_test(test_frames_come_whole_or_not_at_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
