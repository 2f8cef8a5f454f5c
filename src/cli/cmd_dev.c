/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn dev up`: a whole network on this machine: a center, a repository, a scheduler and edges on two sites, each a
 * process of its own with its own data folder, joined by token, over real TLS. Nothing here is special to it: every
 * step is what an operator would do by hand, and the words printed say which.
 *
 * What was made before is used again. A child that dies is started again, as a service manager would. Whatever happens,
 * no child is left behind.
 */
#include "base/clock.h"
#include "base/file.h"
#include "cli/answers.h"
#include "cli/chat.h"
#include "cli/node_table.h"
#include "cli/options.h"
#include "cli/process.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "core/report.h"
#include "serve/center/center.h"
#include "serve/member/member.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define EDGES_MAX 32
#define FIXED 3 /* center, repository, scheduler */
#define SITES_MAX 16
#define START_LIMIT_US (30 * US_PER_S)
#define LOAD_LIMIT_US (300 * US_PER_S)
#define STOP_MS 8000 /* more than the nodes' drain_deadline */
#define RESTART_US (2 * US_PER_S)
#define QUESTION "In one sentence: what does a content delivery network do?"

struct dev_node {
	char name[32], site[32], roles[32], config_path[4096], data[4096];
	int node_port, api_port;
	int64_t died_us;
};

struct dev {
	const struct args *args;
	char folder[2048], operator_dir[2100];
	int lock_fd, first_port;
	struct dev_node nodes[FIXED + EDGES_MAX];
	struct process processes[FIXED + EDGES_MAX]; /* of the node with the same index */
	size_t count;
	struct {
		char site[32];
		int64_t us;
	} sites[SITES_MAX];
	size_t site_count;
	int repository_port, scheduler_port, dns_port, console_port;
	char model[2 * NODE_TEXT_SIZE], name[NODE_TEXT_SIZE], tag[NODE_TEXT_SIZE];
	struct client *client;
	struct client *plain;
	int64_t started_us;
};

static struct dev *shown; /* for the distance column of the table */

static void say(const struct dev *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(const struct dev *d, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	printf("[%5.1fs] ", (double)(clock_mono_us() - d->started_us) / (double)US_PER_S);
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	va_end(args);
}

/* Lines are cut at the terminal's width: one that wraps would be two to go back over. */
static void redraw(FILE *out, const char *text, size_t len, int *lines)
{
	struct winsize w = {0};
	bool terminal = ioctl(fileno(out), TIOCGWINSZ, &w) == 0 && w.ws_col > 0;
	if (*lines && terminal)
		fprintf(out, "\033[%dA\033[J", *lines);
	*lines = 0;
	for (size_t i = 0, column = 0; i < len; i++) {
		bool end = text[i] == '\n';
		column = end ? 0 : column + (((unsigned char)text[i] & 0xc0) != 0x80);
		*lines += end;
		if (end || !terminal || column <= w.ws_col)
			fputc(text[i], out);
	}
	fflush(out);
}

/* ---- the plan: who, where, which ports -------------------------------------------------------------- */

static int64_t site_latency(const struct dev *d, struct str site)
{
	for (size_t i = 0; i < d->site_count; i++)
		if (str_equal(str_from(d->sites[i].site), site))
			return d->sites[i].us;
	return 0;
}

static int set_latency(struct dev *d, struct str site, int64_t us, struct error *err)
{
	for (size_t i = 0; i < d->site_count; i++) {
		if (str_equal(str_from(d->sites[i].site), site)) {
			d->sites[i].us = us;
			return 0;
		}
	}
	if (d->site_count == SITES_MAX || !str_copy(site, d->sites[d->site_count].site, sizeof d->sites[0].site))
		return error_set(err, E_LIMIT, "at most %d sites, with names of at most 31 bytes", SITES_MAX);
	d->sites[d->site_count++].us = us;
	return 0;
}

/* "south=30ms" or "south=30": a bare number is milliseconds. */
static int parse_latencies(struct dev *d, struct error *err)
{
	set_latency(d, STR("north"), 2 * US_PER_MS, NULL);
	set_latency(d, STR("south"), 30 * US_PER_MS, NULL);
	set_latency(d, STR("center"), 15 * US_PER_MS, NULL);
	for (unsigned i = 0; args_nth(d->args, "latency", i); i++) {
		struct str number, site = str_cut(str_from(args_nth(d->args, "latency", i)), '=', &number);
		uint64_t ms;
		int64_t us;
		if (str_to_u64(number, &ms) == 0 && ms < 100000)
			us = (int64_t)ms * US_PER_MS;
		else if (str_to_duration_us(number, &us))
			return error_set(err, E_INVAL,
			                 "--latency " STR_FMT ": write SITE=MILLISECONDS, such as south=30",
			                 STR_ARG(site));
		int rc = set_latency(d, site, us, err);
		if (rc)
			return rc;
	}
	return 0;
}

static struct dev_node *add_node(struct dev *d, const char *name, const char *site, const char *roles)
{
	struct dev_node *n = &d->nodes[d->count++];
	snprintf(n->name, sizeof n->name, "%s", name);
	snprintf(n->site, sizeof n->site, "%s", site);
	snprintf(n->roles, sizeof n->roles, "%s", roles);
	snprintf(n->data, sizeof n->data, "%s/%s", d->folder, name);
	snprintf(n->config_path, sizeof n->config_path, "%s/%s.yaml", d->folder, name);
	return n;
}

static bool is_edge(const struct dev_node *n)
{
	return n->api_port != 0;
}

/* Without --ports the usual ones, so that the examples of the manual work; with it, that one and those after it. */
static void plan_nodes(struct dev *d, unsigned edges)
{
	bool usual = d->first_port == 0;
	int next = usual ? 7300 : d->first_port;
	add_node(d, "center", "center", "center")->node_port = next++;
	add_node(d, "repository", "center", "repository")->node_port = next++;
	add_node(d, "scheduler", "center", "scheduler")->node_port = next++;
	for (unsigned i = 0; i < edges; i++) {
		char name[32];
		snprintf(name, sizeof name, "edge-%u", i + 1);
		add_node(d, name, i < (edges + 1) / 2 ? "north" : "south", "edge")->node_port = next++;
	}
	int api = usual ? 8080 : next;
	for (size_t i = FIXED; i < d->count; i++)
		d->nodes[i].api_port = api++;
	next = usual ? next : api;
	d->repository_port = usual ? 5000 : next++;
	d->scheduler_port = usual ? 8090 : next++;
	d->dns_port = usual ? 5353 : next++;
	d->console_port = usual ? 8099 : next++;
}

static bool port_is_free(int port, int type)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	bool ok = bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
	close(fd);
	return ok;
}

static int check_ports(const struct dev *d, struct error *err)
{
	int ports[2 * (FIXED + EDGES_MAX) + 4], count = 0;
	for (size_t i = 0; i < d->count; i++) {
		ports[count++] = d->nodes[i].node_port;
		if (is_edge(&d->nodes[i]))
			ports[count++] = d->nodes[i].api_port;
	}
	ports[count++] = d->repository_port;
	ports[count++] = d->scheduler_port;
	ports[count++] = d->dns_port;
	ports[count++] = d->console_port;
	for (int i = 0; i < count; i++)
		if (ports[i] > 65535 || !port_is_free(ports[i], SOCK_STREAM) ||
		    (ports[i] == d->dns_port && !port_is_free(ports[i], SOCK_DGRAM)))
			return error_set(err, E_CONFLICT,
			                 "port %d is in use by another program; choose others with --ports, for "
			                 "example --ports 21000",
			                 ports[i]);
	return 0;
}

/* ---- configuration files ------------------------------------------------------------------------------ */

static void format_distances(const struct dev *d, struct buf *out)
{
	buf_append_str(out, STR("zones: [127.0.0.0/8=here, \"::1/128=here\"]\ndistances:\n"));
	for (size_t i = 0; i < d->site_count; i++) {
		buf_printf(out, "  - here/%s=%lldus\n", d->sites[i].site, (long long)d->sites[i].us);
		for (size_t k = 0; k < i; k++)
			buf_printf(out, "  - %s/%s=%lldus\n", d->sites[k].site, d->sites[i].site,
			           (long long)(d->sites[i].us + d->sites[k].us));
	}
}

/* The edges share this machine: engines with more threads than cores spend them waiting for each other. */
static long threads_each(const struct dev *d)
{
	long share = sysconf(_SC_NPROCESSORS_ONLN) / (long)(d->count - FIXED);
	return share > 1 ? share : 1;
}

static int write_config(const struct dev *d, const struct dev_node *n, struct error *err)
{
	struct buf out = {0};
	const char *engine = args_value(d->args, "engine");
	buf_printf(&out,
	           "# Written by `mdn dev up`; changes are overwritten.\n"
	           "name: %s\nroles: [%s]\nsite: %s\ncenter: https://127.0.0.1:%d\nnode_listen: 127.0.0.1:%d\n"
	           "drain_deadline: 3s\ndata: ",
	           n->name, n->roles, n->site, d->nodes[0].node_port, n->node_port);
	buf_append_json(&out, str_from(n->data));
	buf_append_str(&out, STR("\n"));
	if (is_edge(n))
		buf_printf(&out,
		           "api_listen: 127.0.0.1:%d\nopen: true\nengine: %s\nslots: 4\ncontext: 2048\nthreads: %ld\n",
		           n->api_port, engine ? engine : "llama", threads_each(d));
	if (strcmp(n->roles, "center") == 0)
		buf_printf(&out, "console_listen: 127.0.0.1:%d\n", d->console_port);
	if (strcmp(n->roles, "repository") == 0)
		buf_printf(&out, "repository_listen: 127.0.0.1:%d\nchunk_size: 1M\n", d->repository_port);
	if (strcmp(n->roles, "scheduler") == 0) {
		buf_printf(&out, "scheduler_listen: 127.0.0.1:%d\ndns_listen: 127.0.0.1:%d\n", d->scheduler_port,
		           d->dns_port);
		format_distances(d, &out);
	}
	int rc = file_write(n->config_path, 0640, buf_str(&out), err);
	buf_fini(&out);
	return rc;
}

/* ---- processes ------------------------------------------------------------------------------------------ */

static struct process *process_of(struct dev *d, const struct dev_node *n)
{
	return &d->processes[n - d->nodes];
}

static int start_node(struct dev *d, struct dev_node *n, struct error *err)
{
	char log_path[4200];
	char *argv[] = {"mdn", "serve", "--config", n->config_path, NULL};
	snprintf(log_path, sizeof log_path, "%s/logs/%s.log", d->folder, n->name);
	n->died_us = 0;
	return process_start(process_of(d, n), argv, log_path, err);
}

static int check_alive(struct dev *d, struct error *err)
{
	for (size_t i = 0; i < d->count; i++) {
		struct process *p = &d->processes[i];
		if (!p->log_path || process_runs(p))
			continue;
		fprintf(stderr, "The last words of %s (%s):\n", d->nodes[i].name, p->log_path);
		process_log_tail(p, 8);
		return error_set(err, E_INTERNAL, "%s stopped while it was starting; its log is %s", d->nodes[i].name,
		                 p->log_path);
	}
	return 0;
}

/* Once up, a child that dies is started again after a pause, so that its absence can be seen. What is said of it takes
 * the place of the table, which comes below again. */
static void revive(struct dev *d, int *lines)
{
	for (size_t i = 0; i < d->count; i++) {
		struct dev_node *n = &d->nodes[i];
		if (process_runs(&d->processes[i]))
			continue;
		if (!n->died_us) {
			n->died_us = clock_mono_us();
			redraw(stdout, "", 0, lines);
			say(d, "%s died; it is started again in %d s", n->name, (int)(RESTART_US / US_PER_S));
		} else if (clock_mono_us() - n->died_us > RESTART_US && start_node(d, n, NULL) == 0) {
			redraw(stdout, "", 0, lines);
			say(d, "%s is started again", n->name);
		}
	}
}

static bool center_answers(struct dev *d, struct error *err)
{
	return client_json(d->client, "GET", "/mdn/v1/nodes", STR(""), NULL, err) == 0;
}

static int start_center(struct dev *d, struct error *err)
{
	struct dev_node *n = &d->nodes[0];
	char url[128], *identity = file_join(str_from(n->data), "identity/cert.pem");
	struct error why = {0};
	int rc = 0;
	snprintf(url, sizeof url, "https://127.0.0.1:%d", n->node_port);
	if (!file_exists(identity)) {
		rc = center_init(str_from(n->data), STR("mdn.local"), str_from(url), str_from(n->name),
		                 str_from(n->site), ROLE_CENTER, str_from(d->operator_dir), err);
		if (rc == 0)
			say(d, "mdn init: a new network with its own certificate authority in %s", n->data);
	}
	free(identity);
	/* The client first: from then on a signal is a request to stop all children. */
	if (rc || (rc = client_open(d->operator_dir, &d->client, err)) || (rc = start_node(d, n, err)))
		return rc;
	client_set_center(d->client, url);
	for (int64_t until = clock_mono_us() + START_LIMIT_US; !center_answers(d, &why);) {
		if ((rc = check_alive(d, err)) || (rc = client_sleep(d->client, 50 * US_PER_MS, err)))
			return rc;
		if (clock_mono_us() > until)
			return error_set(err, E_TIMEOUT, "the center does not answer: %s", why.text);
	}
	say(d, "center      up at %s", url);
	return 0;
}

static int join_node(struct dev *d, struct dev_node *n, struct error *err)
{
	char *identity = file_join(str_from(n->data), "identity/cert.pem");
	bool joined = file_exists(identity);
	yyjson_doc *doc = NULL;
	struct str token = {0};
	uint32_t roles = 0;
	int rc = 0;
	free(identity);
	if (!joined) {
		rc = client_json(d->client, "POST", "/mdn/v1/tokens", STR("{}"), &doc, err);
		if (rc == 0)
			rc = json_str(yyjson_doc_get_root(doc), "token", &token, err);
		if (rc == 0)
			rc = node_roles_parse(str_from(n->roles), &roles, err);
		if (rc == 0)
			rc = member_join(str_from(client_center_url(d->client)), token, str_from(n->data),
			                 str_from(n->name), str_from(n->site), roles, err);
		yyjson_doc_free(doc);
	}
	if (rc)
		return error_prefix(err, "%s: ", n->name);
	rc = start_node(d, n, err);
	if (rc == 0)
		say(d, "%-11s %s, site %s", n->name, joined ? "started again" : "joined by token", n->site);
	return rc;
}

static bool all_ready(yyjson_val *root, const struct dev *d)
{
	yyjson_val *node;
	size_t i, max, ready = 0;
	yyjson_arr_foreach(yyjson_obj_get(root, "nodes"), i, max, node)
	{
		bool up = str_equal(answer_text(node, "health"), STR("up"));
		ready += up && str_equal(answer_text(node, "state"), STR("ready"));
	}
	return ready >= d->count;
}

static int wait_for_nodes(struct dev *d, struct error *err)
{
	for (int64_t until = clock_mono_us() + START_LIMIT_US;;) {
		yyjson_doc *doc = NULL;
		int rc = client_json(d->client, "GET", "/mdn/v1/nodes", STR(""), &doc, err);
		bool done = rc == 0 && all_ready(yyjson_doc_get_root(doc), d);
		yyjson_doc_free(doc);
		if (rc || done)
			return rc;
		if ((rc = check_alive(d, err)) || (rc = client_sleep(d->client, 100 * US_PER_MS, err)))
			return rc;
		if (clock_mono_us() > until)
			return error_set(err, E_TIMEOUT, "not all nodes came up in %d s: see %s/logs",
			                 (int)(START_LIMIT_US / US_PER_S), d->folder);
	}
}

/* ---- the model -------------------------------------------------------------------------------------------- */

/* "SmolLM2-135M-Instruct.Q4_1.gguf" is called smollm2 unless --name says otherwise. */
static int name_model(struct dev *d, const char *file, struct error *err)
{
	const char *given = args_value(d->args, "name"), *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file;
	char name[NODE_TEXT_SIZE];
	size_t len = 0;
	for (; base[len] && base[len] != '-' && base[len] != '.' && len + 1 < sizeof name; len++)
		name[len] = (char)(base[len] >= 'A' && base[len] <= 'Z' ? base[len] + 32 : base[len]);
	name[len] = 0;
	int rc = name_tag_split(given ? given : name, d->name, sizeof d->name, d->tag, sizeof d->tag, err);
	snprintf(d->model, sizeof d->model, "%s:%s", d->name, d->tag);
	return rc;
}

static int push_and_place(struct dev *d, const char *file, struct error *err)
{
	struct repository_at at;
	struct digest manifest;
	size_t nodes;
	struct push_options o = {.file = file, .name = d->name, .tag = d->tag};
	say(d, "mdn push %s %s", file, d->model);
	int rc = repository_find(d->client, NULL, &at, err);
	if (rc == 0)
		rc = push_model(d->client, &at, &o, &manifest, err);
	if (rc)
		return rc;
	/* The center hears of the new version from the repository's feed, in a moment. */
	say(d, "mdn place %s --on role=edge", d->model);
	for (int64_t until = clock_mono_us() + START_LIMIT_US;;) {
		rc = place_model(d->client, d->model, "role=edge", false, &nodes, err);
		if (rc != E_NOTFOUND || clock_mono_us() > until || client_sleep(d->client, 100 * US_PER_MS, NULL))
			break;
	}
	return rc;
}

/* The network may remember nodes of an earlier run that had more of them. */
static bool is_ours(const struct dev *d, struct str name)
{
	for (size_t i = 0; i < d->count; i++)
		if (str_equal(name, str_from(d->nodes[i].name)))
			return true;
	return false;
}

/* A line a node; *ret_left: how many are not ready. A failed one ends it. */
static int show_nodes(const struct dev *d, yyjson_val *root, FILE *out, size_t *ret_left, struct error *err)
{
	yyjson_val *node;
	size_t i, max, seen = 0, ready = 0;
	yyjson_arr_foreach(yyjson_obj_get(root, "nodes"), i, max, node)
	{
		char bar[15], have[16], rate_text[16], left[16] = "";
		struct str name = answer_text(node, "name"), site = answer_text(node, "site"),
			   state = answer_text(node, "state");
		int64_t bytes = answer_number(node, "have_bytes"), total = answer_number(node, "total_bytes");
		double rate = answer_rate(node, "fetch_rate");
		if (!is_ours(d, name))
			continue;
		format_bar(total ? (double)bytes / (double)total : 0, bar, sizeof bar);
		format_bytes((uint64_t)bytes, have);
		format_bytes((uint64_t)rate, rate_text);
		if (rate > 0)
			format_duration((int64_t)((double)(total - bytes) / rate * (double)US_PER_S), left);
		/* 80 columns at most: what is there, or how fast the rest comes */
		fprintf(out, "         %-8.*s %-6.*s %s %3d%%  %-8.*s  ", STR_ARG(name), STR_ARG(site), bar,
		        total ? (int)(bytes * 100 / total) : 0, STR_ARG(state));
		if (rate > 0 && bytes < total)
			fprintf(out, "%s/s, %s left\n", rate_text, left);
		else
			fprintf(out, "%s\n", have);
		seen++;
		ready += str_equal(state, STR("ready"));
		struct str words = answer_text(node, "error");
		if (str_equal(state, STR("failed")))
			return error_set(err, E_INTERNAL, STR_FMT " cannot serve %s: " STR_FMT, STR_ARG(name), d->model,
			                 STR_ARG(words));
	}
	*ret_left = seen == 0 ? 1 : seen - ready;
	return 0;
}

static int watch_distribution(struct dev *d, struct error *err)
{
	struct buf path = {0};
	bool terminal = isatty(STDOUT_FILENO);
	int lines = 0, rc;
	size_t left = 1;
	buf_printf(&path, "/mdn/v1/models/%s", d->model);
	buf_append(&path, "", 1);
	for (int64_t until = clock_mono_us() + LOAD_LIMIT_US; left > 0;) {
		yyjson_doc *doc = NULL;
		char *text = NULL;
		size_t len = 0;
		rc = client_json(d->client, "GET", path.base, STR(""), &doc, err);
		FILE *out = open_memstream(&text, &len);
		if (rc == 0)
			rc = show_nodes(d, yyjson_doc_get_root(doc), out, &left, err);
		fclose(out);
		if (terminal || left == 0 || rc)
			redraw(stdout, text, len, &lines);
		free(text);
		yyjson_doc_free(doc);
		if (rc || (rc = check_alive(d, err)))
			break;
		if (left && (rc = client_sleep(d->client, 150 * US_PER_MS, err)))
			break;
		if (clock_mono_us() > until) {
			rc = error_set(err, E_TIMEOUT, "the model is not ready everywhere after %d s: see %s/logs",
			               (int)(LOAD_LIMIT_US / US_PER_S), d->folder);
			break;
		}
	}
	buf_fini(&path);
	return rc;
}

/* ---- the first question ------------------------------------------------------------------------------------ */

static int first_question(struct dev *d, struct error *err)
{
	char scheduler[64];
	const double surest = 0; /* a small model is at its best so, and says the same each time */
	const char *question = args_value(d->args, "question");
	struct chat_route route;
	struct chat chat = {.model = d->model, .api_url = route.api_urls[0], .max_tokens = 96, .temperature = &surest};
	struct chat_result r = {0};
	int rc = client_open_plain(&d->plain, err);
	if (rc)
		return rc;
	snprintf(scheduler, sizeof scheduler, "http://127.0.0.1:%d", d->scheduler_port);
	for (int64_t until = clock_mono_us() + START_LIMIT_US;;) {
		rc = chat_route(d->plain, scheduler, d->model, &route, err);
		if (rc == 0 || rc == E_CANCELED || clock_mono_us() > until)
			break;
		if (client_sleep(d->client, 100 * US_PER_MS, NULL))
			break;
	}
	if (rc)
		return rc;
	say(d, "the scheduler says: ask %s", chat.api_url);
	printf("\n  > %s\n\n  ", question ? question : QUESTION);
	fflush(stdout);
	chat_say(&chat, "user", str_from(question ? question : QUESTION));
	rc = chat_ask(d->plain, &chat, stdout, &r, err);
	printf("\n\n");
	if (rc == 0) {
		double seconds = (double)(r.total_us - r.ttft_us) / (double)US_PER_S;
		say(d, "answered by %s on site %s: first token after %.0f ms, %d tokens, %.0f tokens/s", r.node, r.site,
		    (double)r.ttft_us / 1000, r.completion_tokens,
		    seconds > 0 ? (r.completion_tokens - 1) / seconds : 0.0);
	}
	buf_fini(&r.text);
	chat_fini(&chat);
	return rc;
}

/* ---- up ------------------------------------------------------------------------------------------------------ */

static const char *distance_text(struct str site)
{
	static char text[32];
	snprintf(text, sizeof text, "%.0f ms", (double)site_latency(shown, site) / 1000);
	return text;
}

static void print_hints(const struct dev *d)
{
	int api = d->nodes[FIXED].api_port;
	printf("Try it (any edge answers; distances are simulated):\n\n"
	       "  curl http://127.0.0.1:%d/v1/chat/completions -H 'content-type: application/json' \\\n"
	       "       -d '{\"model\": \"%s\", \"temperature\": 0, \"messages\": [{\"role\": \"user\", \"content\": "
	       "\"Hello!\"}]}'\n\n"
	       "  from openai import OpenAI\n"
	       "  client = OpenAI(base_url=\"http://127.0.0.1:%d/v1\", api_key=\"any\")\n"
	       "  stream = client.chat.completions.create(model=\"%s\", stream=True, temperature=0,\n"
	       "      messages=[{\"role\": \"user\", \"content\": \"Hello!\"}])\n"
	       "  for event in stream: print(event.choices[0].delta.content or \"\", end=\"\", flush=True)\n\n"
	       "  %s chat %s 'Why is the sky blue?' --temperature 0 --stats\n\n"
	       "Why that node?  curl 'http://127.0.0.1:%d/v1/route?model=%s'\n"
	       "Run the network: MDN_OPERATOR=%s %s nodes\n"
	       "See models move: MDN_OPERATOR=%s %s console\n"
	       "Logs: %s/logs. Ctrl-C ends everything.\n\n",
	       api, d->model, api, d->model, program_invocation_name, d->model, d->scheduler_port, d->model,
	       d->operator_dir, program_invocation_name, d->operator_dir, program_invocation_name, d->folder);
	if (d->scheduler_port != 8090)
		printf("(mdn chat: add --scheduler http://127.0.0.1:%d)\n\n", d->scheduler_port);
}

/* Until Ctrl-C. On a terminal the table lives; else it is printed once. */
static int stay(struct dev *d, struct error *err)
{
	bool terminal = isatty(STDOUT_FILENO), printed = false;
	int lines = 0, rc = 0;
	shown = d;
	while (rc == 0) {
		yyjson_doc *doc = NULL;
		revive(d, &lines);
		if (client_json(d->client, "GET", "/mdn/v1/nodes", STR(""), &doc, err) == 0 && (terminal || !printed)) {
			char *text = NULL;
			size_t len = 0;
			FILE *out = open_memstream(&text, &len);
			node_table_print(yyjson_doc_get_root(doc), distance_text, out);
			fclose(out);
			redraw(stdout, text, len, &lines);
			free(text);
			printed = true;
		}
		yyjson_doc_free(doc);
		rc = client_sleep(d->client, US_PER_S, err);
	}
	return rc;
}

static int up(struct dev *d, const char *file, struct error *err)
{
	int rc = check_ports(d, err);
	for (size_t i = 0; i < d->count && rc == 0; i++)
		rc = write_config(d, &d->nodes[i], err);
	if (rc == 0)
		rc = start_center(d, err);
	for (size_t i = 1; i < d->count && rc == 0; i++)
		rc = join_node(d, &d->nodes[i], err);
	if (rc == 0)
		rc = wait_for_nodes(d, err);
	if (rc == 0)
		say(d, "%zu nodes are up, mutual TLS between all", d->count);
	if (rc == 0)
		rc = push_and_place(d, file, err);
	if (rc == 0)
		rc = watch_distribution(d, err);
	if (rc == 0)
		say(d, "%s is ready on %zu edges", d->model, d->count - FIXED);
	if (rc)
		return rc;
	rc = first_question(d, err);
	if (rc == E_INVAL && !args_has(d->args, "once")) { /* a model that is not made for chat: no reason to go down */
		say(d, "no first answer: %s", err->text);
		rc = 0;
	}
	if (rc || args_has(d->args, "once"))
		return rc;
	print_hints(d);
	return stay(d, err);
}

static int prepare(struct dev *d, struct error *err)
{
	char path[4096];
	const char *data = args_value(d->args, "state");
	snprintf(d->folder, sizeof d->folder, "%s", data ? data : "mdn-dev");
	snprintf(d->operator_dir, sizeof d->operator_dir, "%s/operator", d->folder);
	snprintf(path, sizeof path, "%s/logs", d->folder);
	int rc = folder_make(path, 0750, err);
	if (rc)
		return rc;
	snprintf(path, sizeof path, "%s/lock", d->folder);
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->lock_fd < 0)
		return error_errno(err, errno, "cannot write %s", path);
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB))
		return error_set(err, E_CONFLICT,
		                 "another `mdn dev up` runs in %s; stop it, or use another folder with --state",
		                 d->folder);
	return parse_latencies(d, err);
}

static int number_option(const struct args *args, const char *option, uint64_t fallback, uint64_t least, uint64_t most,
                         uint64_t *ret_value)
{
	const char *text = args_value(args, option);
	*ret_value = fallback;
	if (text && (str_to_u64(str_from(text), ret_value) || *ret_value < least || *ret_value > most))
		return args_usage(args, "--%s %s is not a number of %llu to %llu", option, text,
		                  (unsigned long long)least, (unsigned long long)most);
	return 0;
}

int cmd_dev_up(const struct args *args)
{
	struct dev *d = NEW(struct dev);
	struct error err = {0};
	uint64_t edges, ports;
	const char *file = args_value(args, "model");
	d->args = args;
	d->lock_fd = -1;
	d->started_us = clock_mono_us();
	int rc = 0, exit_code = number_option(args, "edges", 3, 1, EDGES_MAX, &edges);
	if (!exit_code)
		exit_code = number_option(args, "ports", 0, 1024, 65000, &ports);
	if (!exit_code && !file)
		exit_code =
		    args_usage(args, "name a GGUF file with --model; `make run` fetches a small one and does so");
	if (!exit_code) {
		d->first_port = (int)ports;
		rc = access(file, R_OK) ? error_errno(&err, errno, "cannot read the model %s", file) : 0;
		if (rc == 0)
			rc = prepare(d, &err);
		if (rc == 0)
			rc = name_model(d, file, &err);
		if (rc == 0) {
			plan_nodes(d, (unsigned)edges);
			rc = up(d, file, &err);
		}
		if (d->count && d->processes[0].log_path)
			say(d, "stopping everything that was started");
		process_stop_all(d->processes, d->count, STOP_MS);
		exit_code = rc == E_CANCELED ? EXIT_DONE : rc ? args_fail(args, &err) : EXIT_DONE;
	}
	for (size_t i = 0; i < d->count; i++)
		process_fini(&d->processes[i]);
	client_close(d->client);
	client_close(d->plain);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d);
	return exit_code;
}
