# SPDX-License-Identifier: Apache-2.0
"""Several models on one edge, in less memory than all of them need: loaded when asked for, unloaded for others."""
import threading

import httpx
import pytest

from network import eventually, tiny_gguf, tiny_model

HELLO = [{"role": "user", "content": "Say something about the sea."}]
SMALL = {"slots": 2, "context": 256}


def need(edge, model):
    for line in edge.get("/metrics").text.splitlines():
        if line.startswith(f'mdn_model_memory_bytes{{model_name="{model}'):
            return int(line.split()[-1])
    raise AssertionError(f"no memory of {model}")


@pytest.fixture(scope="module")
def three(models):
    return [tiny_model(models, f"three-{i}", seed=30 + i, embedding=128, heads=4, ff=256, layers=2) for i in range(3)]


@pytest.fixture
def room_for_two(make_network, three):
    """What one needs is measured where there is room for all; then memory for two and a half."""
    wide = make_network(edges={"edge-1": "north"}, edge=SMALL)
    wide.push(three[0], "a")
    one = need(wide.edges[0], "a")
    wide.down()
    return int(one * 2.5)


def loaded(edge):
    return sorted(line.split('"')[1] for line in edge.get("/metrics").text.splitlines()
                  if line.startswith("mdn_model_loaded{") and line.endswith(" 1"))


def states(net, names):
    return {name: net.model(name)["nodes"][0]["state"] for name in names}


def settled(net, *names):
    eventually(lambda: all(s in ("ready", "cached") for s in states(net, names).values()), 60, "all are there")


def test_three_models_in_memory_for_two(make_network, three, room_for_two):
    net = make_network(edges={"edge-1": "north"}, edge={**SMALL, "memory_max": str(room_for_two)})
    for name, file in zip("abc", three):
        net.push(file, name, ready=False)
        settled(net, name)
    edge = net.edges[0]
    assert sorted(states(net, "abc").values()) == ["cached", "ready", "ready"]
    assert sorted(m["id"] for m in edge.get("/v1/models").json()["data"]) == ["a:latest", "b:latest", "c:latest"]
    with edge.openai() as client:
        said = {}
        for name in "abcacb":
            answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=8, temperature=0)
            text = answer.choices[0].message.content
            assert said.setdefault(name, text) == text and answer.usage.completion_tokens == 8
            assert f"{name}:latest" in loaded(edge) and len(loaded(edge)) <= 2
        # many at once, for all of them: each waits for its model and is answered
        failures = []

        def ask(name):
            try:
                text = client.chat.completions.create(model=name, messages=HELLO, max_tokens=8, temperature=0)
                assert text.choices[0].message.content == said[name]
            except Exception as e:  # told below
                failures.append(e)
        threads = [threading.Thread(target=ask, args=("abc"[i % 3],)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failures, failures[0]
    assert edge.metric("mdn_requests_waiting_for_model") == 0
    lines = net.mdn("models", "--loaded").splitlines()
    assert lines[0].split() == ["NODE", "MODEL", "STATE", "MEMORY", "ASKED", "PINNED"] and len(lines) == 4
    assert any("on disk, loaded when asked for" in line for line in lines), lines
    assert edge.metric("mdn_model_unloads_total") > 0


def test_a_pinned_model_stays_and_one_too_large_says_so(make_network, three, room_for_two):
    net = make_network(edges={"edge-1": "north"}, edge={**SMALL, "memory_max": str(room_for_two), "pin": "a"})
    for name, file in zip("abc", three):
        net.push(file, name, ready=False)
        settled(net, name)
    edge = net.edges[0]
    with edge.openai() as client:
        for name in "bcbc":
            client.chat.completions.create(model=name, messages=HELLO, max_tokens=2)
            assert "a:latest" in loaded(edge)
    edge.stop()
    edge.write_config(memory_max=str(room_for_two // 5))
    edge.start()
    eventually(lambda: states(net, "b")["b"] == "failed", 60, "b cannot be loaded")
    error = net.model("b")["nodes"][0]["error"]
    assert "memory_max" in error and "MiB" in error, error
    answer = httpx.post(edge.api_url + "/v1/chat/completions", timeout=20, json={"model": "b", "messages": HELLO})
    assert answer.status_code == 503 and "failed" in answer.json()["error"]["message"]


def test_idle_models_are_unloaded_and_come_back(make_network, three):
    net = make_network(edges={"edge-1": "north"}, edge={**SMALL, "model_idle_unload": "1s"})
    net.push(three[0], "a", ready=False)
    settled(net, "a")
    edge = net.edges[0]
    eventually(lambda: loaded(edge) == [], 20, "it is unloaded")
    with edge.openai() as client:
        assert client.chat.completions.create(model="a", messages=HELLO, max_tokens=3).usage.completion_tokens == 3
    assert loaded(edge) == ["a:latest"]


def test_lora_adapters_are_models_answered_by_their_base(make_network, models):
    """As its merged model, beside the base, also when it comes after the base was loaded."""
    base, merged = tiny_model(models, "lora-base"), str(models / "lora-merged.gguf")
    adapter = tiny_gguf.make_adapter(str(models / "lora-adapter.gguf"), merged, seed=5)
    net = make_network(edges={"edge-1": "north"}, edge=SMALL)
    net.push(base, "base")
    net.push(merged, "merged")
    net.mdn("push", adapter, "tuned", "--base", "base:latest", "--repository", net.repository_url, "--quiet")
    net.place("tuned")
    net.wait_model("tuned")
    edge = net.edges[0]
    with edge.openai() as client:
        def say(model, prompt):
            return client.completions.create(model=model, prompt=prompt, max_tokens=16, temperature=0).choices[0].text

        for prompt in ("Once upon a time", "The sea is"):
            assert say("tuned", prompt) == say("merged", prompt) != say("base", prompt)
        said = {m: say(m, "Dear friend") for m in ("base", "tuned", "merged")}
        failures = []

        def ask(model):
            try:
                assert say(model, "Dear friend") == said[model]
            except Exception as e:  # told below
                failures.append(e)
        threads = [threading.Thread(target=ask, args=(("base", "tuned", "merged")[i % 3],)) for i in range(18)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures, failures[0]
    net.mdn("push", adapter, "orphan", "--base", "nobody:latest", "--repository", net.repository_url, "--quiet")
    net.place("orphan")
    eventually(lambda: states(net, ["orphan"])["orphan"] == "failed", 20, "it has no base here")
    assert "nobody:latest" in net.model("orphan")["nodes"][0]["error"]
