# SPDX-License-Identifier: Apache-2.0
"""kill -9 on the way of a model: while manifests come in, while garbage goes, several times in one distribution, and in
each state of a roll-out. What was answered with yes is there afterwards, every digest is right, no client notices.

Uploads are in test_repository.py, quantizing in test_versions.py, one kill in each other phase in test_kill.py.
"""
import hashlib
import json
import os
import random
import subprocess
import threading
import time

import httpx
import pytest

from network import MDN, eventually, tiny_model
from test_distribution import blob_of, is_whole, progress, written
from test_kill import check_blobs, kill_and_restart
from test_rollout import Load, phase, push, running
from test_store import MANIFEST, Registry, blob_files

DOWN_S = 0.3
GARBAGE = 100


def answers(net):
    return eventually(lambda: httpx.get(net.repository_url + "/v2/").status_code == 200, what="the repository answers")


# ---- the repository alone ----------------------------------------------------------------------------

class Pusher:
    """Pushes small models, each under a tag of its own and under "latest", until it is cut off."""

    def __init__(self, net, round_):
        self.registry, self.prefix = Registry(net.repository_url), f"r{round_}"
        self.acked, self.tried, self.latest = [], None, None
        self.began = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def put(self, tag, body):
        answer = self.registry.http.put(f"/v2/many/manifests/{tag}", content=body, headers={"Content-Type": MANIFEST})
        assert answer.status_code == 201, answer.text

    def run(self):
        try:
            while True:
                config = self.registry.push_blob("many", b"{}")
                layer = self.registry.push_blob("many", random.randbytes(2000))
                body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                                   "layers": [layer]}).encode()
                tag, digest = f"{self.prefix}-{len(self.acked)}", "sha256:" + hashlib.sha256(body).hexdigest()
                self.put(tag, body)
                self.acked.append((tag, digest))
                self.tried = digest
                self.put("latest", body)
                self.latest = digest
                self.began.set()
        except httpx.TransportError:
            pass


def test_what_the_repository_said_yes_to_outlives_it(make_network):
    net = make_network(edges={})
    everything = []
    for round_ in range(5):
        pusher = Pusher(net, round_)
        assert pusher.began.wait(20)
        time.sleep(random.uniform(0.01, 0.15))
        net.repository.kill()
        pusher.thread.join(30)
        net.repository.start()
        answers(net)
        everything += pusher.acked
        latest = pusher.registry.http.get("/v2/many/manifests/latest").headers["docker-content-digest"]
        assert latest in (pusher.latest, pusher.tried), "the tag is where it was last put, or on its way"
        for tag, digest in everything:
            assert pusher.registry.http.head(f"/v2/many/manifests/{tag}").headers["docker-content-digest"] == digest
        for tag, _ in pusher.acked:
            pusher.registry.whole("many", tag)
    assert len(everything) >= 5
    net.wait_up()
    assert net.json("fsck")["faults"] == []


def test_killed_while_it_collects_garbage_it_goes_on_with_the_rest(make_network):
    net = make_network(edges={}, repository={"gc_lease": "100ms"})
    registry = Registry(net.repository_url)
    registry.push("kept", "v1", *(b"kept %d" % i * 100 for i in range(20)))
    kept = len(blob_files(net.repository))
    for round_ in range(2):
        lost = registry.push("lost", "v1", *(b"lost %d %d" % (round_, i) * 100 for i in range(GARBAGE)))
        registry.delete("lost", lost)
        time.sleep(0.2)
        full = len(blob_files(net.repository))
        assert full >= kept + GARBAGE
        collector = subprocess.Popen([MDN, "gc"], env=os.environ | {"MDN_OPERATOR": str(net.operator)}, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        eventually(lambda: len(blob_files(net.repository)) < full - random.randrange(GARBAGE // 2), what="garbage goes", every=0)
        net.repository.kill()
        collector.wait(30)
        net.repository.start()
        answers(net)
        registry.whole("kept", "v1")
        # what was garbage, gone or not, can be pushed again
        again = registry.push("lost", "v1", *(b"lost %d %d" % (round_, i) * 100 for i in range(0, GARBAGE, 7)))
        registry.whole("lost", "v1")
        registry.delete("lost", again)
    net.wait_up()
    time.sleep(0.2)
    eventually(lambda: net.json("gc") and len(blob_files(net.repository)) == kept, what="all garbage is gone")
    assert net.json("fsck")["faults"] == []
    registry.whole("kept", "v1")


# ---- a distribution ----------------------------------------------------------------------------------

def test_everybody_is_killed_in_one_distribution(make_network, tiny, big, recovery):
    edges = {f"edge-{i}": "north" if i < 4 else "south" for i in range(1, 6)}
    net = make_network(edges=edges, edge={"fetch_rate": "5M"})
    size = os.path.getsize(big)
    net.push(tiny, "tiny")
    net.push(big, "big", on=None)
    sent, order = 0, ["repository", "edge-2", "center", "edge-4", "repository", "center", "edge-1"]
    with Load(net, "tiny", retry=True) as load:
        net.place("big")
        before = written(net.repository.process)
        for step, victim in enumerate(order):
            share = (step + 0.5) / (len(order) + 1)
            eventually(lambda: sum(n["have_bytes"] for n in progress(net).values()) > share * size * len(edges), 60,
                       f"{share:.0%} is there", every=0.02)
            node = net.nodes[victim]
            if victim == "repository":
                sent, before = sent + written(node.process) - before, 0
            node.kill()
            time.sleep(DOWN_S)
            node.start()
        last = time.monotonic()
        net.wait_model("big")
        recovery("everybody killed in one distribution: the last kill to ready", time.monotonic() - last)
    sent += written(net.repository.process) - before
    digest = net.model("big")["files"][0]["digest"]
    assert all(is_whole(edge, digest) for edge in net.edges)
    assert all(not list((edge.folder / "blobs/partial").iterdir()) for edge in net.edges)
    check_blobs(net)
    assert load.asked > 20 and not load.failures, load.failures[:3]
    assert sent < 3.5 * size, f"the repository sent {sent / size:.1f} copies to 5 edges"


# ---- a roll-out --------------------------------------------------------------------------------------

@pytest.mark.parametrize("victim", ["center", "repository", "edge-1"])
def test_killed_in_each_state_of_a_roll_out(make_network, models, tiny, victim):
    net = make_network()
    net.push(tiny, "m:stable")
    net.mdn("place", "m:stable", "--on", "role=edge", "--percent", "34,100", "--soak", "2s")
    second = tiny_model(models, "second", seed=2, embedding=64, layers=2, context=4096)
    seen = []

    def kill_in(*phases, seconds=60):
        eventually(lambda: phase(net, "m:stable") in phases, seconds, f"the roll-out is {phases}", every=0.01)
        seen.append(phases[0])
        kill_and_restart(net.nodes[victim])

    def settles(wanted, digest):
        eventually(lambda: phase(net, "m:stable") == wanted, 60, f"the roll-out is {wanted}")
        eventually(lambda: set(running(net, "m:stable").values()) == {digest}, 30, f"all run what is {wanted}")

    with Load(net, "m:stable", retry=True) as load:
        old, new = push(net, second, "m:stable")
        kill_in("moving", "soaking")
        kill_in("soaking")
        eventually(lambda: net.mdn("rollout", "halt", "m:stable") is not None, what="it can be halted")
        kill_in("halted")
        eventually(lambda: net.json("nodes"), what="the center answers")
        assert phase(net, "m:stable") == "halted"
        net.mdn("rollout", "rollback", "m:stable")
        kill_in("returning", "returned")
        settles("returned", old)
        kill_in("returned")
        settles("returned", old)
        net.mdn("rollout", "continue", "m:stable")
        kill_in("moving", "soaking")
        settles("done", new)
        kill_in("done")
        net.wait_up()
        settles("done", new)
    assert len(seen) == 7
    check_blobs(net)
    assert load.asked > 20 and not load.failures, load.failures[:3]
    assert is_whole(net.nodes["edge-1"], net.model("m:stable")["files"][0]["digest"])
    assert blob_of(net.repository, net.model("m:stable")["files"][0]["digest"]).exists()
