# SPDX-License-Identifier: Apache-2.0
"""From the repository to the edges: who gets what, how far it is, and what kill -9 and bad disks do to it."""
import hashlib
import json
import os
import re
import threading
import time

import pytest

from network import eventually, tiny_model

SLOW = {"fetch_rate": "8M"}


@pytest.fixture
def slow(make_network, big):
    """Three edges that take at most 8 MB/s each, and `big` in the repository, placed nowhere."""
    net = make_network(edge=SLOW)
    net.push(big, "big", on=None)
    return net


def progress(net, model="big"):
    return {n["name"]: n for n in net.model(model)["nodes"]}


def blob_of(node, digest):
    hex_digest = digest.split(":")[1]
    return node.folder / "blobs/blobs/sha256" / hex_digest[:2] / hex_digest


def is_whole(node, digest):
    path = blob_of(node, digest)
    return path.exists() and "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() == digest


def written(process):
    """Bytes a process has written, to sockets and files alike."""
    with open(f"/proc/{process.pid}/io") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("wchar:"))


def watch_events(net, model, events):
    with net.http().stream("GET", f"{net.center.node_url}/mdn/v1/events", params={"model": model}) as stream:
        name = None
        for line in stream.iter_lines():
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                events.append((name, json.loads(line[5:])))
                if all(n["state"] == "ready" for n in events[-1][1]["nodes"]) and events[-1][1]["nodes"]:
                    return


def test_with_nothing_to_do_nodes_say_little(make_network):
    net = make_network(edges={"edge-1": "north"})
    before = {name: written(node.process) for name, node in net.nodes.items()}
    time.sleep(2)
    said = {name: written(node.process) - before[name] for name, node in net.nodes.items()}
    assert max(said.values()) < 100_000, said


def test_a_placed_model_comes_to_all_edges_with_visible_progress_and_few_copies(slow, big):
    events, size = [], os.path.getsize(big)
    before = written(slow.repository.process)
    watcher = threading.Thread(target=watch_events, args=(slow, "big:latest", events), daemon=True)
    watcher.start()
    assert slow.place("big")["nodes"] == 3
    seen = eventually(lambda: [n for n in progress(slow).values() if 0 < n["have_bytes"] < size and n["fetch_rate"]])[0]
    assert seen["state"] == "fetching" and seen["total_bytes"] >= size
    assert re.search("fetching.*[KM]iB/s", slow.mdn("models", "big"))
    slow.wait_model("big")
    sent = written(slow.repository.process) - before
    assert sent < 2.2 * size, f"the repository sent {sent / size:.1f} copies to 3 edges"

    digest = slow.model("big")["files"][0]["digest"]
    assert all(is_whole(edge, digest) for edge in slow.edges)
    watcher.join(5)
    assert events and {name for name, _ in events} == {"progress"}
    middle = [n for _, e in events for n in e["nodes"] if n["state"] == "fetching" and 0 < n["have_bytes"] < size]
    assert len(middle) >= 3
    answer = slow.edges[1].openai().chat.completions.create(
        model="big", messages=[{"role": "user", "content": "Hello"}], max_tokens=2)
    assert answer.usage.completion_tokens == 2


def test_an_edge_killed_midway_goes_on_with_what_it_had(slow, big, recovery):
    size, edge = os.path.getsize(big), slow.edges[2]
    slow.place("big", "node=edge-3")
    eventually(lambda: progress(slow)["edge-3"]["have_bytes"] > 0.4 * size)
    edge.kill()
    had, boot = progress(slow)["edge-3"]["have_bytes"], slow.node("edge-3")["boot"]
    assert 0 < had < size
    edge.start()
    started = time.monotonic()

    def again():
        node = slow.node("edge-3")
        return node["boot"] != boot and [m for m in node["models"] if m["have_bytes"]]
    first = eventually(again)[0]["have_bytes"]
    assert first >= had, f"it had {had} bytes and has {first} after the restart"
    slow.wait_model("big", ["edge-3"])
    recovery("edge killed during distribution: restart to ready", time.monotonic() - started)
    assert is_whole(edge, slow.model("big")["files"][0]["digest"])
    assert not list((edge.folder / "blobs/partial").iterdir())


def test_distribution_goes_on_while_the_repository_is_away(slow, big):
    """What one edge has whole, the others get from it."""
    slow.place("big", "node=edge-1")
    slow.wait_model("big", ["edge-1"])
    slow.repository.kill()
    slow.place("big", "role=edge")
    slow.wait_model("big", ["edge-1", "edge-2", "edge-3"])
    assert all(is_whole(edge, slow.model("big")["files"][0]["digest"]) for edge in slow.edges)


def test_a_rotten_copy_at_a_peer_is_not_taken_over(make_network, big):
    net = make_network(edges={"edge-1": "north"})
    net.push(big, "big")
    digest = net.model("big")["files"][0]["digest"]
    path = blob_of(net.edges[0], digest)
    path.chmod(0o600)
    with open(path, "r+b") as f:
        for at in range(0, os.path.getsize(big), 3 << 20):  # every third chunk
            f.seek(at + 1000)
            f.write(b"rotten")
    late = net.add_edge("edge-2", "north", **SLOW)
    net.edges.append(net.join(late).start())
    net.wait_model("big", ["edge-2"])
    assert is_whole(late, digest)


def test_what_a_rule_no_longer_names_goes_and_requests_for_it_are_passed_on(make_network, tiny):
    net = make_network(edges={"edge-1": "north", "edge-2": "south"})
    net.push(tiny, "m:v1")
    assert net.place("m:v1", "site=south")["nodes"] == 1
    net.mdn("place", "m:v1", "--on", "role=edge", "--remove")
    eventually(lambda: set(progress(net, "m:v1")) == {"edge-2"}, what="only the south holds it")
    eventually(lambda: [m["name"] for m in net.node("edge-1")["models"]] == [], what="edge-1 dropped it")
    answer = net.edges[0].openai().with_raw_response.chat.completions.create(
        model="m:v1", messages=[{"role": "user", "content": "Hello"}], max_tokens=2)
    assert answer.headers["x-mdn-node-name"] == "edge-2"


def test_a_tag_that_moves_brings_the_new_version_everywhere(make_network, models, tiny):
    net = make_network(edges={"edge-1": "north"})
    net.push(tiny, "m")
    first = net.model("m")["manifest"]
    net.mdn("push", tiny_model(models, "newer", seed=77), "m", "--repository", net.repository_url, "--quiet")
    eventually(lambda: net.model("m")["manifest"] != first, what="the center hears of the new version")
    new = net.model("m")["files"][0]["digest"]

    def replaced():
        m = [m for m in net.node("edge-1")["models"] if m["state"] == "ready"]
        return m and m[0]["digest"] == net.model("m")["manifest"]
    eventually(replaced, what="the edge runs the new version")
    assert is_whole(net.edges[0], new)
