# SPDX-License-Identifier: Apache-2.0
"""One lab with one network for all tests; each leaves the links plain and the nodes running."""
import contextlib
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

import lab as labs
from network import CommandFailed, tiny_model

# Timing is a model's, arithmetic is none: what is tested here is the network.
EDGE = {"engine": "synthetic", "context": 65536}
CERT_LIFE_S = 10
networks, recoveries = [], []


def pytest_configure():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # fixtures are then torn down as after Ctrl-C


@pytest.fixture(scope="session")
def lab():
    reason = labs.why_not()
    if reason:
        pytest.skip(reason)
    subprocess.run(["ninja", "-C", labs.MDN.parent, "--quiet", "tests/lab/link"], check=True)
    made = labs.Lab()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def net(lab, models):
    """Edges `near` and `far`, each on a site of its own, both with the model `tiny`; `far` alone has `remote`. It is 20 ms
    from `far` to everybody else, from the first byte on."""
    folder = Path(tempfile.mkdtemp(prefix="mdn-lab-"))
    network = labs.LabNetwork(lab, folder, edges={"near": "north", "far": "south"}, edge=EDGE,
                              center={"cert_life": f"{CERT_LIFE_S}s"})
    networks.append(network)
    links_home(network)
    try:
        with lab.place("core"):
            network.up()
            network.push(tiny_model(models), "tiny")
            network.push(tiny_model(models, "remote", seed=2), "remote", on="node=far")
            yield network
    finally:
        network.down()
        shutil.rmtree(folder, ignore_errors=True)


def links_home(network):
    for place in network.lab.places.values():
        place.link.plain()
    network.nodes["far"].link("delay 20")


@pytest.fixture
def links(net):
    """For tests that change links: as they were, afterwards."""
    yield
    links_home(net)


@pytest.fixture
def add_edge(net):
    """add_edge(name, site, env=...): one more edge, joined and running; removed afterwards."""
    added = []

    def add(name, site, env=None):
        node = net.add_edge(name, site, **EDGE)
        added.append(node)
        net.join(node, env=env).start(env)
        net.wait_up([name])
        return node

    yield add
    for node in added:
        with contextlib.suppress(CommandFailed):  # the test has removed it already
            net.mdn("remove", node.name)
        node.stop()
        del net.nodes[node.name]


@pytest.fixture
def recovery():
    """recovery(what, seconds): noted, and printed when all tests are done."""
    return lambda what, seconds: recoveries.append((what, seconds))


def pytest_terminal_summary(terminalreporter):
    if recoveries:
        terminalreporter.section("recovery times")
        for what, seconds in recoveries:
            terminalreporter.write_line(f"{seconds:7.2f} s  {what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for network in networks:
            report.sections.append((f"network in {network.folder}", network.tails()))
    return report
