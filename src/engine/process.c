/* SPDX-License-Identifier: Apache-2.0 */
/* process.c - the node's side of an engine in a process of its own (process_child.c is the other).
 *
 * The process is not trusted: it parses files of strangers and runs a large library on them. What it sends is decoded
 * within bounds and checked against what an engine may do (one start, then text, no more than a context has, then one
 * end; counts that only grow; a vector for each input); nonsense or silence for SILENT_S seconds ends it. Ids of
 * requests are an index into a table and a generation, so an event finds its request in one step, and one of a request
 * that is gone finds nothing.
 *
 * When it dies, the engine is FAILED with words, its requests end with E_UNAVAILABLE (a gateway then asks another node,
 * if no token has left), and after a while it is started again: RETRY_LEAST_US, doubled up to RETRY_MOST_US until it
 * has lived for LIVED_US. One that dies LOADS_MAX times before it is ready stays FAILED.
 */
#include "engine/process.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "engine/engine_ops.h"
#include "engine/process_pipe.h"
#include "net/child.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RETRY_LEAST_US (500 * US_PER_MS)
#define RETRY_MOST_US (30 * US_PER_S)
#define LIVED_US (60 * US_PER_S)
#define LOADS_MAX 4
#define SILENT_S 30
#define END_US (5 * US_PER_S)
#define END_WAIT_MS 150
#define WAITING_BYTES_MAX (256u << 20)
#define LINES_MAX 100 /* of its stderr that one process may put into our log */
#define ANSWER_BYTES_LEAST (1u << 20)
#define TOKEN_BYTES_MOST 4096 /* of a frame: a piece of text and 20 alternatives */
#define MEMORY_KEPT (1u << 20)

enum { INDEX_BITS = 16, REQUESTS_MAX = 4096, ENV_MAX = 256 };

struct process_request {
	struct engine_request base;
	uint64_t id, submits; /* submits: how many there were with this one */
	size_t bytes;
	enum engine_task task;
	size_t input_count;
	uint64_t told_bytes;
	int32_t prompt_tokens, cached_tokens;
};

/* One life of the process. It outlives an engine that was freed until it has ended. */
struct process_run {
	struct process_engine *engine; /* NULL: freed */
	struct child *child;
	struct pipe_end *pipe;
	struct loop_timer *timer; /* engine: watches; freed: its patience ends */
	int silent_s, lines;
	bool exited, pipe_ended;
	char blame[96]; /* why we ended it */
	int64_t status;
	int signal;
	char words[CHILD_ERRORS_MAX + 1];
};

struct process_engine {
	struct engine base;
	struct engine_options options; /* texts in copy */
	struct buf copy;               /* the frame they are in */
	struct wire_memory copy_memory, memory;
	char *name;
	struct process_run *run;
	struct loop_timer *retry;
	struct buf held; /* frames for a process that is about to start */
	struct wire_load load;
	uint64_t submits, generation;
	int64_t ready_us, retry_us;
	int lost_loads;
	struct process_request *table[REQUESTS_MAX];
	size_t table_next;
};

static bool hook_called;

int engine_process_hook(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], ENGINE_PROCESS) == 0)
		return engine_process_main();
	hook_called = true;
	return -1;
}

bool engine_process_possible(void)
{
	return hook_called;
}

static struct process_engine *engine_of(const struct engine_request *request)
{
	return (struct process_engine *)request->engine;
}

/* ---- requests going in ------------------------------------------------------------------------- */

static struct buf *out_of(struct process_engine *e)
{
	return e->run && e->run->pipe ? pipe_end_out(e->run->pipe) : &e->held;
}

static void sent(struct process_engine *e)
{
	if (e->run && e->run->pipe)
		pipe_end_wrote(e->run->pipe);
}

static struct process_request **table_free_place(struct process_engine *e)
{
	for (size_t i = 0; i < REQUESTS_MAX; i++) {
		size_t at = (e->table_next + i) % REQUESTS_MAX;
		if (!e->table[at]) {
			e->table_next = at + 1;
			return &e->table[at];
		}
	}
	return NULL;
}

static struct process_request **table_at(struct process_engine *e, uint64_t id)
{
	size_t index = id & ((1 << INDEX_BITS) - 1);

	return index < REQUESTS_MAX && e->table[index] && e->table[index]->id == id ? &e->table[index] : NULL;
}

static int process_submit(struct engine *engine, const struct engine_params *params, struct engine_request *request,
                          struct error *err)
{
	struct process_engine *e = (struct process_engine *)engine;
	struct process_request *r = (struct process_request *)request, **place = table_free_place(e);
	struct buf *out = out_of(e);
	size_t before = out->len;

	int rc = engine->state == ENGINE_READY ? engine_task_check(&engine->info, params, err) : 0;
	if (rc < 0)
		return rc;
	if (!place || before > WAITING_BYTES_MAX)
		return error_set(err, E_BUSY, "too many requests wait for this model already; try again soon");
	r->id = ++e->generation << INDEX_BITS | (uint64_t)(place - e->table);
	if (!wire_put_params(out, r->id, params))
		return error_set(err, E_LIMIT, "the request is larger than %u MiB: shorten it", WIRE_FRAME_MAX >> 20);
	r->bytes = params->prompt.len + params->messages_json.len;
	r->task = params->task;
	r->input_count = params->input_count;
	r->submits = ++e->submits;
	*place = r;
	sent(e);
	return 0;
}

static void table_remove(struct process_engine *e, struct process_request *r)
{
	struct process_request **place = table_at(e, r->id);

	if (place)
		*place = NULL;
}

static void process_cancel(struct engine_request *request)
{
	struct process_engine *e = engine_of(request);
	struct process_request *r = (struct process_request *)request;

	wire_put_empty(out_of(e), WIRE_CANCEL, r->id);
	sent(e);
	table_remove(e, r);
	engine_request_free(request);
}

static void process_paused(struct engine_request *request)
{
	struct process_engine *e = engine_of(request);

	wire_put_empty(out_of(e), request->paused ? WIRE_PAUSE : WIRE_CONTINUE,
	               ((struct process_request *)request)->id);
	sent(e);
}

static void process_request_fini(struct engine_request *request)
{
	(void)request;
}

/* All it told but what is counted here. */
static void process_load(const struct engine *engine, struct engine_load *load)
{
	const struct process_engine *e = (const struct process_engine *)engine;
	const struct engine_load own = *load;

	*load = e->load.load;
	load->running = own.running;
	load->waiting = own.waiting;
	load->slots = own.slots;
	load->prompt_tokens_total = own.prompt_tokens_total;
	load->cached_tokens_total = own.cached_tokens_total;
	load->generation_tokens_total = own.generation_tokens_total;
	load->requests_total = own.requests_total;
	load->cancels_total = own.cancels_total;
	load->expiries_total = own.expiries_total;
	/* Newest first, those that are not in its number yet: four bytes a token. */
	for (const struct engine_request *q = engine->requests; q; q = q->next) {
		const struct process_request *r = (const struct process_request *)q;
		if (r->submits <= e->load.submits)
			break;
		load->tokens_to_prefill += (int64_t)(r->bytes / 4);
	}
}

/* ---- events coming out -------------------------------------------------------------------------- */

/* What an engine has to say about a request; a status of our own (E_AUTH, ...) it has not. */
static void error_tame(struct error *err)
{
	static const int known[] = {E_INVAL,    E_NOTFOUND, E_LIMIT,       E_UNSUPPORTED, E_BUSY,   E_CANCELED,
	                            E_INTERNAL, E_CORRUPT,  E_UNAVAILABLE, E_TIMEOUT,     E_NOSPACE};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (err->code == known[i])
			return;
	err->code = E_INTERNAL;
}

static bool nonsense(struct process_engine *e, const char *what)
{
	if (e->run && !e->run->blame[0])
		snprintf(e->run->blame, sizeof(e->run->blame), "said nonsense: %.80s", what);
	return false;
}

/* A gateway that gathers an answer holds all of it: the prompt, if it is echoed, and as much again. */
static uint64_t answer_bytes_max(const struct process_engine *e)
{
	uint64_t context = e->options.context_tokens > 0 ? (uint64_t)e->options.context_tokens : 4096;

	return ANSWER_BYTES_LEAST + 2 * context * TOKEN_BYTES_MOST;
}

/* One for each input, as the gateway counts on it, and numbers, since JSON has nothing else. */
static bool vectors_fit(const struct process_request *r, const struct engine_event *event)
{
	bool ranks = r->task == ENGINE_RERANK, due = ranks || r->task == ENGINE_EMBED;

	due = due && event->kind == ENGINE_DONE && event->finish != FINISH_ERROR;
	if (event->vector_count != (due ? r->input_count : 0))
		return false;
	if (due && (ranks ? event->vector_size != 1 : event->vector_size == 0))
		return false;
	for (size_t i = 0; i < event->vector_count * event->vector_size; i++)
		if (!isfinite(event->vectors[i]))
			return false;
	return true;
}

static bool on_engine_event(struct process_engine *e, uint64_t id, struct str body)
{
	struct process_request **place = table_at(e, id), *r = place ? *place : NULL;
	struct engine_event event;
	struct error told, err;

	if (!r)
		return true; /* canceled meanwhile */
	if (wire_get_event(body, &e->memory, &event, &told, &err))
		return nonsense(e, err.text);
	if (event.kind == ENGINE_STARTED ? r->base.started : event.kind == ENGINE_TEXT && !r->base.started)
		return nonsense(e, "an answer begins twice, or not at all");
	if (event.completion_tokens < r->base.completion_tokens && event.kind != ENGINE_DONE)
		return nonsense(e, "an answer gets shorter");
	if (!vectors_fit(r, &event))
		return nonsense(e, "other vectors than were asked for");
	r->told_bytes += event.kind != ENGINE_DONE ? body.len : 0;
	if (r->told_bytes > answer_bytes_max(e))
		return nonsense(e, "an answer longer than its context");
	r->prompt_tokens = event.prompt_tokens;
	r->cached_tokens = event.cached_tokens;
	if (event.kind != ENGINE_DONE) {
		engine_emit(&r->base, &event);
		return true;
	}
	error_tame(&told);
	if (event.err && event.err->code == 0)
		event.err = NULL;
	/* It keeps the same time as we do, and may be the first to see that a request waits too long. */
	e->base.expiries_total += told.code == E_TIMEOUT && !r->base.started;
	*place = NULL;
	engine_finish_event(&r->base, &event);
	if (e->memory.cap > MEMORY_KEPT)
		wire_memory_fini(&e->memory);
	return true;
}

static void run_finish(struct process_run *run);

static bool on_engine_state(struct process_engine *e, struct str body)
{
	struct wire_state told;
	struct error err;

	if (wire_get_state(body, &told, &err))
		return nonsense(e, err.text);
	if (e->base.state != ENGINE_LOADING || told.state == ENGINE_LOADING)
		return nonsense(e, "it loads twice");
	if (told.state == ENGINE_READY) {
		e->base.info = told.info;
		e->lost_loads = 0;
		e->ready_us = loop_now_us(e->base.loop);
		engine_tell_state(&e->base, ENGINE_READY, NULL);
		return true;
	}
	/* The model cannot be loaded, and the next process could not either. */
	error_tame(&told.err);
	struct process_run *run = e->run;
	e->run = NULL;
	run_finish(run);
	engine_tell_state(&e->base, ENGINE_FAILED, &told.err);
	while (e->base.requests) {
		struct process_request *r = (struct process_request *)e->base.requests;
		table_remove(e, r);
		engine_finish(&r->base, FINISH_ERROR, &told.err, 0, 0, 0);
	}
	return true;
}

static bool on_frame(void *arg, const struct wire_head *head, struct str body)
{
	struct process_run *run = arg;
	struct process_engine *e = run->engine;
	struct error err;

	run->silent_s = 0;
	if (!e)
		return true;
	if (head->kind == WIRE_EVENT)
		return on_engine_event(e, head->request, body);
	if (head->kind == WIRE_STATE)
		return on_engine_state(e, body);
	if (head->kind != WIRE_LOAD)
		return nonsense(e, "an unknown frame");
	return wire_get_load(body, &e->load, &err) ? nonsense(e, err.text) : true;
}

/* ---- its end ---------------------------------------------------------------------------------------- */

static void describe_end(const struct process_run *run, const struct process_engine *e, struct error *err)
{
	struct buf why = {0};

	if (run->blame[0])
		buf_printf(&why, "was ended because it %s", run->blame);
	else if (run->signal)
		buf_printf(&why, "ended by signal %d (%s)%s", run->signal, strsignal(run->signal),
		           run->signal == SIGKILL ? "; by hand, or the machine is out of memory" : "");
	else
		buf_printf(&why, "ended with status %lld", (long long)run->status);
	if (e->base.state == ENGINE_LOADING)
		buf_printf(&why, " while it loaded the model");
	else if (e->base.running + e->base.waiting)
		buf_printf(&why, " while it worked on %d requests", e->base.running + e->base.waiting);
	else
		buf_printf(&why, " while it was idle");
	if (run->words[0])
		buf_printf(&why, ": %.200s", run->words);
	error_set(err, E_UNAVAILABLE, "the engine of %.100s %.*s", e->name, (int)why.len, why.base);
	buf_fini(&why);
}

static void start_again(void *arg);

static void engine_lost(struct process_engine *e, struct error *err)
{
	int64_t now = loop_now_us(e->base.loop);
	bool loading = e->base.state == ENGINE_LOADING;

	buf_fini(&e->held);
	if (!loading && now - e->ready_us > LIVED_US)
		e->retry_us = 0;
	e->retry_us = e->retry_us ? 2 * e->retry_us : RETRY_LEAST_US;
	e->retry_us = e->retry_us < RETRY_MOST_US ? e->retry_us : RETRY_MOST_US;
	e->lost_loads += loading;
	bool hopeless = e->lost_loads >= LOADS_MAX;
	if (hopeless)
		error_prefix(err,
		             "given up after %d attempts to load it; see whether the file is good and memory is free",
		             LOADS_MAX);
	else
		loop_timer_start(e->retry, e->retry_us, 0);
	e->load = (struct wire_load){.submits = e->load.submits};
	engine_tell_state(&e->base, ENGINE_FAILED, err);
	while (e->base.requests) {
		struct process_request *r = (struct process_request *)e->base.requests;
		table_remove(e, r);
		engine_finish(&r->base, FINISH_ERROR, err, r->prompt_tokens, r->cached_tokens,
		              r->base.completion_tokens);
	}
}

static void run_free(struct process_run *run)
{
	pipe_end_free(run->pipe);
	child_free(run->child);
	loop_timer_free(run->timer);
	free(run);
}

/* Both its end and all it has said are known. */
static void run_over(struct process_run *run)
{
	struct process_engine *e = run->engine;
	struct error err;

	if (!run->exited || !run->pipe_ended)
		return;
	if (e) {
		describe_end(run, e, &err);
		e->run = NULL;
	}
	run_free(run);
	if (e)
		engine_lost(e, &err);
}

static void on_pipe_end(void *arg, bool was_nonsense)
{
	struct process_run *run = arg;

	if (was_nonsense && !run->blame[0])
		snprintf(run->blame, sizeof(run->blame), "said nonsense");
	run->pipe_ended = true;
	if (run->exited)
		run_over(run);
	else if (run->engine)
		child_kill(run->child); /* who closes the socket is of no use any more */
}

static void on_exit_told(void *arg, int64_t status, int signum, struct str errors)
{
	struct process_run *run = arg;

	run->exited = true;
	run->status = status;
	run->signal = signum;
	snprintf(run->words, sizeof(run->words), "%.*s", (int)errors.len, errors.base);
	run_over(run);
}

static void on_error_line(void *arg, struct str line)
{
	struct process_run *run = arg;
	char text[512];
	int len = snprintf(text, sizeof(text), "%.*s", (int)(line.len < 500 ? line.len : 500), line.base);

	if (len <= 0 || !run->engine || run->lines > LINES_MAX)
		return;
	str_blank_controls(text, strlen(text));
	if (run->lines++ == LINES_MAX)
		snprintf(text, sizeof(text), "(it says more, which is not logged)");
	log_warn("engine", "the engine of %s says: %s", run->engine->name, text);
}

static void on_watch(void *arg)
{
	struct process_run *run = arg;

	if (!run->engine) { /* it had time to end */
		child_kill(run->child);
		return;
	}
	/* Counted in turns of our own timer, so that a node that was stopped itself blames nobody. */
	if (++run->silent_s < SILENT_S)
		return;
	snprintf(run->blame, sizeof(run->blame), "was silent for %d seconds", SILENT_S);
	child_kill(run->child);
}

/* It may end by itself, and soon must. */
static void run_finish(struct process_run *run)
{
	run->engine = NULL;
	pipe_end_shut(run->pipe);
	loop_timer_stop(run->timer);
	loop_timer_start(run->timer, END_US, 0);
}

/* ---- its beginning ---------------------------------------------------------------------------------- */

static bool env_passes(const char *entry)
{
	/* Nothing of the node's environment (keys, proxies) is its business. */
	static const char *const names[] = {"PATH=", "TZ=",   "LANG=", "LC_",   "LD_LIBRARY_PATH=", "ASAN_", "UBSAN_",
	                                    "LSAN_", "TSAN_", "GGML_", "CUDA_", "NVIDIA_",          "HIP_",  "ROCR_",
	                                    "VK_",   "OMP_",  "GOMP_", "LLAMA_"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strncmp(entry, names[i], strlen(names[i])) == 0)
			return true;
	return false;
}

static size_t kept_descriptors(const struct engine_options *options, int *fds, size_t room)
{
	char **files = engine_process_files(options);
	size_t count = 0;

	for (char **file = files; *file && count < room; file++) {
		int fd = engine_process_file_fd(*file);
		if (fd > 2)
			fds[count++] = fd;
	}
	engine_process_files_free(files);
	return count;
}

static int child_of(struct process_engine *e, struct process_run *run, int socket, struct error *err)
{
	char *argv[] = {"mdn", ENGINE_PROCESS, e->name, NULL}, *env[ENV_MAX + 1];
	int kept[256];
	size_t count = 0;

	for (char **entry = environ; *entry && count < ENV_MAX; entry++)
		if (env_passes(*entry))
			env[count++] = *entry;
	env[count] = NULL;
	struct child_options o = {.file = "/proc/self/exe",
	                          .argv = argv,
	                          .env = env,
	                          .has_stdin = true,
	                          .stdin_fd = socket,
	                          .kept = kept,
	                          .kept_count = kept_descriptors(&e->options, kept, 256),
	                          .on_error_line = on_error_line,
	                          .on_exit = on_exit_told,
	                          .arg = run};
	return child_start(e->base.loop, &o, &run->child, err);
}

static int run_start(struct process_engine *e, struct error *err)
{
	struct process_run *run = NEW(struct process_run);
	struct pipe_options pipe = {.on_frame = on_frame, .on_end = on_pipe_end, .arg = run};
	int ends[2];

	run->engine = e;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
		int rc = error_errno(err, errno, "cannot make a socket for the engine of %s", e->name);
		free(run);
		return rc;
	}
	int rc = child_of(e, run, ends[1], err);
	close(ends[1]);
	if (rc) {
		close(ends[0]);
		free(run);
		return rc;
	}
	run->pipe = pipe_end_new(e->base.loop, ends[0], &pipe);
	run->timer = loop_timer_new(e->base.loop, on_watch, run);
	loop_timer_start(run->timer, US_PER_S, US_PER_S);
	e->run = run;
	wire_put_options(pipe_end_out(run->pipe), &e->options);
	buf_append(pipe_end_out(run->pipe), e->held.base, e->held.len);
	buf_fini(&e->held);
	pipe_end_wrote(run->pipe);
	log_info("engine", "the engine of %s is process %d", e->name, child_pid(run->child));
	return 0;
}

static void start_again(void *arg)
{
	struct process_engine *e = arg;
	struct error err;

	if (e->base.state != ENGINE_LOADING)
		engine_tell_state(&e->base, ENGINE_LOADING, NULL);
	if (run_start(e, &err))
		engine_lost(e, &err);
}

int engine_process_new(const struct engine_options *options, struct engine **ret_engine, struct error *err)
{
	struct wire_head head;
	struct str body = {0};

	if (!options->model_path.len)
		return error_set(err, E_INVAL, "the llama engine needs a model file");
	struct process_engine *e = NEW(struct process_engine);
	wire_put_options(&e->copy, options);
	if (wire_take(buf_str(&e->copy), &head, &body) <= 0 ||
	    wire_get_options(body, &e->copy_memory, &e->options, err)) {
		buf_fini(&e->copy);
		wire_memory_fini(&e->copy_memory);
		free(e);
		return error_prefix(err, "the options of an engine are too long");
	}
	e->base.ops = &engine_process_ops;
	e->base.info.slots = options->slots > 0 ? options->slots : 8;
	e->name = str_dup(options->model_name.len ? options->model_name : options->model_path);
	*ret_engine = &e->base;
	return 0;
}

void engine_process_start(struct engine *engine, const struct engine_options *options)
{
	struct process_engine *e = (struct process_engine *)engine;

	(void)options;
	e->retry = loop_timer_new(engine->loop, start_again, e);
	loop_timer_start(e->retry, 0, 0);
}

/* A moment is spent here, so that its memory is free when the next engine asks for it. */
static void run_wait(const struct process_run *run)
{
	siginfo_t info;

	for (int i = 0; i < END_WAIT_MS && child_pid(run->child); i++) {
		info.si_pid = 0;
		if (waitid(P_PID, (id_t)child_pid(run->child), &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid)
			return;
		usleep(1000);
	}
}

static void process_free(struct engine *engine)
{
	struct process_engine *e = (struct process_engine *)engine;

	if (e->run) {
		run_finish(e->run);
		run_wait(e->run);
	}
	loop_timer_free(e->retry);
	buf_fini(&e->held);
	buf_fini(&e->copy);
	wire_memory_fini(&e->copy_memory);
	wire_memory_fini(&e->memory);
	free(e->name);
	free(e);
}

const struct engine_ops engine_process_ops = {
    .submit = process_submit,
    .cancel = process_cancel,
    .paused = process_paused,
    .load = process_load,
    .request_fini = process_request_fini,
    .free = process_free,
    .request_size = sizeof(struct process_request),
    .resumes = true,
};
