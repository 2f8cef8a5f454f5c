# SPDX-License-Identifier: Apache-2.0
"""Fixtures: one network for all tests that leave it as it was, and `make_network` for those that do not.

A failed test shows the tails of the logs of every network it used. Recovery times that tests measure are printed at
the end.
"""
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from network import ROOT, Network, free_port, tiny_model
from scripted import Scripted

TINY = {"embedding": 64, "layers": 2, "context": 4096}
shared = []


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of models made for this run."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny(models):
    """A small model, loaded in milliseconds: two chunks."""
    return tiny_model(models, **TINY)


@pytest.fixture(scope="session")
def big(models):
    """24 MB: enough chunks that its way through the network can be watched and disturbed."""
    return tiny_model(models, "big", embedding=512, heads=4, ff=1024, layers=2, seed=3)


def network_folder():
    """Not pytest's own: those have long names, and the tests keep sockets in there."""
    return Path(tempfile.mkdtemp(prefix="mdn-e2e-"))


def discard(folder):
    if not os.environ.get("MDN_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def shared_network(**keywords):
    """A network that is up, for several tests; all that fail while it is there show its logs."""
    folder = network_folder()
    network = Network(folder, **keywords)
    shared.append(network)
    try:
        yield network.up()
    finally:
        network.down()
        discard(folder)


@pytest.fixture(scope="session")
def net(tiny):
    """Three edges on two sites, open, with the model `tiny` on all of them. Leave it as it was."""
    with shared_network() as network:
        network.push(tiny, "tiny")
        yield network


@pytest.fixture(scope="session")
def scripted_net(tiny):
    """(network, script): one edge whose engine is scripted.py, as the model `scripted`."""
    script = Scripted(free_port())
    try:
        with shared_network(edges={"edge-1": "north"}, edge={"engine": "remote", "remote_url": script.url}) as network:
            network.push(tiny, "scripted")
            yield network, script
    finally:
        script.stop()


@pytest.fixture
def make_network(request):
    """make_network(edges=..., edge={...}) brings up a network of this test's own; up=False only describes it."""
    made = []

    def make(up=True, **keywords):
        folder = network_folder()
        network = Network(folder, **keywords)
        made.append((network, folder))
        request.node.networks = getattr(request.node, "networks", []) + [network]
        return network.up() if up else network

    yield make
    for network, folder in made:
        network.down()
        discard(folder)


@pytest.fixture
def folder():
    path = network_folder()
    yield path
    discard(path)


@pytest.fixture
def recovery(request):
    """recovery(what, seconds): noted, and printed when all tests are done."""
    return lambda what, seconds: request.node.user_properties.append(("recovery", (what, seconds)))


@pytest.fixture(scope="session")
def llama_server():
    path = Path(os.environ.get("LLAMA_SERVER", ROOT / ".deps/llama/prefix/bin/llama-server"))
    if not path.exists():
        pytest.skip("no llama-server: tools/setup test builds it")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for network in shared + getattr(item, "networks", []):
            report.sections.append((f"network in {network.folder}", network.tails()))
    return report


def pytest_terminal_summary(terminalreporter):
    reports = [report for group in terminalreporter.stats.values() for report in group]
    recoveries = [value for report in reports if getattr(report, "when", None) == "call"
                  for name, value in report.user_properties if name == "recovery"]
    if recoveries:
        terminalreporter.section("recovery times")
        for what, seconds in recoveries:
            terminalreporter.write_line(f"{seconds:7.2f} s  {what}")
