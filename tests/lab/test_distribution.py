# SPDX-License-Identifier: Apache-2.0
"""A model on its way to three sites: two edges at each, one line to each. Lines are cut, the center goes, a site is slow,
a node lies. What counts is who has it in the end and how many bytes a line carried, not how long it took.
"""
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import conftest
import lab as labs
from network import eventually, tiny_model

SITES = ("paris", "oslo", "rome")
RATE, DELAY = 40, 10  # Mbit/s and ms of each line
WIRE = 1514 / 1448  # a full frame carries 1448 bytes
# Copies that a line carries: 1 is the goal, and what bench/run distribution sites measures with large models on a quiet
# machine. These models have 48 chunks and the machine is busy: each chunk that was asked for twice counts 2 %. Without a
# plan it would be 2 into each site and 6 out of the core.
ONE, ONE_AND_TROUBLE = 1.5, 1.7


class SiteNetwork(labs.LabNetwork):
    by_site = True


@pytest.fixture(scope="module")
def net(lab):
    own = labs.Lab()
    folder = Path(tempfile.mkdtemp(prefix="mdn-lab-"))
    edges = {f"{site}-{i}": site for site in SITES for i in (1, 2)}
    network = SiteNetwork(own, folder, edges=edges, edge=conftest.EDGE, center={"cert_life": "1h"})
    conftest.networks.append(network)
    try:
        with own.place("core"):
            network.up()
            network.chatter = chatter(network)
            yield network
    finally:
        network.down()
        conftest.networks.remove(network)
        own.end()
        shutil.rmtree(folder, ignore_errors=True)


def chatter(net, seconds=2):
    """Bytes a second in and out of each place when nothing is moved: reports and maps."""
    before = {name: place.line_bytes() for name, place in net.lab.places.items()}
    time.sleep(seconds)
    return {name: [(b - a) / seconds for a, b in zip(before[name], place.line_bytes())]
            for name, place in net.lab.places.items()}


@pytest.fixture(autouse=True)
def links(net):
    lines(net)
    yield
    lines(net)


def lines(net):
    for name, place in net.lab.places.items():
        place.link.plain()
        if name in SITES:
            place.link(f"delay {DELAY}", f"rate {RATE}")


class Model:
    """One on its way to all edges, and what the lines carried since."""

    def __init__(self, net, models, name, seed):
        self.net, self.name = net, name
        self.file = tiny_model(models, name, embedding=256, ff=1024, layers=3, seed=seed)
        data = Path(self.file).read_bytes()
        self.size, self.hex = len(data), hashlib.sha256(data).hexdigest()
        net.push(self.file, name, on=None)

    def go(self, on="role=edge"):
        self.before = {name: place.line_bytes() for name, place in self.net.lab.places.items()}
        self.began = time.monotonic()
        self.net.place(self.name, on)

    def copies(self, place, way):
        """Into a place (0) or out of it (1)."""
        carried = self.net.lab.places[place].line_bytes()[way] - self.before[place][way]
        carried -= self.net.chatter[place][way] * (time.monotonic() - self.began)
        return max(0, carried) / (self.size * WIRE)

    def have(self, site=None):
        """The share that an edge of the site, or of any, has at least."""
        nodes = [n for n in self.net.model(self.name)["nodes"] if site in (None, n["site"])]
        return min((n["have_bytes"] for n in nodes), default=0) / self.size

    def path(self, edge):
        return edge.folder / "blobs/blobs/sha256" / self.hex[:2] / self.hex

    def whole(self, *sites):
        """On the disks of all edges there, whatever the center knows."""
        return all(self.path(e).exists() for e in self.net.edges if not sites or e.site in sites)

    def ends_well(self):
        eventually(self.whole, 60, f"{self.name} is everywhere")
        self.net.wait_model(self.name)
        for edge in self.net.edges:
            if edge.runs:
                assert hashlib.sha256(self.path(edge).read_bytes()).hexdigest() == self.hex, edge.name
        self.net.mdn("place", self.name, "--on", "role=edge", "--remove")

    def bounded(self, most, core):
        """Copies that went into the sites, one with another, and out of the core."""
        into, out = {site: self.copies(site, 0) for site in SITES}, self.copies("core", 1)
        told = ", ".join(f"{site} {copies:.2f}" for site, copies in into.items()) + f", core sent {out:.2f}"
        conftest.recoveries.append((f"{self.name}: copies into {told}; seconds so far:", time.monotonic() - self.began))
        assert sum(into.values()) / len(into) <= most and out <= core, told


def test_each_line_carries_one_copy(net, models):
    model = Model(net, models, "plain", 11)
    model.go()
    eventually(model.whole, 60)
    model.bounded(ONE, core=2)
    model.ends_well()


def test_a_line_that_is_off_for_five_seconds_goes_on_where_it_was(net, models):
    model = Model(net, models, "pause", 12)
    model.go()
    eventually(lambda: model.have("oslo") > 0.3, every=0.02)
    net.lab.places["oslo"].link("cut")
    time.sleep(5)
    assert not model.whole("oslo")
    net.lab.places["oslo"].link("restore")
    eventually(model.whole, 60)
    model.bounded(ONE_AND_TROUBLE, core=3)
    model.ends_well()


def test_a_site_that_is_cut_off_comes_last_and_takes_only_what_it_lacks(net, models):
    model = Model(net, models, "gone", 13)
    model.go()
    eventually(lambda: model.have("rome") > 0.5, every=0.02)
    net.lab.places["rome"].link("cut")
    eventually(lambda: model.whole("paris", "oslo"), 60, "the others have it")
    eventually(lambda: net.node("rome-1")["health"] == "down", what="it is known to be away")
    net.lab.places["rome"].link("restore")
    eventually(model.whole, 60)
    model.bounded(ONE_AND_TROUBLE, core=3)
    model.ends_well()


def test_without_the_center_the_nodes_know_each_other(net, models):
    model = Model(net, models, "alone", 14)
    model.go()
    eventually(lambda: model.have() > 0.1, every=0.02)
    net.lab.places["center"].link("cut")
    eventually(model.whole, 90, "it is everywhere without the center")
    model.bounded(ONE_AND_TROUBLE, core=3)
    net.lab.places["center"].link("restore")
    net.wait_up()
    model.ends_well()


def test_a_slow_site_holds_up_nobody(net, models):
    model = Model(net, models, "slow", 15)
    net.lab.places["paris"].link(f"rate {RATE // 8}")
    model.go()
    eventually(lambda: model.whole("oslo", "rome"), 60, "the others have it")
    assert not model.whole("paris") and model.have("paris") < 0.6
    net.lab.places["paris"].link(f"rate {RATE}")
    eventually(model.whole, 60)
    model.bounded(ONE_AND_TROUBLE, core=3)
    model.ends_well()


# ---- a node that lies --------------------------------------------------------------------------------


def last_report(net, edge):
    """As the scheduler got it, without what it added."""
    url = f"{net.scheduler.node_url}/mdn/v1/map"
    with net.http().stream("GET", url) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                found = [n for n in json.loads(line[5:])["nodes"] if n["name"] == edge.name]
                if found:
                    return {k: v for k, v in found[0].items() if k not in ("health", "age_us")}


class Hostile:
    """In the place of an edge, with its identity."""

    def __init__(self, net, edge, model, mode):
        self.net, self.edge, self.asked, self.said = net, edge, 0, []
        self.id = edge.id
        document = {"report": last_report(net, edge), "size": model.size,
                    "to": [f"{net.center.node_url}/mdn/v1/report", f"{net.scheduler.node_url}/mdn/v1/report?to=scheduler"]}
        edge.kill()
        with edge.place:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("hostile.py"), edge.folder, edge.config["node_listen"], mode],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                preexec_fn=labs.end_with_parent)
        self.process.stdin.write(json.dumps(document))
        self.process.stdin.close()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            if line == "asked\n":
                self.asked += 1
            else:
                self.said.append(line)

    def end(self):
        self.process.kill()
        self.process.wait(10)
        self.edge.start()
        self.net.wait_up()


def test_a_node_that_lies_is_named_and_left_alone(net, models):
    model = Model(net, models, "lies", 16)
    liar = net.nodes["paris-1"]
    net.place(model.name, "node=paris-1")
    net.wait_model(model.name, ["paris-1"])
    hostile = Hostile(net, liar, model, "mixed")
    try:
        eventually(lambda: net.node("paris-1")["health"] == "up", what=f"it is believed: {hostile.said[-3:]}")
        model.go()
        others = [e for e in net.edges if e is not liar]
        eventually(lambda: all(model.path(e).exists() for e in others), 90, "all others have it")
        assert all(hashlib.sha256(model.path(e).read_bytes()).hexdigest() == model.hex for e in others)
        assert hostile.asked, f"it was not asked: {hostile.said[-3:]}"
        assert any(f"from node {hostile.id} is not what was asked for" in e.log() for e in others), "it is named"
        # Left alone: a few questions a node and file, not one a chunk.
        assert hostile.asked <= 8 * len(others), f"asked {hostile.asked} times"
        model.bounded(ONE_AND_TROUBLE, core=3)
    finally:
        hostile.end()
    model.ends_well()
