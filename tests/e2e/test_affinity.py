# SPDX-License-Identifier: Apache-2.0
"""Where a prompt goes whose beginning some node has computed before; other policies by name."""
import itertools
import re
import signal

import httpx
import pytest

from conftest import shared_network
from network import eventually

# Prefill costs 200 us a token, a token is four bytes: 3,000 tokens are worth 600 ms, more than any queue here.
SYNTHETIC = {"engine": "synthetic", "context": 65536}
number = itertools.count()


@pytest.fixture(scope="module")
def front(tiny):
    """`front` takes the requests; `one` and `two` have the model."""
    with shared_network(edges={"front": "north", "one": "north", "two": "north"}, edge=SYNTHETIC) as net:
        net.push(tiny, "tiny", on="node=one,node=two")
        yield net


def text(tokens):
    """Nobody's before."""
    return f"{next(number):03} " * tokens


def ask(front, messages, **headers):
    reply = httpx.post(front.edges[0].api_url + "/v1/chat/completions", timeout=60, headers=headers,
                       json={"model": "tiny", "messages": messages, "max_tokens": 4})
    assert reply.status_code == 200, reply.text
    reply.answer = reply.json()["choices"][0]["message"]
    reply.cached = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return reply


def test_the_turns_of_a_chat_go_to_the_node_that_has_them(front):
    hits = front.edges[0].metric('mdn_route_prefix_total{result="hit"}')
    for _ in range(6):
        chat = [{"role": "user", "content": text(3000)}]
        first = ask(front, chat)
        assert first.headers["x-mdn-policy"] == "mdn" and first.cached == 0
        chat += [first.answer, {"role": "user", "content": "And then?"}]
        second = ask(front, chat)
        assert second.headers["x-mdn-node"] == first.headers["x-mdn-node"]
        known = int(re.fullmatch(r"mdn; prefix of (\d+) tokens is warm there", second.headers["x-mdn-policy"])[1])
        assert 2900 <= known <= 3001 and 2900 <= second.cached <= 3001
        third = ask(front, chat + [second.answer, {"role": "user", "content": "And then?"}])
        assert third.headers["x-mdn-node"] == first.headers["x-mdn-node"]
    assert front.edges[0].metric('mdn_route_prefix_total{result="hit"}') >= hits + 12


def test_nobody_learns_from_the_way_what_others_asked(front):
    chat = [{"role": "user", "content": text(3000)}]
    ask(front, chat, **{"x-llm-d-inference-fairness-id": "alice"})
    assert "warm" in ask(front, chat, **{"x-llm-d-inference-fairness-id": "alice"}).headers["x-mdn-policy"]
    assert "warm" not in ask(front, chat, **{"x-llm-d-inference-fairness-id": "bob"}).headers["x-mdn-policy"]


def test_policies_are_changed_by_a_reload(front):
    edge = front.edges[0]

    def change(policy):
        edge.write_config(route_policy=policy)
        edge.signal(signal.SIGHUP)
        eventually(lambda: ask(front, [{"role": "user", "content": "Hi"}]).headers["x-mdn-policy"] == policy)

    chat = [{"role": "user", "content": text(1000)}]
    try:
        change("round_robin")
        assert len({ask(front, chat).headers["x-mdn-node"] for _ in range(4)}) == 2
        change("session")
        for name in ("red", "green", "blue"):
            nodes = {ask(front, [{"role": "user", "content": text(9)}], **{"x-session-id": name}).headers["x-mdn-node"]
                     for _ in range(4)}
            assert len(nodes) == 1
        change("cache_aware")
        assert len({ask(front, chat).headers["x-mdn-node"] for _ in range(4)}) == 1
    finally:
        change("mdn")
