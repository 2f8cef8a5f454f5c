/* SPDX-License-Identifier: Apache-2.0 */
/* process_child.c - the process of one engine: the llama engine as it is, with a socket in place of a caller.
 *
 * The options come first; then it locks itself up, and only then opens the model. Events leave as they come, at the end
 * of each turn of the loop. When the node reads slowly, every request is paused until it has caught up. The load is
 * told with events, at least every LOAD_BUSY_US while there is work; that it is told at all says that the process
 * lives. It ends when the socket does. Signals that ask a node to stop are not for it: running streams go on until the
 * node has drained.
 */
#include "base/clock.h"
#include "base/log.h"
#include "engine/llama_disk.h"
#include "engine/process.h"
#include "engine/process_pipe.h"
#include "engine/process_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define LOAD_EVENT_US (20 * US_PER_MS)
#define LOAD_BUSY_US (100 * US_PER_MS)
#define LOAD_IDLE_US US_PER_S
#define BEHIND_BYTES (4 << 20)
#define OOM_SCORE "500"

enum { JOBS_MAX = 1 << 16 };

struct job {
	struct server *server;
	uint64_t id;
	struct engine_request *request;
	bool paused; /* by the node */
};

struct server {
	struct loop *loop;
	struct engine *engine;
	struct pipe_end *pipe;
	struct wire_memory memory;
	struct loop_timer *load_timer;
	int64_t load_told_us;
	uint64_t submits;
	size_t jobs_live;
	bool behind;
	struct job *jobs[JOBS_MAX]; /* by the low bits of their ids, which the node chooses so */
};

static struct job **job_at(struct server *s, uint64_t id)
{
	return &s->jobs[id % JOBS_MAX];
}

static void job_free(struct job *job)
{
	*job_at(job->server, job->id) = NULL;
	job->server->jobs_live--;
	free(job);
}

static void tell_load(struct server *s)
{
	struct wire_load load = {engine_load(s->engine), s->submits};

	s->load_told_us = loop_now_us(s->loop);
	wire_put_load(pipe_end_out(s->pipe), &load);
	pipe_end_wrote(s->pipe);
}

static void on_load_timer(void *arg)
{
	struct server *s = arg;

	tell_load(s);
	bool busy = s->jobs_live || engine_state(s->engine) == ENGINE_LOADING;
	loop_timer_start(s->load_timer, busy ? LOAD_BUSY_US : LOAD_IDLE_US, 0);
}

static void on_state(void *arg, enum engine_state state, const struct error *err)
{
	struct server *s = arg;
	struct wire_state told = {.state = state};

	if (state == ENGINE_READY)
		told.info = *engine_info(s->engine);
	if (err)
		told.err = *err;
	wire_put_state(pipe_end_out(s->pipe), &told);
	pipe_end_wrote(s->pipe);
}

/* ---- requests ------------------------------------------------------------------------------------- */

static void jobs_hold(struct server *s, bool hold)
{
	s->behind = hold;
	for (size_t i = 0; i < JOBS_MAX && s->jobs_live; i++) {
		struct job *job = s->jobs[i];
		if (job && hold)
			engine_pause(job->request);
		else if (job && !job->paused)
			engine_continue(job->request);
	}
}

static void on_flushed(void *arg)
{
	struct server *s = arg;

	if (s->behind)
		jobs_hold(s, false);
}

static void tell_failure(struct server *s, uint64_t id, const struct error *err)
{
	struct engine_event event = {.kind = ENGINE_DONE, .finish = FINISH_ERROR, .err = err};

	wire_put_event(pipe_end_out(s->pipe), id, &event);
	pipe_end_wrote(s->pipe);
}

static void on_event(void *arg, const struct engine_event *event)
{
	struct job *job = arg;
	struct server *s = job->server;
	bool done = event->kind == ENGINE_DONE;

	if (!wire_put_event(pipe_end_out(s->pipe), job->id, event)) {
		struct error err;
		error_set(&err, E_LIMIT, "the answer is larger than %u bytes: ask for less at once", WIRE_FRAME_MAX);
		if (!done)
			engine_cancel(job->request);
		tell_failure(s, job->id, &err);
		done = true;
	}
	pipe_end_wrote(s->pipe);
	if (done)
		job_free(job);
	if (loop_now_us(s->loop) - s->load_told_us >= LOAD_EVENT_US)
		tell_load(s);
	if (!s->behind && pipe_end_out(s->pipe)->len > BEHIND_BYTES)
		jobs_hold(s, true);
}

static bool submit(struct server *s, uint64_t id, struct str body)
{
	struct engine_params params;
	struct error err = {0};
	struct job *job;

	s->submits++;
	if (!s->engine)
		return true; /* it could not be made, which the node is being told */
	if (*job_at(s, id) || wire_get_params(body, &s->memory, &params, &err))
		return false;
	job = NEW(struct job);
	*job = (struct job){.server = s, .id = id};
	if (engine_submit(s->engine, &params, on_event, job, &job->request, &err)) {
		free(job);
		tell_failure(s, id, &err);
		return true;
	}
	*job_at(s, id) = job;
	if (!s->jobs_live++)
		loop_timer_start(s->load_timer, LOAD_BUSY_US, 0);
	if (s->behind)
		engine_pause(job->request);
	return true;
}

static bool on_frame(void *arg, const struct wire_head *head, struct str body)
{
	struct server *s = arg;
	struct job *job = *job_at(s, head->request);

	if (head->kind == WIRE_SUBMIT)
		return submit(s, head->request, body);
	if (!job || job->id != head->request)
		return true; /* its end is on its way */
	if (head->kind == WIRE_CANCEL) {
		engine_cancel(job->request);
		job_free(job);
		return true;
	}
	job->paused = head->kind == WIRE_PAUSE;
	if (job->paused || s->behind)
		engine_pause(job->request);
	else
		engine_continue(job->request);
	return head->kind == WIRE_PAUSE || head->kind == WIRE_CONTINUE;
}

/* ---- life ------------------------------------------------------------------------------------------- */

/* Nothing is told any more, but caches are written. No exit handlers: other threads may still use what they free. */
static void on_end(void *arg, bool nonsense)
{
	struct server *s = arg;

	(void)nonsense;
	engine_free(s->engine);
	_exit(0);
}

static _Noreturn void serve(int fd, const struct engine_options *options)
{
	static struct server server;
	struct pipe_options pipe = {on_frame, on_end, on_flushed, &server};
	struct error err = {0};

	loop_new(&server.loop);
	server.pipe = pipe_end_new(server.loop, fd, &pipe);
	if (engine_new(server.loop, options, on_state, &server, &server.engine, &err)) {
		on_state(&server, ENGINE_FAILED, &err);
	} else {
		server.load_timer = loop_timer_new(server.loop, on_load_timer, &server);
		loop_timer_start(server.load_timer, LOAD_BUSY_US, 0);
	}
	loop_run(server.loop);
	_exit(1);
}

static bool read_all(int fd, char *to, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t got = read(fd, to + at, len - at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		at += (size_t)got;
	}
	return true;
}

/* Lives as long as the process. */
static int read_options(int fd, struct engine_options *ret_options, struct error *err)
{
	static struct wire_memory memory;
	struct wire_head head;
	char *body;

	if (!read_all(fd, (char *)&head, sizeof(head)) || head.kind != WIRE_OPTIONS || head.size > WIRE_FRAME_MAX)
		return error_set(err, E_PEER, "no options came");
	body = mem_new(head.size + 1);
	if (!read_all(fd, body, head.size))
		return error_set(err, E_PEER, "the options were cut off");
	int rc = wire_get_options((struct str){body, head.size}, &memory, ret_options, err);
	ret_options->in_process = true;
	return rc;
}

static void first_to_go(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, OOM_SCORE, sizeof(OOM_SCORE) - 1) < 0) /* a container may forbid it: then it is as the node */
		log_debug("engine", "oom_score_adj cannot be set");
	close(fd);
}

static void close_others(char **files, int socket)
{
	for (int fd = 3; fd < 65536; fd++) {
		bool needed = fd == socket;
		for (char **file = files; *file && !needed; file++)
			needed = engine_process_file_fd(*file) == fd;
		if (!needed && close(fd) && fd > 1024)
			break;
	}
}

/* Where it may write: its own folder of the cache, not that of all models, whose files hold other models' prompts, and
 * KV that their engines trust. NULL: nowhere. */
static char *cache_folder(const struct engine_options *options)
{
	struct error err;
	char *all, *model, *own;

	if (!options->cache_folder.len || !options->cache_disk_bytes)
		return NULL;
	all = str_dup(options->cache_folder);
	model = str_dup(options->model_name);
	own = disk_folder(all, model);
	if (disk_folders_make(all, model, &err) < 0)
		log_warn("engine", "no prefix cache on disk: %s", err.text);
	free(all);
	free(model);
	return own;
}

static int lock_up(const struct engine_options *options, int socket, struct error *err)
{
	char **files = engine_process_files(options), missing[512], user[256];
	struct sandbox sandbox = {.lock_memory = options->mlock, .user = user};

	close_others(files, socket);
	for (char **file = files; *file && sandbox.read_count < SANDBOX_PATHS_MAX; file++)
		sandbox.reads[sandbox.read_count++] = *file;
	char *folder = cache_folder(options);
	sandbox.folder = folder;
	str_copy(options->user, user, sizeof(user));
	first_to_go();
	int rc = sandbox_enter(&sandbox, missing, sizeof(missing), err);
	if (!rc && missing[0])
		log_warn("engine", "this system cannot shut an engine in by all means; missing: %s", missing);
	engine_process_files_free(files);
	free(folder);
	return rc;
}

/* What asks a node to stop reaches all processes of a service: the engine ends with the node, not before. */
static void ignore_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		signal(signals[i], SIG_IGN);
}

int engine_process_main(void)
{
	struct engine_options options;
	struct error err = {0};
	pid_t parent = getppid();
	int fd = fcntl(0, F_DUPFD_CLOEXEC, 3), null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || null < 0 || dup2(null, 0) < 0)
		return 1;
	close(null);
	ignore_signals();
	prctl(PR_SET_NAME, "mdn-engine");
	log_setup(LOG_WARN, false, NULL);
	int rc = read_options(fd, &options, &err);
	if (!rc)
		rc = lock_up(&options, fd, &err);
	if (rc) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* after the change of uid, which clears it */
	if (getppid() != parent)
		return 1;
	serve(fd, &options);
}
