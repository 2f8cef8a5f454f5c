# SPDX-License-Identifier: Apache-2.0
"""kill -9 on each of the six processes, in each phase of a model's and a request's life.

What was killed is started again after a moment, as a service manager does. Then all must be well by itself: the work
that was under way is done (a client that got an error asks once more, as clients do), all nodes are up, every edge
answers, and every file on every disk is what its name says. How long that took is printed.
"""
import hashlib
import os
import random
import struct
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from network import CommandFailed, eventually, tiny_model

from conftest import shared_network

NAMES = ["repository", "center", "scheduler", "edge-1", "edge-2", "edge-3"]
RESTART_S = 0.1
LONG = [{"role": "user", "content": "Of hills and valleys, rivers and seas. " * 60}]
SHORT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def weights(models):
    """A model whose prefill takes a moment: 20 MB."""
    return tiny_model(models, "kill", embedding=256, heads=4, ff=1024, layers=4, seed=9)


@pytest.fixture(scope="module")
def net(weights):
    with shared_network(edge={"fetch_rate": "40M"}) as network:
        network.push(weights, "base")
        yield network


def variant(weights, folder, number):
    """The same model with other last weights: a new file for everybody."""
    data = bytearray(Path(weights).read_bytes())
    data[-64:] = struct.pack("<16f", *[random.random() / 100 for _ in range(16)])
    path = folder / f"variant-{number}.gguf"
    path.write_bytes(data)
    return path


def kill_and_restart(node):
    node.kill()
    killed = time.monotonic()
    time.sleep(RESTART_S)
    node.start()
    return killed


def ask(net, model, messages, max_tokens, first=0):
    """As a client with three addresses does: the next one when one fails."""
    def once():
        for i in range(3):
            edge = net.edges[(first + i) % 3]
            try:
                with edge.openai(timeout=20) as c:
                    return c.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, seed=1)
            except (openai.APIConnectionError, openai.InternalServerError):
                continue
        return None
    return eventually(once, 20, "some edge answers")


def whole_again(net, killed, recovery, what):
    net.wait_up(NAMES)
    for edge in net.edges:
        def answers():
            return httpx.post(edge.api_url + "/v1/chat/completions", timeout=10, json={
                "model": "base", "messages": SHORT, "max_tokens": 2}).status_code == 200
        eventually(answers, what=f"{edge.name} answers")
    eventually(lambda: net.route("base").status_code == 200, what="the scheduler routes")
    recovery(what, time.monotonic() - killed)
    check_blobs(net)


def check_blobs(net):
    for node in net.nodes.values():
        root = node.folder / "blobs/blobs/sha256"
        for path in root.rglob("*") if root.exists() else ():
            if path.is_file():
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue  # just dropped
                assert hashlib.sha256(data).hexdigest() == path.name, f"{node.name} holds a broken {path.name}"


@pytest.mark.parametrize("victim", NAMES)
def test_push(net, weights, folder, recovery, victim):
    file, name = variant(weights, folder, victim), f"push-{victim}"
    failures = []

    def push():
        def once():
            try:
                return net.mdn("push", file, name, "--repository", net.repository_url, "--quiet")
            except CommandFailed as e:
                failures.append(e)
                raise
        eventually(once, 20, "the push, repeated, succeeds", every=0.1)
    thread = threading.Thread(target=push)
    thread.start()
    time.sleep(random.uniform(0.02, 0.06))
    killed = kill_and_restart(net.nodes[victim])
    thread.join(30)
    assert victim == "repository" or not failures
    whole_again(net, killed, recovery, f"push: {victim}")
    out = folder / "back.gguf"
    net.mdn("pull", name, "-o", out, "--repository", net.repository_url)
    assert out.read_bytes() == file.read_bytes()
    eventually(lambda: name in [m["name"] for m in net.json("models")["models"]], what="the center knows it")


@pytest.mark.parametrize("victim", NAMES)
@pytest.mark.parametrize("phase", ["distribution", "load"])
def test_distribution_and_load(net, weights, folder, recovery, victim, phase):
    file, name = variant(weights, folder, victim), f"{phase}-{victim}"
    net.mdn("push", file, name, "--repository", net.repository_url, "--quiet")
    net.place(name)
    if phase == "distribution":
        size = os.path.getsize(file)
        eventually(lambda: any(n["have_bytes"] > 0.3 * size for n in net.model(name)["nodes"]), every=0.01)
    else:
        edge = net.nodes[victim] if victim.startswith("edge") else net.edges[0]
        eventually(lambda: f"{name}:latest is on disk" in edge.log(), every=0.002)
    killed = kill_and_restart(net.nodes[victim])
    eventually(lambda: net.model(name)["nodes"] and all(n["state"] == "ready" for n in net.model(name)["nodes"]), 30,
               f"{name} is ready on all edges")
    whole_again(net, killed, recovery, f"{phase}: {victim}")
    for i in range(3):
        assert ask(net, name, SHORT, 2, i).usage.completion_tokens >= 1
    net.mdn("place", name, "--on", "role=edge", "--remove")


@pytest.mark.parametrize("victim", NAMES)
def test_prefill(net, recovery, victim):
    result = {}
    cold = [{"role": "user", "content": victim + LONG[0]["content"]}]

    def client():
        result["answer"] = ask(net, "base", cold, 4)
    thread = threading.Thread(target=client)
    thread.start()
    time.sleep(0.05)
    killed = kill_and_restart(net.nodes[victim])
    thread.join(30)
    assert result["answer"].usage.completion_tokens >= 1
    whole_again(net, killed, recovery, f"prefill: {victim}")


@pytest.mark.parametrize("victim", NAMES)
def test_decode(net, recovery, victim):
    edge = net.edges[1]
    lines, error = [], None
    killed = None
    try:
        with httpx.stream("POST", edge.api_url + "/v1/chat/completions", timeout=20, json={
                "model": "base", "messages": SHORT, "max_tokens": 600, "stream": True,
                "logit_bias": {"2": -100, "0": -100}}) as answer:
            served_by = answer.headers["x-mdn-node-name"]
            for line in answer.iter_lines():
                lines += [line] if line else []
                if len(lines) == 10 and killed is None:
                    killed = kill_and_restart(net.nodes[victim])
    except httpx.HTTPError as e:
        error = e
    assert killed
    if victim in (served_by, edge.name):
        # Cut short, and said so: an error event or a broken connection, never a clean end.
        assert lines[-1] != "data: [DONE]" or len(lines) > 500
        assert error or '"error"' in lines[-1] or lines[-1] == "data: [DONE]"
    else:
        assert error is None and lines[-1] == "data: [DONE]"
    assert ask(net, "base", SHORT, 4, 2).usage.completion_tokens >= 1
    whole_again(net, killed, recovery, f"decode: {victim}")
