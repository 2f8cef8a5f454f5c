# SPDX-License-Identifier: Apache-2.0
"""Streams outlive the node that gives them: kill -9 in the middle, and the client reads what it would have read anyway.

The client talks to an edge that does not have the model; two others have it. Whoever answers is killed. In the
deterministic profile the text is the same to the last byte, usage is counted once, and nothing tells of what happened
but the edge's own counters.
"""
import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from network import eventually, tiny_model

from conftest import shared_network

WORDS = "Of hills and valleys, rivers and seas."
COMMON = {"model": "tale", "stream": True, "temperature": 0.9, "seed": 5, "logit_bias": {"2": -100, "0": -100}}
GREEDY = {"model": "tale", "stream": True, "temperature": 0}
MESSAGES = [{"role": "user", "content": WORDS}]
ASKS = {
    "/v1/chat/completions": lambda n: COMMON | {"messages": MESSAGES, "max_tokens": n,
                                      "stream_options": {"include_usage": True}},
    "/v1/completions": lambda n: COMMON | {"prompt": WORDS, "max_tokens": n, "temperature": 0,
                                 "frequency_penalty": 0.3, "stream_options": {"include_usage": True}},
    "/v1/responses": lambda n: GREEDY | {"input": WORDS, "max_output_tokens": n},
    "/v1/messages": lambda n: GREEDY | {"messages": MESSAGES, "max_tokens": n},
    "/api/chat": lambda n: {"model": "tale", "messages": MESSAGES, "options": {"seed": 5, "num_predict": n}},
}


@pytest.fixture(scope="module")
def net(models):
    weights = tiny_model(models, "failover", embedding=256, heads=4, ff=1024, layers=4, seed=9)
    with shared_network(edge={"deterministic": True}) as network:
        network.push(weights, "tale", on="node=edge-2,node=edge-3")
        yield network


def events(lines):
    """The JSON of each event: of an event stream, or one a line."""
    for line in lines:
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            yield json.loads(line)


def text_of(path, event):
    if path == "/v1/chat/completions":
        return "".join(c["delta"].get("content") or "" for c in event["choices"])
    if path == "/v1/completions":
        return "".join(c["text"] for c in event["choices"])
    if path == "/v1/responses":
        return event["delta"] if event["type"] == "response.output_text.delta" else ""
    if path == "/v1/messages":
        return event.get("delta", {}).get("text", "")
    return event["message"]["content"]


def usage_of(path, event):
    if path == "/v1/responses":
        usage = event.get("response", {}).get("usage")
        return usage and (usage["input_tokens"], usage["output_tokens"])
    if path == "/v1/messages":
        return event["type"] == "message_delta" and event["usage"]["output_tokens"]
    if path == "/api/chat":
        return event["done"] and (event["prompt_eval_count"], event["eval_count"])
    usage = event.get("usage")
    return usage and (usage["prompt_tokens"], usage["completion_tokens"])


class Answer:
    """One stream from beginning to end; `disturb(node name)` is called when it has said a little."""

    def __init__(self, net, path, tokens, disturb=None, edge=None):
        self.events, self.text, self.usage, self.gap = [], "", None, 0
        with httpx.stream("POST", (edge or net.edges[0]).api_url + path, timeout=60, json=ASKS[path](tokens)) as answer:
            assert answer.status_code == 200, answer.read()
            self.node = answer.headers["x-mdn-node-name"]
            last = None
            for event in events(answer.iter_lines()):
                if last is not None:
                    self.gap = max(self.gap, time.monotonic() - last)
                self.events.append(event)
                assert "error" not in event or event["error"] is None, event
                self.text += text_of(path, event)
                self.usage = usage_of(path, event) or self.usage
                if disturb and len(self.events) == 12:
                    last = time.monotonic()
                    disturb(self.node)
                    disturb = None
                elif last is not None:
                    last = time.monotonic()


def undisturbed_and_cut(net, path, disturb, edge):
    """(whole, cut): cut in the middle. On a quick machine a short answer may be over first: then a longer one."""
    before = edge.metric("mdn_resumed_total")
    for tokens in (160, 600, 1500):
        whole = Answer(net, path, tokens, edge=edge)
        assert whole.text
        cut = Answer(net, path, tokens, disturb, edge)
        if edge.metric("mdn_resumed_total") == before + 1:
            return whole, cut
        ready(net)
    raise AssertionError("the streams were over before they could be cut")


def ready(net):
    for node in net.edges:
        if not node.runs:
            node.start()
    net.wait_up()
    eventually(lambda: all(n["state"] == "ready" for n in net.model("tale")["nodes"]), 30, "tale is ready again")


@pytest.mark.parametrize("path", ASKS)
def test_a_stream_goes_on_when_its_node_is_killed(net, path):
    whole, again = undisturbed_and_cut(net, path, lambda name: net.nodes[name].kill(), net.edges[0])
    assert again.node in ("edge-2", "edge-3")
    assert again.text == whole.text
    assert again.usage == whole.usage
    if path == "/v1/responses":
        assert [e["sequence_number"] for e in again.events] == list(range(len(again.events)))
    if path.startswith("/v1/c"):
        assert len({e["id"] for e in again.events}) == 1
    assert [kind(e) for e in again.events if kind(e) not in ("", None)].count("end") == 1
    print(f"{path}: largest gap {again.gap * 1e3:.0f} ms")
    ready(net)


def engine_of(node):
    """The process that holds the node's model."""
    pids = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    return next(int(p) for p in pids if b"engine" in Path(f"/proc/{p}/cmdline").read_bytes())


def test_a_stream_goes_on_elsewhere_when_the_engine_here_is_killed(net):
    path = "/v1/chat/completions"
    # Who answered has the prompt: it would rather answer itself.
    edge = net.nodes[Answer(net, path, 160, edge=net.nodes["edge-2"]).node]
    whole, again = undisturbed_and_cut(net, path, lambda name: os.kill(engine_of(net.nodes[name]), signal.SIGKILL), edge)
    assert again.text == whole.text and again.usage == whole.usage
    ready(net)


def kind(event):
    """'end' for what may come once only."""
    ends = event.get("type") in ("message_stop", "response.completed", "response.incomplete") or event.get("done")
    return "end" if ends or any(c.get("finish_reason") for c in event.get("choices", [])) else ""


def test_with_nobody_left_the_client_is_told(net):
    nodes = [net.nodes["edge-2"], net.nodes["edge-3"]]
    lines, error = [], None
    try:
        with httpx.stream("POST", net.edges[0].api_url + "/v1/chat/completions", timeout=60,
                          json=ASKS["/v1/chat/completions"](1500)) as answer:
            for line in answer.iter_lines():
                lines += [line] if line else []
                if len(lines) == 12:
                    for node in nodes:
                        node.kill()
    except httpx.HTTPError as e:
        error = e
    assert error is not None and '"error"' in lines[-1] and "data: [DONE]" not in lines
    ready(net)
