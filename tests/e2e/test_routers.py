# SPDX-License-Identifier: Apache-2.0
"""Other people's routers in front of two edges of ours, unmodified. Each is used when an environment variable names its
program: VLLM_ROUTER, SMG, LITELLM. `tools/setup routers` installs the first two and says what to set."""
import contextlib
import json
import os
import secrets
import subprocess
import time
from pathlib import Path

import httpx
import openai
import pytest

from network import eventually, free_port

HELLO = [{"role": "user", "content": "Say something about the sea."}]
KEY = "sk-" + secrets.token_hex(24)  # litellm starts with a strong one only; the edges are open and take any
ASKED = {"model": "tiny:latest", "messages": HELLO, "max_tokens": 8, "temperature": 0}


def vllm_router(program, port, edges, folder):
    return [program, "--host", "127.0.0.1", "--port", port, "--policy", "round_robin", "--prometheus-port", free_port(),
            "--health-check-interval-secs", 1, "--worker-urls", *(e.api_url for e in edges)]


def smg(program, port, edges, folder):
    return [program, "launch", "--host", "127.0.0.1", "--port", port, "--policy", "round_robin", "--prometheus-port",
            free_port(), "--health-check-interval-secs", 1, "--worker-urls", *(e.api_url for e in edges)]


def litellm(program, port, edges, folder):
    """It knows only the names it is told; `nope` is one that it passes on."""
    models = [{"model_name": name, "litellm_params": {"model": f"hosted_vllm/{name}", "api_base": e.api_url + "/v1",
                                                      "api_key": "none"}}
              for name in ("tiny:latest", "nope") for e in edges]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models, "router_settings": {"num_retries": 3, "allowed_fails": 0, "cooldown_time": 5}}))
    return [program, "--config", config, "--host", "127.0.0.1", "--port", port, "--telemetry", "False"]


ROUTERS = {"vllm-router": ("VLLM_ROUTER", vllm_router, "/health"), "smg": ("SMG", smg, "/readiness"),
           "litellm": ("LITELLM", litellm, "/health/liveliness")}


class Router:
    def __init__(self, name, process, url, log):
        self.name, self.process, self.url, self.log = name, process, url, log
        self.client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=30)

    def post(self, body):
        return httpx.post(self.url + "/v1/chat/completions", json=body, timeout=30,
                          headers={"authorization": f"Bearer {KEY}"})


@contextlib.contextmanager
def running(name, edges, folder):
    variable, command, healthy = ROUTERS[name]
    program = os.environ.get(variable)
    if not program:
        pytest.skip(f"set {variable} to the program of {name}: docs/operator-guide.md, \"MDN behind another router\"")
    port, log = free_port(), folder / f"{name}.log"
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1", "LITELLM_MASTER_KEY": KEY}
    with open(log, "wb") as out:
        process = subprocess.Popen([str(part) for part in command(program, port, edges, folder)], stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=out, env=os.environ | quiet, cwd=folder)
    router = Router(name, process, f"http://127.0.0.1:{port}", log)
    try:
        eventually(lambda: process.poll() is not None or (httpx.get(router.url + healthy, timeout=5).status_code == 200
                                                          and router.post(ASKED).status_code == 200),
                   120, f"{name} answers; its log is {log}", every=0.2)
        assert process.poll() is None, log.read_text()[-2000:]
        yield router
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture(scope="module", params=ROUTERS)
def router(request, net, tmp_path_factory):
    with running(request.param, net.edges[:2], tmp_path_factory.mktemp("router")) as router:
        yield router


def test_chat_and_stream_are_as_at_the_edge(router, net):
    direct = net.edges[0].openai().chat.completions.create(**ASKED)
    through = router.client.chat.completions.create(**ASKED)
    assert through.choices[0].message.content == direct.choices[0].message.content
    assert through.choices[0].finish_reason == "length" and through.usage.completion_tokens == 8
    chunks = list(router.client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == direct.choices[0].message.content
    assert [c.usage.completion_tokens for c in chunks if c.usage][-1:] == [8]


def test_both_edges_are_used(router, net):
    def served():
        return [edge.metric("vllm:request_success_total") for edge in net.edges[:2]]

    before = served()
    for i in range(12):
        assert router.post(ASKED | {"messages": [{"role": "user", "content": f"Number {i}."}]}).status_code == 200
    after = served()
    assert sum(after) - sum(before) == 12 and all(b > a for a, b in zip(before, after))


def test_errors_come_through_at_once(router):
    begun = time.monotonic()
    unknown, wrong = router.post(ASKED | {"model": "nope"}), router.post(ASKED | {"temperature": 7})
    assert unknown.status_code == 404 and "nope" in unknown.json()["error"]["message"]
    assert wrong.status_code == 400 and "temperature" in wrong.json()["error"]["message"]
    assert time.monotonic() - begun < 10


def test_models_are_listed(router):
    assert "tiny:latest" in [m.id for m in router.client.models.list()]


@pytest.mark.parametrize("name", ROUTERS)
def test_an_edge_that_dies_is_not_missed(name, make_network, tiny, tmp_path):
    if not os.environ.get(ROUTERS[name][0]):
        pytest.skip(f"set {ROUTERS[name][0]} to the program of {name}")
    net = make_network(edges={"edge-1": "north", "edge-2": "north"})
    net.push(tiny, "tiny")
    with running(name, net.edges, Path(tmp_path)) as router:
        net.edges[1].kill()
        assert [router.post(ASKED).status_code for _ in range(6)] == [200] * 6
        net.edges[0].kill()
        assert router.post(ASKED).status_code >= 500
