/* SPDX-License-Identifier: Apache-2.0 */
/* Who comes in with a token, and who does not any more. What makes a token good is in tests/unit/net/test_jwt.c. */
#include "world.h"

#include "base/file.h"
#include "serve/gateway/tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Of issuer "joe" for "mdn", subject "ann", until 2096. */
static const char token[] = "eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImsifQ.eyJpc3MiOiAiam9lIiwgImF1ZCI6IFsibWRuIl0sICJzdWIiOiA"
			    "iYW5uIiwgImV4cCI6IDQwMDAwMDAwMDAuMH0.--rcbWc8Aa72gfyEoL399GqIdG0GdPcwV_4ALY1yWX05UImlIXWA6"
			    "4v-uaH_L6meZQYx7ItKbXDqX2ZRIRfXxQ";
static const char keys[] =
    "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"k\",\"x\":\"rXh6XIuKTcK9VNA1R4IDkojW7k24oBU2ZbK6jaG2"
    "4Oo\",\"y\":\"3KTpGia7sMrRh-9Dhh7sx42ByOpBZRzxjoMUazmZoGo\"}]}";
/* The same name, another key. */
static const char other_keys[] =
    "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"k\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvR"
    "VEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

struct fixture {
	struct world w;
	struct place a;
	char folder[64], file[96];
};

static int setup(void **state)
{
	struct fixture *f = NEW(struct fixture);
	struct gateway_options o = place_options("n-a", "west");

	o.open = false;
	world_init(&f->w);
	place_start(&f->w, &f->a, &o);
	place_model(&f->w, &f->a, "m:v1");
	strcpy(f->folder, "/tmp/mdn-tokens-XXXXXX");
	assert_non_null(mkdtemp(f->folder));
	snprintf(f->file, sizeof(f->file), "%s/keys.json", f->folder);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	place_stop(&f->a);
	world_fini(&f->w);
	assert_int_equal(folder_remove(f->folder, NULL), 0);
	free(f);
	return 0;
}

static int take_tokens(struct fixture *f, const char *source, const char *claim, struct error *err)
{
	const struct gateway_tokens options = {.keys = str_from(source),
	                                       .issuer = STR("joe"),
	                                       .audience = STR("mdn"),
	                                       .claim = str_from(claim),
	                                       .folder = str_from(f->folder)};

	return gateway_set_tokens(f->a.g, &options, err);
}

static void write_keys(struct fixture *f, const char *text)
{
	struct error err;

	assert_int_equal(file_write(f->file, 0600, str_from(text), &err), 0);
}

/* The status; words: NULL, or what the error says. */
static int ask_with_token(struct fixture *f, const char *words)
{
	struct reply r = {0};
	char header[sizeof(token) + 32];

	snprintf(header, sizeof(header), "authorization: Bearer %s", token);
	ask_with(&f->w, &r, f->a.api, "/v1/completions", "{\"model\":\"m:v1\",\"prompt\":\"x\",\"max_tokens\":1}",
	         header);
	int status = r.status;
	if (words && !strstr(r.body.base, words))
		fail_msg("%d %s", status, r.body.base);
	assert_null(strstr(r.body.base, token + 40)); /* it is never repeated */
	reply_fini(&r);
	return status;
}

static void test_a_token_opens_until_its_key_is_taken_back(void **state)
{
	struct fixture *f = *state;
	struct error err;

	assert_int_equal(ask_with_token(f, "Incorrect API key"), 401);
	write_keys(f, keys);
	assert_int_equal(take_tokens(f, f->file, "sub", &err), 0);
	assert_int_equal(ask_with_token(f, NULL), 200);
	assert_int_equal(ask_with_token(f, NULL), 200);
	write_keys(f, "{}");
	assert_true(take_tokens(f, f->file, "sub", &err) < 0);
	assert_int_equal(ask_with_token(f, NULL), 200); /* a file that is none changes nothing */
	assert_int_equal(take_tokens(f, "http://203.0.113.1/keys", "sub", &err), E_INVAL);
	assert_int_equal(take_tokens(f, "http://127.0.0.1.example/keys", "sub", &err), E_INVAL);
	write_keys(f, other_keys);
	assert_int_equal(take_tokens(f, f->file, "sub", &err), 0);
	assert_int_equal(ask_with_token(f, "signature does not hold"), 401);
	write_keys(f, keys);
	assert_int_equal(take_tokens(f, f->file, "email", &err), 0);
	assert_int_equal(ask_with_token(f, "no claim \\\"email\\\""), 401);
	assert_int_equal(take_tokens(f, "", "", &err), 0);
	assert_int_equal(ask_with_token(f, "Incorrect API key"), 401);
}

static void serve_keys(void *arg, struct http_exchange *x, struct str body, const struct error *err)
{
	(void)arg;
	(void)body;
	(void)err;
	http_respond(x, 200, "application/json", str_from(keys));
}

static void test_keys_of_a_url_come_soon_and_outlive_it(void **state)
{
	struct fixture *f = *state;
	struct peer_double p;
	struct error err;
	char url[128];
	int status = 0;

	peer_double_start(&f->w, &p, serve_keys);
	snprintf(url, sizeof(url), "%s/keys", p.url);
	assert_int_equal(take_tokens(f, url, "sub", &err), 0);
	assert_int_equal(ask_with_token(f, "keys of their issuer are not here"), 503);
	for (int i = 0; i < 400 && status != 200; i++) {
		world_wait(&f->w, 20 * US_PER_MS);
		status = ask_with_token(f, NULL);
	}
	assert_int_equal(status, 200);
	peer_double_stop(&p);
	assert_int_equal(take_tokens(f, "", "", &err), 0);
	assert_int_equal(take_tokens(f, url, "sub", &err), 0); /* as after a restart */
	assert_int_equal(ask_with_token(f, NULL), 200);
}

static void test_a_team_is_part_of_the_tenants_name(void **state)
{
	struct fixture *f = *state;
	struct gateway_tokens o = {.keys = str_from(f->file),
	                           .issuer = STR("joe"),
	                           .audience = STR("mdn"),
	                           .claim = STR("iss"),
	                           .team = STR("sub")};
	char tenant[TOKEN_TENANT_SIZE], team[TOKEN_TEAM_SIZE];
	struct tokens t = {0};
	struct error err;

	write_keys(f, keys);
	assert_int_equal(tokens_set(&t, f->w.loop, &o, &err), 0);
	assert_int_equal(tokens_check(&t, str_from(token), tenant, &err), 0);
	assert_string_equal(tenant, "jwt:ann:joe");
	assert_true(tokens_team(&t, tenant, team));
	assert_string_equal(team, "ann");
	assert_false(tokens_team(&t, "0123456789ab", team)); /* a key's id */
	o.team = STR("aud");                                 /* no text */
	assert_int_equal(tokens_set(&t, f->w.loop, &o, &err), 0);
	assert_int_equal(tokens_check(&t, str_from(token), tenant, &err), E_AUTH);
	tokens_fini(&t);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(test_a_token_opens_until_its_key_is_taken_back),
	    TEST(test_keys_of_a_url_come_soon_and_outlive_it),
	    TEST(test_a_team_is_part_of_the_tenants_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
