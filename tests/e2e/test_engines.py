# SPDX-License-Identifier: Apache-2.0
"""Other engines behind the same edge: llama-server as a remote one, the synthetic one, other architectures."""
import subprocess

import httpx
import pytest

from network import eventually, free_port, tiny_gguf, tiny_model

HELLO = [{"role": "user", "content": "Say something about the sea."}]


@pytest.fixture
def remote(llama_server, tiny, folder):
    """llama-server, built from the same sources as our own engine, with the tiny model."""
    port = free_port()
    with open(folder / "llama-server.log", "wb") as log:
        process = subprocess.Popen([llama_server, "--model", tiny, "--port", str(port), "--threads", "1", "--ctx-size",
                                    "8192", "--parallel", "4", "--jinja"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: httpx.get(url + "/health").status_code == 200, 30, "llama-server is up")
        yield url
    finally:
        process.kill()
        process.wait(10)


def test_a_remote_server_answers_behind_an_edge(remote, make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"engine": "remote", "remote_url": remote})
    net.push(tiny, "tiny")
    with net.edges[0].openai() as ours:
        ask = {"messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = ours.chat.completions.create(model="tiny", **ask)
        assert whole.choices[0].message.content and whole.usage.completion_tokens == 12
        theirs = httpx.post(remote + "/v1/chat/completions", json=ask, timeout=20).json()
        assert whole.choices[0].message.content == theirs["choices"][0]["message"]["content"]
        *chunks, last = ours.chat.completions.create(model="tiny", stream=True,
                                                     stream_options={"include_usage": True}, **ask)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
        assert last.usage.completion_tokens == 12
        text = ours.completions.create(model="tiny", prompt="Once upon a time", max_tokens=5, temperature=0)
        assert text.choices[0].text


def test_our_engine_says_what_llama_server_says(remote, net):
    """Same model, same libraries, no chance: the same words, until two of them are all but equally likely."""
    with net.edges[2].openai() as client:
        for messages in (HELLO, [{"role": "system", "content": "Be brief."}, *HELLO]):
            ours = client.chat.completions.create(model="tiny", messages=messages, max_tokens=20, temperature=0)
            theirs = httpx.post(remote + "/v1/chat/completions", timeout=20, json={
                "messages": messages, "max_tokens": 20, "temperature": 0}).json()
            assert ours.choices[0].message.content[:15] == theirs["choices"][0]["message"]["content"][:15]
            assert ours.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]


def test_the_synthetic_engine_counts_and_times_like_a_model(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"engine": "synthetic"})
    net.push(tiny, "tiny")
    with net.edges[0].openai() as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10)
        assert answer.usage.completion_tokens == 10 and answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "length"
        chunks = list(client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=10, stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("arch", [a for a in tiny_gguf.ARCHS if a != "llama"])
def test_other_architectures_are_distributed_and_answer(net, models, arch):
    name = "arch-" + arch
    net.push(tiny_model(models, name, arch=arch), name, on="node=edge-3")
    try:
        with net.edges[2].openai() as client:
            answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=6)
            assert 1 <= answer.usage.completion_tokens <= 6
    finally:
        net.mdn("place", name, "--on", "node=edge-3", "--remove")
    eventually(lambda: name not in net.edges[2].get("/v1/models").text, 10, "it is gone")
