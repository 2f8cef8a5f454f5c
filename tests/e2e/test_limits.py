# SPDX-License-Identifier: Apache-2.0
"""Bandwidth calendars, deadlines, pause, and what becomes of models that are no longer placed."""
import os
import time

import pytest

from network import CommandFailed, eventually

MB = 1e6


def node(net, model, name):
    return next(n for n in net.model(model)["nodes"] if n["name"] == name)


def held(edge):
    root = edge.folder / "blobs/blobs/sha256"
    return {p.name for p in root.rglob("*") if p.is_file()}


def digest(net, model):
    return net.model(model)["files"][0]["digest"].split(":")[1]


@pytest.fixture
def limited(make_network, big):
    net = make_network(edges={"edge-1": "north", "edge-2": "north"})
    net.push(big, "big", on=None)
    return net


def test_a_limit_holds_and_the_eta_is_honest(limited, big):
    net, size = limited, os.path.getsize(big)
    net.mdn("limit", "set", "node=edge-1", "16Mbit/s")
    assert "16Mbit/s" in net.mdn("limit", "list")
    started = time.time()
    net.place("big", "node=edge-1")
    seen = eventually(lambda: [n for n in net.model("big")["nodes"] if n["have_bytes"] > 0.15 * size and n["eta_us"] > 0])
    at, eta = time.time(), seen[0]["eta_us"] / 1e6
    eventually(lambda: node(net, "big", "edge-1")["state"] == "ready", 60, every=0.1)
    done = time.time()
    took = done - started
    assert took > 0.95 * size / (2 * MB), f"{size / took / MB:.2f} MB/s is more than 2"
    assert abs((eta - at) - (done - at)) < 0.2 * (done - at) + 1, f"said {eta - at:.1f} s, took {done - at:.1f} s"


def test_a_sites_limit_is_shared_and_can_change_on_the_way(limited, big):
    net, size = limited, os.path.getsize(big)
    net.mdn("limit", "set", "site=north", "16Mbit/s")
    net.place("big", "role=edge")
    begun = time.time()
    eventually(lambda: all(n["have_bytes"] > 0.1 * size for n in net.model("big")["nodes"]), 30)
    # The limit is of what crosses the site's border, which each gives to the other: two copies at most.
    both = sum(n["have_bytes"] for n in net.model("big")["nodes"]) / (time.time() - begun)
    assert both < 1.3 * 2 * 2 * MB, f"together {both / MB:.1f} MB/s"
    net.mdn("limit", "set", "site=north", "stop")

    def still():
        before = sum(n["have_bytes"] for n in net.model("big")["nodes"])
        time.sleep(2)
        return sum(n["have_bytes"] for n in net.model("big")["nodes"]) - before < 0.05 * size

    eventually(still, 30, "nothing comes any more, but what one has and the other has not")
    assert all(n["have_bytes"] < size for n in net.model("big")["nodes"]), "it was not stopped"
    net.center.kill()
    net.center.start()
    eventually(lambda: net.json("limit", "list")["limits"][0]["calendar"] == "stop", what="the center knows its limits")
    net.mdn("limit", "remove", "site=north")
    net.wait_model("big")
    assert net.json("limit", "list")["limits"] == []


def test_what_a_node_sends_is_limited(limited, big):
    net, size = limited, os.path.getsize(big)
    net.mdn("limit", "set", "node=repository", "32Mbit/s")
    time.sleep(1)
    started = time.time()
    net.place("big", "role=edge")
    eventually(lambda: all(n["state"] == "ready" for n in net.model("big")["nodes"]), 60)
    # Many begin at once: until each has asked a second time there is more. A real model is longer than that.
    assert time.time() - started > 0.5 * size / (4 * MB)


def test_deadlines_are_judged(limited):
    net = limited
    net.mdn("limit", "set", "node=edge-1", "8Mbit/s")
    out = net.mdn("place", "big", "--on", "node=edge-1", "--within", "5s")
    assert "will not make it: needs" in out or "not known" in out
    eventually(lambda: "will not make it" in net.model("big")["verdict"] or "too late" in net.model("big")["verdict"])
    net.mdn("place", "big", "--on", "node=edge-1", "--within", "2h")
    eventually(lambda: "will make it at" in net.model("big")["verdict"])
    net.mdn("limit", "remove", "node=edge-1")
    net.wait_model("big", ["edge-1"])
    assert net.model("big")["verdict"] == "made it"


def test_pause_resume_cancel(limited, big):
    net, size = limited, os.path.getsize(big)
    net.mdn("limit", "set", "site=north", "32Mbit/s")
    net.place("big", "role=edge")
    eventually(lambda: any(n["have_bytes"] > 0.1 * size for n in net.model("big")["nodes"]))
    net.mdn("pause", "big")
    eventually(lambda: {n["state"] for n in net.model("big")["nodes"]} == {"paused"})
    before = [n["have_bytes"] for n in net.model("big")["nodes"]]
    time.sleep(2)
    assert [n["have_bytes"] for n in net.model("big")["nodes"]] == before and any(before)
    assert net.model("big")["paused"]
    net.mdn("resume", "big")
    net.mdn("limit", "remove", "site=north")
    assert "edge-1 ready" in net.mdn("models", "big", "--watch").splitlines()[-1]
    net.mdn("cancel", "big")
    eventually(lambda: net.model("big")["nodes"] == [])
    with pytest.raises(CommandFailed, match="no rule places"):
        net.mdn("cancel", "big")


def test_what_is_no_longer_placed_is_kept_as_long_as_there_is_room(make_network, tiny, models, big):
    net = make_network(edges={"edge-1": "north"}, edge={"cache_max": "10M"})
    edge = net.edges[0]
    net.push(big, "big:v1")
    net.push(tiny, "small:v1")
    small, large = digest(net, "small:v1"), digest(net, "big:v1")
    net.mdn("place", "small:v1", "--on", "role=edge", "--remove")
    net.mdn("place", "big:v1", "--on", "role=edge", "--remove")
    # Used a moment ago, nothing goes; then the larger one, the older of the two, is more than may be kept.
    assert {small, large} <= held(edge)
    for age, name in (7200, large), (3600, small):
        path = next(p for p in (edge.folder / "blobs/blobs/sha256").rglob(name))
        os.utime(path, (time.time() - age,) * 2)
    eventually(lambda: large not in held(edge), 100, "the large model is dropped", every=0.2)
    assert small in held(edge)
    net.mdn("place", "small:v1", "--on", "role=edge")
    net.wait_model("small:v1")
    assert "is on disk" in edge.log()
