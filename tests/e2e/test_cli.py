# SPDX-License-Identifier: Apache-2.0
"""The command line: tables, --json, exit codes, words; and `mdn dev up`, which is the front door."""
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from network import MDN, CommandFailed, eventually, free_port, run_mdn

DONE, FAILED, USAGE, UNREACHABLE, REFUSED, NOTFOUND, BUSY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130


# ---- every command, both ways ------------------------------------------------------------------------


@pytest.mark.parametrize("command, keys, words", [
    (["nodes"], {"nodes"}, ["NODE", "edge-1", "north", "up", "tiny:latest"]),
    (["status"], {"center", "nodes", "up", "models", "copies", "ready", "running", "waiting", "tokens_per_s"},
     ["nodes", "6 of 6 up"]),
    (["models"], {"models"}, ["MODEL", "tiny:latest", "llama", "F32"]),
    (["models", "tiny"], {"name", "tag", "files", "nodes", "architecture"}, ["edge-1", "ready"]),
    (["key", "list"], {"keys"}, ["ID", "NAME", "CREATED"]),
    (["token", "--life", "30s"], {"token", "center"}, ["mdn join https://", "mdn1."]),
    (["place", "tiny", "--on", "role=edge"], {"model", "nodes"}, ["tiny", "3 nodes"]),
])
def test_operator_commands_print_a_table_or_json(net, command, keys, words):
    assert keys <= set(net.json(*command))
    text = net.mdn(*command)
    for word in words:
        assert word in text
    assert not text.lstrip().startswith("{")


def test_local_commands_print_text_or_json(net, folder):
    assert json.loads(run_mdn("version", "--json")[0])["mdn"] in run_mdn("version")[0]
    path = net.edges[0].config_path
    shown = json.loads(run_mdn("config", "show", "--json", "--config", path)[0])
    assert shown["name"] == "edge-1" and shown["open"] is True
    again = folder / "again.yaml"
    again.write_text(run_mdn("config", "show", "--config", path)[0])
    assert json.loads(run_mdn("config", "show", "--json", "--config", again)[0]) == shown
    over = json.loads(run_mdn("config", "show", "--json", "--config", path, "--site", "elsewhere")[0])
    assert over["site"] == "elsewhere"
    run_mdn("config", "check", path)
    assert "dns_ttl" in run_mdn("config", "explain", "dns_ttl")[0]


def test_help_man_page_and_completion_know_every_command():
    text, man = run_mdn("help")[0], run_mdn("help", "--man")[0]
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", text, re.M)
    assert {"dev up", "chat", "init", "token", "join", "serve", "push", "pull", "models", "place", "nodes", "status",
            "logs", "drain", "remove", "key new", "config check", "completion"} <= set(commands)
    bash, zsh = run_mdn("completion", "bash")[0], run_mdn("completion", "zsh")[0]
    for command in commands:
        assert run_mdn(*command.split(), "--help")[0] == run_mdn("help", *command.split())[0]
        for word in command.split():
            assert word in man and word in bash and word in zsh
    assert subprocess.run(["bash", "-n"], input=bash, text=True).returncode == 0


def test_exit_codes_tell_what_went_wrong(net, folder):
    closed = free_port()
    lonely = folder / "operator"
    lonely.mkdir()
    for name in os.listdir(net.operator):
        (lonely / name).write_bytes((net.operator / name).read_bytes())
    (lonely / "center.url").write_text(f"https://127.0.0.1:{closed}\n")
    cases = [
        (USAGE, ["no-such-command"], {}), (USAGE, ["nodes", "--no-such-option"], {}), (USAGE, ["push", "x"], {}),
        (USAGE, ["place", "tiny"], {}), (USAGE, ["token", "--life", "soon"], {}),
        (USAGE, ["place", "tiny", "--on", "floor=1"], {}), (USAGE, ["token", "--roles", "chef"], {}),
        (USAGE, ["limit", "set", "site=north", "fast"], {}), (USAGE, ["join", "https://x", "mdn1.x"], {}),
        (USAGE, ["push", "x", "Not A Name:v1"], {}), (USAGE, ["pull", "tiny@sha256:12"], {}),
        (USAGE, ["serve", "--no-such-key", "1"], {}),
        (UNREACHABLE, ["nodes"], {"MDN_OPERATOR": str(lonely)}),
        (UNREACHABLE, ["chat", "tiny", "hi", "--api", f"http://127.0.0.1:{closed}"], {}),
        (NOTFOUND, ["models", "no-such"], {}), (NOTFOUND, ["place", "no-such", "--on", "all"], {}),
        (NOTFOUND, ["drain", "no-such"], {}), (NOTFOUND, ["remove", "no-such"], {}), (NOTFOUND, ["logs", "no-such"], {}),
        (NOTFOUND, ["key", "revoke", "0123456789ab"], {}),
        (NOTFOUND, ["chat", "no-such", "hi", "--api", net.edges[0].api_url], {}),
        (NOTFOUND, ["pull", "no-such", "--repository", net.repository_url], {}),
        (FAILED, ["push", folder / "missing.gguf", "x", "--repository", net.repository_url], {}),
    ]
    for code, command, env in cases:
        with pytest.raises(CommandFailed) as e:
            net.mdn(*command, env=env, code=None, cwd=folder)
        assert e.value.code == code, f"{command}: exit {e.value.code}, not {code}: {e.value.err}"
        assert e.value.err.startswith("mdn") and len(e.value.err) > 20


def test_an_operator_of_another_network_is_refused(net, folder):
    other = folder / "other"
    run_mdn("init", "--data", folder / "center", "--name", "other", "--roles", "center", "--operator", other,
            "--node-listen", net.center.config["node_listen"])
    with pytest.raises(CommandFailed) as e:
        run_mdn("nodes", env={"MDN_OPERATOR": str(other)}, code=None)
    assert e.value.code in (REFUSED, UNREACHABLE)


@pytest.mark.parametrize("text, line, words", [
    ("name: a\nnode_lisen: 127.0.0.1:1\n", 2, ["node_lisen", "node_listen"]),
    ("name: a\n\n# words\nrols: [edge]\n", 4, ["rols", "roles"]),
    ("slots: many\n", 1, ["slots", "many"]),
    ("name: a\nname: b\n", 2, ["name"]),
    ("name: [\n", 2, []),
])
def test_config_check_names_file_line_and_nearest_key(folder, text, line, words):
    path = folder / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(CommandFailed) as e:
        run_mdn("config", "check", path)
    assert e.value.code == USAGE and f"{path}:{line}" in e.value.err
    for word in words:
        assert word in e.value.err
    with pytest.raises(CommandFailed) as e:
        run_mdn("serve", "--config", path)
    assert e.value.code == USAGE and f"{path}:{line}" in e.value.err


# ---- chat, logs --------------------------------------------------------------------------------------


def test_chat_asks_the_node_that_the_scheduler_names(net):
    out, err = run_mdn("chat", "tiny", "Hello", "--scheduler", net.scheduler_url, "--max-tokens", "8", "--stats")
    assert out.strip() and re.search(r"edge-\d", out + err)
    conversation = run_mdn("chat", "tiny", "--api", net.edges[0].api_url, "--max-tokens", "4", stdin="Hello\nAnd now?\n")
    assert conversation[0].strip()


def test_chat_asks_the_next_best_where_the_scheduler_names_a_node_that_has_just_died(net):
    dead = f"http://127.0.0.1:{free_port()}"
    answer = json.dumps({"choice": {"api_url": dead},
                         "candidates": [{"api_url": dead}, {"api_url": net.edges[1].api_url}]}).encode()

    class Scheduler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scheduler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        out, err = run_mdn("chat", "tiny", "Hello", "--scheduler", url, "--max-tokens", "4", "--temperature", "0", "--stats")
        server.shutdown()
    assert out.strip() and f"{dead} does not answer" in err and "edge-2" in err


def test_logs_come_from_the_node_itself(net):
    lines = [json.loads(line) for line in net.mdn("logs", "edge-1", "-n", "50").splitlines()]
    assert lines and any(line.get("message", "").startswith("edge-1 is up") for line in lines)
    follow = subprocess.Popen([MDN, "logs", "edge-1", "-f", "-n", "1"], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"MDN_OPERATOR": str(net.operator)})
    try:
        follow.stdout.readline()
        net.edges[0].openai().chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=1,
            extra_headers={"x-request-id": "followed"})
        assert "followed" in next(line for line in follow.stdout if "followed" in line)
        follow.send_signal(signal.SIGINT)
        assert follow.wait(10) == INTERRUPTED
    finally:
        follow.kill()
        follow.wait()


def test_logs_of_a_node_that_never_started_are_nobody_elses(net):
    net.join(net.add_edge("idle", "north"))
    del net.nodes["idle"]
    try:
        with pytest.raises(CommandFailed) as e:
            net.mdn("logs", "idle")
        assert e.value.code == UNREACHABLE and "never started" in e.value.err and not e.value.out
    finally:
        net.mdn("remove", "idle")


# ---- dev up ------------------------------------------------------------------------------------------


def processes_in(folder):
    """Ids of processes whose command line names the folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if str(folder).encode() in f.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def free_range(count):
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def dev_up(folder, model, *args, first=None):
    # In front of a shell's background the interrupt would be ignored; here it must not be.
    return subprocess.Popen([MDN, "dev", "up", "--model", model, "--state", folder / "state", "--ports",
                             str(first or free_range(16)), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))


def test_dev_up_once_answers_a_question_and_leaves_nothing_running(folder, tiny):
    up = dev_up(folder, tiny, "--once")
    out, _ = up.communicate(timeout=90)
    assert up.returncode == DONE, out
    assert "tokens/s" in out and "answered by edge-" in out and "first token after" in out
    assert not processes_in(folder)
    # The second time it finds all it made: nothing is joined or pushed anew.
    again = dev_up(folder, tiny, "--once", "--latency", "south=1", "--latency", "north=90")
    out, _ = again.communicate(timeout=90)
    assert again.returncode == DONE and "joined by token" not in out and "answered by edge-3" in out, out
    assert not processes_in(folder)


def test_ctrl_c_ends_all_that_dev_up_started(folder, tiny):
    up = dev_up(folder, tiny, "--engine", "synthetic", "--edges", "2")
    seen = []
    for line in up.stdout:
        seen.append(line)
        if "Ctrl-C" in line:
            break
    children = [p for p in processes_in(folder) if p != up.pid]
    assert len(children) == 5, "".join(seen)
    assert "from openai import OpenAI" in "".join(seen) and "curl http://" in "".join(seen)
    up.send_signal(signal.SIGINT)
    out, _ = up.communicate(timeout=30)
    assert up.returncode in (DONE, INTERRUPTED), out
    assert not processes_in(folder)


def test_dev_up_killed_with_9_leaves_nothing_running(folder, tiny):
    up = dev_up(folder, tiny, "--engine", "synthetic", "--edges", "1")
    for line in up.stdout:
        if "joined by token" in line:
            break
    up.kill()
    up.wait()
    eventually(lambda: not processes_in(folder), 15, "its children ended")


def test_a_used_port_is_refused_in_words_and_nothing_runs(folder, tiny):
    first = free_range(16)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 4))
        taken.listen()
        up = dev_up(folder, tiny, "--once", first=first)
        out, _ = up.communicate(timeout=30)
    assert up.returncode == BUSY and str(first + 4) in out and "--ports" in out
    assert not processes_in(folder)


def test_dev_up_refuses_what_is_no_model(folder):
    (folder / "no.gguf").write_bytes(b"this is no model")
    up = dev_up(folder, folder / "no.gguf", "--edges", "1")
    out, _ = up.communicate(timeout=60)
    assert up.returncode == FAILED and "no.gguf is not a GGUF model file" in out
    assert not processes_in(folder)
    up = dev_up(folder, folder / "missing.gguf", "--once")
    out, _ = up.communicate(timeout=30)
    assert up.returncode != DONE and "missing.gguf" in out


def test_serve_says_in_words_why_it_cannot_start(net, folder):
    edge = net.edges[0]
    with pytest.raises(CommandFailed) as e:  # its data folder is in use by the real one
        run_mdn("serve", "--config", edge.config_path)
    assert e.value.code == BUSY and "another mdn" in e.value.err
    with pytest.raises(CommandFailed) as e:
        run_mdn("serve", "--data", folder / "never-joined", "--roles", "edge", "--name", "x")
    assert e.value.code != DONE and "mdn join" in e.value.err


def test_a_node_whose_port_is_taken_stops_with_words(make_network, tiny):
    net = make_network(edges={"edge-1": "north"})
    edge = net.edges[0]
    edge.stop()
    host, port = edge.config["api_listen"].rsplit(":", 1)
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        edge.start()
        assert edge.process.wait(20) not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert "api_listen" in edge.log() and port in edge.log()
    started = time.monotonic()
    edge.start()
    net.wait_up()
    assert time.monotonic() - started < 10


def test_ctrl_c_ends_a_push_that_still_hashes(net, folder):
    """With the operator's connection open a signal is only noted; reading a big file must look at it."""
    file = folder / "endless.gguf"
    with open(file, "wb") as big:
        big.write(b"GGUF")
        big.truncate(2 << 40)  # a hole: it takes no room
    process = subprocess.Popen([MDN, "push", file, "endless:v1"], env=os.environ | {"MDN_OPERATOR": str(net.operator)},
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    try:
        said = process.communicate(timeout=10)[1]
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED and "interrupted" in said
