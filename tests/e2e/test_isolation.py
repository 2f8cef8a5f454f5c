# SPDX-License-Identifier: Apache-2.0
"""Engines are processes of their own: what they may do, and what is seen from outside when one is killed."""
import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from network import MDN, eventually, free_port, tiny_model

from conftest import shared_network

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def weights(models):
    """A model slow enough to be caught in the middle of an answer: 20 MB."""
    return tiny_model(models, "isolated", embedding=256, heads=4, ff=1024, layers=4, seed=9)


@pytest.fixture(scope="module")
def net(weights):
    with shared_network(edges={"edge-1": "north", "edge-2": "south"}) as network:  # apart: each prefers itself
        network.push(weights, "base")
        yield network


def children(pid):
    return [int(c) for task in Path(f"/proc/{pid}/task").glob("*/children") for c in task.read_text().split()]


def engines(pid):
    """Processes of engines that are children of the node."""
    found = []
    for child in children(pid):
        line = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if line[:2] == [b"mdn", b"engine-process"]:
            found.append(child)
    return found


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(pid):
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def engine_of(edge):
    def one():
        found = engines(edge.process.pid)
        return found[0] if len(found) == 1 else None
    return eventually(one, 30, f"{edge.name} has one engine")


def settled(*edges):
    """These edges answer themselves: their reports have reached each other."""
    for edge in edges:
        def own():
            answer = ask(edge)
            return answer.status_code == 200 and answer.headers["x-mdn-node-name"] == edge.name
        eventually(own, 30, f"{edge.name} answers itself")


def ask(edge, messages=HELLO, max_tokens=4, timeout=60):
    return httpx.post(edge.api_url + "/v1/chat/completions", timeout=timeout,
                      json={"model": "base", "messages": messages, "max_tokens": max_tokens})


def test_the_process_is_seen_with_its_model_and_may_do_little(net):
    settled(net.edges[0])
    pid = engine_of(net.edges[0])
    assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2] == b"base:latest"
    assert Path(f"/proc/{pid}/comm").read_text().strip() == "mdn-engine"
    now = status(pid)
    assert now["NoNewPrivs"] == "1" and now["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert now["Uid"].split() == ["1900000000"] * 4 and now["Groups"].strip() == ""
        assert int(now["CapEff"], 16) in (0, 1 << 2)  # reading, which landlock limits to its files
    own, its = (int(Path(f"/proc/{p}/oom_score_adj").read_text()) for p in (net.edges[0].process.pid, pid))
    assert its > own


def test_killed_before_the_first_token_another_node_answers(net):
    settled(*net.edges)
    edge, other = net.edges
    node, pid, result = edge.process.pid, engine_of(edge), {}
    os.kill(pid, signal.SIGSTOP)  # so that the request is surely there, and no token has left
    thread = threading.Thread(target=lambda: result.update(answer=ask(edge)))
    thread.start()
    eventually(lambda: edge.metric("vllm:num_requests_waiting") + edge.metric("vllm:num_requests_running") >= 1, 10,
               "the request is in the engine")
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    answer = result["answer"]
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-mdn-node-name"] == other.name
    assert edge.process.pid == node and edge.runs
    assert "the engine of base:latest ended by signal 9" in edge.log()
    settled(edge)
    assert engine_of(edge) != pid


def test_killed_in_the_middle_of_a_stream_it_is_said_and_the_node_stays(net, recovery):
    """Two answers at once are not gone on with elsewhere."""
    settled(net.edges[0])
    edge, lines, killed = net.edges[0], [], None
    node, pid = edge.process.pid, engine_of(edge)
    with contextlib.suppress(httpx.RemoteProtocolError), httpx.stream(  # after the error it is cut
            "POST", edge.api_url + "/v1/chat/completions", timeout=60, json={
            "model": "base", "messages": HELLO, "max_tokens": 1500, "stream": True, "n": 2,
            "logit_bias": {"2": -100, "0": -100}}) as answer:
        assert answer.headers["x-mdn-node-name"] == edge.name
        for line in answer.iter_lines():
            lines += [line] if line else []
            if len(lines) == 5 and killed is None:
                killed = time.monotonic()
                os.kill(pid, signal.SIGKILL)
    assert killed and len(lines) < 2800
    assert '"error"' in lines[-1] and "ended by signal 9" in lines[-1]
    assert edge.process.pid == node and edge.runs
    assert ask(edge).status_code == 200  # the other one, or this one again
    eventually(lambda: edge.get("/ready").status_code == 200, 30, "the edge is ready")
    settled(edge)
    recovery("engine killed in a stream", time.monotonic() - killed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_engine_outlives_its_node(net, number):
    edge = net.edges[1]
    settled(edge)
    pid = engine_of(edge)
    edge.signal(number)
    edge.process.wait(20)
    eventually(lambda: not alive(pid), 5, "its engine has ended, too")
    edge.start()
    net.wait_up()
    settled(edge)


def test_a_stop_of_the_whole_service_lets_streams_end(net):
    """A service manager signals every process of a service: the engine goes on until the node has drained."""
    edge, lines = net.edges[1], []
    settled(edge)
    pid = engine_of(edge)
    with httpx.stream("POST", edge.api_url + "/v1/chat/completions", timeout=60, json={
            "model": "base", "messages": HELLO, "max_tokens": 200, "stream": True,
            "logit_bias": {"2": -100, "0": -100}}) as answer:
        for line in answer.iter_lines():
            lines += [line] if line else []
            if line and len(lines) == 5:  # once: a second signal stops the node at once
                os.kill(pid, signal.SIGTERM)
                edge.signal(signal.SIGTERM)
    assert lines[-1] == "data: [DONE]", lines[-1]
    edge.process.wait(40)
    edge.start()
    net.wait_up()
    settled(edge)


def test_without_isolation_there_is_no_process(make_network, weights):
    network = make_network(edges={"edge-1": "north"}, edge={"engine_isolation": "none"})
    network.push(weights, "base")
    assert ask(network.edges[0]).status_code == 200
    assert engines(network.edges[0].process.pid) == []


def test_encrypted_models_reach_the_process(make_network, weights, folder):
    key = folder / "key"
    key.write_text(os.urandom(32).hex())
    key.chmod(0o600)
    network = make_network(edges={"edge-1": "north"}, edge={"encrypt_at_rest": True, "site_key": str(key)})
    network.push(weights, "base")
    assert ask(network.edges[0]).status_code == 200
    assert len(engines(network.edges[0].process.pid)) == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_dev_up_leaves_no_engine(folder, weights, end):
    with open(folder / "out", "wb") as log:
        up = subprocess.Popen([MDN, "dev", "up", "--model", weights, "--state", folder / "state", "--edges", "1", "--ports",
                               str(free_port())], stdout=log, stderr=log,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))

    def found():
        return [e for node in children(up.pid) for e in engines(node)]
    try:
        eventually(found, 60, "an engine runs")
        eventually(lambda: "Ctrl-C" in (folder / "out").read_text(), 60, "dev is up")
        nodes, its = children(up.pid), found()
        up.send_signal(end)
        up.wait(30)
        eventually(lambda: not any(alive(p) for p in nodes + its), 20, "all have ended")
    finally:
        if up.poll() is None:
            up.kill()
