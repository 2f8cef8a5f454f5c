# SPDX-License-Identifier: Apache-2.0
"""Two schedulers: either of them killed, stopped or begun anew while requests go on; no user notices."""
import contextlib
import signal
import threading
import time

import dns.exception
import dns.message
import dns.query
import dns.rcode
import httpx
import pytest

from network import eventually, free_port

HELLO = [{"role": "user", "content": "Hello"}]
SYNTHETIC = {"engine": "synthetic", "context": 65536}


@pytest.fixture
def several(make_network, tiny):
    """`front` takes the requests; only `one` and `two` have the model; two schedulers."""
    net = make_network(edges={"front": "north", "one": "north", "two": "north"}, edge=SYNTHETIC)
    second = net._add("scheduler-2", ["scheduler"], "core", scheduler_listen=f"127.0.0.1:{free_port()}",
                      dns_listen=f"127.0.0.1:{free_port()}", zones=net.scheduler.config["zones"],
                      distances=net.scheduler.config["distances"])
    net.join(second).start()
    net.wait_up()
    net.push(tiny, "tiny", on="node=one,node=two")
    net.schedulers = [net.scheduler, second]
    eventually(lambda: net.edges[0].metric("mdn_schedulers_live") == 2)
    for s in net.schedulers:
        eventually(lambda s=s: addresses(s) == {"127.0.0.12", "127.0.0.13"}, what=f"DNS of {s.name} is whole")
    return net


def ask(scheduler, name="tiny.api.mdn.test", seconds=3):
    host, port = scheduler.config["dns_listen"].rsplit(":", 1)
    return dns.query.udp(dns.message.make_query(name, "A"), host, port=int(port), timeout=seconds)


def addresses(scheduler):
    return {r.address for rr in ask(scheduler).answer for r in rr}


class Users:
    """Ask all the time, each through `front`; every answer is kept."""

    def __init__(self, net, count=2):
        self.net, self.failed, self.answers = net, [], []
        self.end = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(count)]

    def run(self):
        url = self.net.edges[0].api_url + "/v1/chat/completions"
        with httpx.Client(timeout=30) as client:
            while not self.end.is_set():
                answer = client.post(url, json={"model": "tiny", "messages": HELLO, "max_tokens": 2})
                (self.answers if answer.status_code == 200 else self.failed).append(
                    (time.monotonic(), answer.headers.get("x-mdn-node-name"), answer.status_code, answer.text[:200]))
                time.sleep(0.02)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        for thread in self.threads:
            thread.join(60)

    def more(self, count=20):
        """Until so many were answered from now on."""
        goal = len(self.answers) + count
        eventually(lambda: len(self.answers) >= goal or self.failed, 60, "requests go on")


@contextlib.contextmanager
def resolver_sees_no_denial(scheduler):
    """Asks DNS all the time: what comes is an address or "ask another" (SERVFAIL, silence), never "there is none"."""
    end, wrong = threading.Event(), []

    def run():
        while not end.is_set():
            with contextlib.suppress(dns.exception.Timeout, OSError):
                answer = ask(scheduler, seconds=0.5)
                if answer.rcode() != dns.rcode.SERVFAIL and not answer.answer:
                    wrong.append(answer.to_text())
            time.sleep(0.01)
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(10)
    assert not wrong, wrong[0]


@pytest.mark.parametrize("which", [0, 1])
def test_a_scheduler_that_is_killed_and_begins_anew_is_not_noticed(several, which):
    gone, other = several.schedulers[which], several.schedulers[1 - which]
    with Users(several) as users, resolver_sees_no_denial(gone), resolver_sees_no_denial(other):
        users.more()
        gone.kill()
        users.more()
        assert addresses(other) == {"127.0.0.12", "127.0.0.13"}
        eventually(lambda: several.edges[0].metric("mdn_schedulers_live") == 1)
        gone.start()
        eventually(lambda: several.edges[0].metric("mdn_schedulers_live") == 2)
        users.more()
        eventually(lambda: addresses(gone) == {"127.0.0.12", "127.0.0.13"})
    assert not users.failed, users.failed[0]
    assert {name for _, name, *_ in users.answers} == {"one", "two"}


@pytest.mark.parametrize("which", [0, 1])
def test_a_scheduler_that_stands_still_is_left_and_does_no_harm_when_it_goes_on(several, which):
    """Stopped: the connections live and nothing comes. Meanwhile a node leaves, and another's death is heard of from
    the other scheduler; when the stopped one goes on, what it says is older, and nobody believes it."""
    still, other = several.schedulers[which], several.schedulers[1 - which]
    one = several.edges[1]
    with Users(several) as users:
        users.more()
        still.signal(signal.SIGSTOP)
        try:
            eventually(lambda: several.edges[0].metric("mdn_schedulers_live") == 1, 10, "the stopped one is left")
            users.more()
            assert addresses(other) == {"127.0.0.12", "127.0.0.13"}
            one.stop()
            eventually(lambda: addresses(other) == {"127.0.0.13"}, 10, "the other's DNS follows")
            users.more()
        finally:
            still.signal(signal.SIGCONT)
        eventually(lambda: several.edges[0].metric("mdn_schedulers_live") == 2)
        since = time.monotonic()
        eventually(lambda: addresses(still) == {"127.0.0.13"}, 10, "its DNS follows, too")
        users.more()
    assert not users.failed, users.failed[0]
    assert {name for at, name, *_ in users.answers if at > since} == {"two"}
    assert "stood still" in still.log()
