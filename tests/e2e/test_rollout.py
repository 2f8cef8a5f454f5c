# SPDX-License-Identifier: Apache-2.0
"""New versions of a model under load: no request may fail, a bad version goes back by itself, kills change nothing."""
import json
import threading
import time

import httpx
import pytest

from network import eventually, tiny_model

SHORT = [{"role": "user", "content": "Hello"}]
SOAK = ["--soak", "1s"]


class Load:
    """Clients that ask all the time, each the next edge when one cannot be reached; every answer is checked."""

    def __init__(self, net, model, clients=2, retry=False):
        self.net, self.model, self.retry = net, model, retry
        self.asked, self.failures, self.stop = 0, [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(clients)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        eventually(lambda: self.asked > 5 or self.failures, what="requests are answered")
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join(60)

    def run(self, number):
        edges = self.net.edges
        while not self.stop.is_set():
            number += 1
            error = None
            for attempt in range(len(edges) if self.retry else 1):
                error = self.ask(edges[(number + attempt) % len(edges)])
                if error is None:
                    break
            if error:
                self.failures.append((time.monotonic(), error))
            self.asked += 1
            time.sleep(0.02)

    def ask(self, edge):
        try:
            with httpx.stream("POST", edge.api_url + "/v1/chat/completions", timeout=60, json={
                    "model": self.model, "messages": SHORT, "max_tokens": 8, "stream": True}) as answer:
                text = answer.read().decode()
                if answer.status_code != 200 or not text.rstrip().endswith("data: [DONE]"):
                    return f"{edge.name}: {answer.status_code} {text[-300:]}"
        except httpx.HTTPError as e:
            return f"{edge.name}: {e!r}"
        return None


def rollout(net, model):
    return net.json("rollout", "show", model)


def phase(net, model):
    return next((r["phase"] for r in net.json("rollout", "list")["rollouts"] if r["model"] == model), None)


def running(net, model):
    """Which version answers where."""
    return {n["name"]: next((m["digest"] for m in n["models"] if m["name"] == model and m["state"] == "ready"), None)
            for n in net.json("nodes")["nodes"] if "edge" in n["roles"]}


def push(net, file, model):
    before = net.model(model)["manifest"]
    net.mdn("push", file, model, "--repository", net.repository_url, "--quiet")
    eventually(lambda: net.model(model)["manifest"] != before, what="the center hears of the new version")
    return before, net.model(model)["manifest"]


@pytest.fixture
def second(models):
    return tiny_model(models, "second", seed=2, embedding=64, layers=2, context=4096)


def test_a_moved_tag_is_followed_without_a_failed_request(make_network, tiny, second):
    net = make_network()
    net.push(tiny, "m:stable")
    with Load(net, "m:stable") as load:
        old, new = push(net, second, "m:stable")
        eventually(lambda: phase(net, "m:stable") == "done", 60, "the roll-out is done")
        eventually(lambda: set(running(net, "m:stable").values()) == {new}, what="all run the new version")
        time.sleep(1)
    assert load.asked > 20 and not load.failures, load.failures[:3]
    # and back, though it is done
    with Load(net, "m:stable") as load:
        net.mdn("rollout", "rollback", "m:stable")
        eventually(lambda: set(running(net, "m:stable").values()) == {old}, 60, "all run the old version")
        eventually(lambda: phase(net, "m:stable") == "returned")
    assert not load.failures, load.failures[:3]


def test_without_memory_for_two_versions_nodes_take_turns(make_network, tiny, second):
    net = make_network()
    net.push(tiny, "m:stable")
    for edge in net.edges:  # room for one and a half
        one = next(int(line.split()[-1]) for line in edge.get("/metrics").text.splitlines()
                   if line.startswith("mdn_model_memory_bytes{"))
        edge.stop()
        edge.write_config(memory_max=str(one * 3 // 2))
        edge.start()
    net.wait_up()
    net.wait_model("m:stable")
    with Load(net, "m:stable") as load:
        _, new = push(net, second, "m:stable")
        silent = []

        def done():
            silent.append(list(running(net, "m:stable").values()).count(None))
            return phase(net, "m:stable") == "done"
        eventually(done, 90, "the roll-out is done")
        assert set(running(net, "m:stable").values()) == {new}
    assert max(silent) == 1
    assert not load.failures, load.failures[:3]


def test_canaries_come_first_and_waves_follow(make_network, tiny, second):
    net = make_network()
    net.push(tiny, "m:stable", on=None)
    net.mdn("place", "m:stable", "--on", "role=edge", "--canary", "site=south", "--percent", "50,100", *SOAK)
    net.wait_model("m:stable")
    eventually(lambda: phase(net, "m:stable") == "done", 60, "the first roll-out, in waves too, is done")
    old, new = push(net, second, "m:stable")
    order = []

    def done():
        now = running(net, "m:stable")
        order.extend(name for name, digest in now.items() if digest == new and name not in order)
        return phase(net, "m:stable") == "done"
    eventually(done, 60, "the roll-out is done")
    assert order[0] == "edge-3" and set(order) == {"edge-1", "edge-2", "edge-3"}
    shown = rollout(net, "m:stable")
    assert shown["waves"] == 3 and shown["old"] == old and shown["new"] == new
    assert "done" in net.mdn("rollout", "list")


def test_a_version_that_cannot_be_loaded_goes_back(make_network, models, tiny):
    net = make_network()
    net.push(tiny, "m:stable", on=None)
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,100", *SOAK)
    net.wait_model("m:stable")
    eventually(lambda: phase(net, "m:stable") == "done", 60)
    broken = models / "broken.gguf"
    data = bytearray((models / "tiny.gguf").read_bytes())
    at = data.index(b"llama")
    data[at:at + 5] = b"lamma"  # general.architecture
    broken.write_bytes(data)
    with Load(net, "m:stable") as load:
        old, _ = push(net, broken, "m:stable")
        eventually(lambda: phase(net, "m:stable") == "returned", 60, "the roll-out went back")
    assert set(running(net, "m:stable").values()) == {old}
    assert not load.failures, load.failures[:3]
    assert "cannot run it" in rollout(net, "m:stable")["why"]


def test_people_halt_continue_and_cancel(make_network, tiny, second):
    net = make_network()
    net.push(tiny, "m:stable", on=None)
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,100", "--soak", "1h")
    eventually(lambda: phase(net, "m:stable") == "soaking", 60)
    assert "placed nowhere" in net.mdn("cancel", "m:stable")  # a first distribution is taken back
    eventually(lambda: phase(net, "m:stable") is None)
    net.push(tiny, "m:stable")
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,100", "--soak", "1h")
    old, new = push(net, second, "m:stable")
    eventually(lambda: phase(net, "m:stable") == "soaking", 60)
    assert list(running(net, "m:stable").values()).count(new) == 2  # 34 % of 3
    net.mdn("rollout", "halt", "m:stable")
    net.center.kill()
    net.center.start()
    eventually(lambda: phase(net, "m:stable") == "halted")
    net.mdn("rollout", "continue", "m:stable")
    eventually(lambda: phase(net, "m:stable") == "soaking")
    net.mdn("cancel", "m:stable")
    eventually(lambda: phase(net, "m:stable") == "returned", 60)
    assert set(running(net, "m:stable").values()) == {old}


def test_preheated_models_wait_on_disk(make_network, tiny, second):
    net = make_network(edges={"edge-1": "north"})
    net.push(tiny, "m:v1", on=None)
    net.mdn("place", "m:v1", "--on", "role=edge", "--preheat", "--within", "1h")
    eventually(lambda: [n["state"] for n in net.model("m:v1")["nodes"]] == ["cached"], what="it is on disk")
    assert net.model("m:v1")["verdict"] == "made it"
    assert net.edges[0].get("/v1/models").json()["data"] == []
    net.mdn("push", tiny, "m:v1", "--on", "role=edge")  # names the place, and no more: nothing changes
    assert [n["state"] for n in net.model("m:v1")["nodes"]] == ["cached"]
    net.mdn("place", "m:v1", "--on", "role=edge")
    started = time.monotonic()
    net.wait_model("m:v1")
    assert time.monotonic() - started < 10


def test_replicas_and_labels(make_network, tiny):
    net = make_network(edges={}, up=False)
    for i in range(4):
        net.edges.append(net.add_edge(f"edge-{i}", "north" if i % 2 else "south", labels=[f"rack:{i}"]))
    net.up()
    net.push(tiny, "two:v1", on=None)
    assert net.json("place", "two:v1", "--on", "role=edge", "--replicas", "2")["nodes"] == 2
    net.wait_model("two:v1")
    assert len(net.model("two:v1")["nodes"]) == 2
    net.push(tiny, "rack:v1", on=None)
    net.mdn("place", "rack:v1", "--on", "label=rack:1,label=rack:2,!site=south")
    eventually(lambda: [(n["name"], n["state"]) for n in net.model("rack:v1")["nodes"]] == [("edge-1", "ready")])
    for name in [n["name"] for n in net.model("two:v1")["nodes"]][:1]:
        net.mdn("remove", name)
        net.nodes[name].kill()
    eventually(lambda: len([n for n in net.model("two:v1")["nodes"] if n["state"] == "ready"]) == 2,
               what="another node has it instead")


@pytest.mark.parametrize("victim", ["center", "repository", "edge-2"])
def test_kills_in_the_middle_cost_no_request(make_network, tiny, second, victim):
    net = make_network()
    net.push(tiny, "m:stable")
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,67,100", *SOAK)
    with Load(net, "m:stable", retry=True) as load:
        _, new = push(net, second, "m:stable")
        for _ in range(3):
            time.sleep(0.7)
            net.nodes[victim].kill()
            time.sleep(0.2)
            net.nodes[victim].start()
        eventually(lambda: phase(net, "m:stable") == "done", 120, "the roll-out is done")
        eventually(lambda: set(running(net, "m:stable").values()) == {new}, 30)
    assert load.asked > 20
    # A stream that the killed edge was sending ends with it, and its client asks again; nothing else may fail.
    assert not load.failures, load.failures[:3]


def test_progress_is_watched(make_network, models, big):
    net = make_network(edges={"edge-1": "north", "edge-2": "north"}, edge={"fetch_rate": "8M"})
    net.push(big, "big", on=None)
    net.place("big")
    with net.http().stream("GET", f"{net.center.node_url}/mdn/v1/events", params={"model": "big:latest"}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                document = json.loads(line[5:])
                node = [n for n in document["nodes"] if n["state"] == "fetching" and n["fetch_rate"]]
                if node:
                    break
    assert node[0]["eta_us"] > 0 and document["eta_us"] >= node[0]["eta_us"] and document["on"] == ["role=edge"]
    assert node[0]["file"].endswith(".gguf")
    net.wait_model("big")
    assert net.model("big")["eta_us"] == 0


def test_a_slower_version_goes_back(make_network, models, tiny):
    net = make_network()
    net.push(tiny, "m:stable")
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,100", "--soak", "10m", "--latency-factor", "1.2")
    slow = tiny_model(models, "slow", seed=5, embedding=512, heads=4, ff=2048, layers=8, context=4096)
    with Load(net, "m:stable", clients=3) as load:
        old, _ = push(net, slow, "m:stable")
        eventually(lambda: phase(net, "m:stable") == "returned", 120, "the roll-out went back")
    assert not load.failures, load.failures[:3]
    why = rollout(net, "m:stable")["why"]
    assert "rose from" in why, why
    assert set(running(net, "m:stable").values()) == {old}
