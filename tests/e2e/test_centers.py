# SPDX-License-Identifier: Apache-2.0
"""Two centers that share an etcd of three members: any of them killed or stopped, and no user notices."""
import shutil
import signal
import time

import httpx
import pytest

import etcd_cluster
from network import CommandFailed, eventually, free_port
from test_several import SYNTHETIC, Users

pytestmark = pytest.mark.skipif(etcd_cluster.MISSING is not None, reason=str(etcd_cluster.MISSING))
SLOW = 60  # seconds; a lease is 6


@pytest.fixture
def etcd(folder):
    cluster = etcd_cluster.Etcd(folder / "etcd")
    try:
        yield cluster.up()
    finally:
        cluster.down()


def second_center(net, endpoints):
    """As the operator guide says: join, copy the CA, start."""
    second = net._add("center-2", ["center"], "core", console_listen=f"127.0.0.1:{free_port()}",
                      state="etcd", etcd_endpoints=endpoints)
    net.join(second)
    shutil.copytree(net.center.folder / "ca", second.folder / "ca")
    return second.start()


@pytest.fixture
def centers(make_network, etcd, tiny):
    """`front` takes the requests, `one` and `two` have the model; `keyed` wants a key."""
    net = make_network(edges={"front": "north", "one": "north", "two": "north"}, edge=SYNTHETIC,
                       center={"state": "etcd", "etcd_endpoints": etcd.urls})
    net.edges.append(net.add_edge("keyed", "north", **SYNTHETIC | {"open": False}))
    net.join(net.edges[-1]).start()
    net.centers = [net.center, second_center(net, etcd.urls)]
    net.wait_up()
    net.mdn("push", tiny, "tiny", "--repository", net.repository_url, "--quiet")
    net.place("tiny", "node=one,node=two")
    eventually(lambda: {n["state"] for n in net.model("tiny")["nodes"]} == {"ready"}, SLOW)
    eventually(lambda: "tiny:latest" in net.edges[0].get("/v1/models").text)
    net.etcd = etcd
    return net


def asked(net, center, method="GET", path="/mdn/v1/nodes", **more):
    return net.http().request(method, center.node_url + path, **more)


def leads(net, center):
    return asked(net, center, "POST", "/mdn/v1/tokens", json={}).status_code == 200


def at_leader(net, method, path, **more):
    """What whichever center leads answers; httpx.HTTPError while none does."""
    for center in getattr(net, "centers", [net.center]):
        if center.runs:
            answer = asked(net, center, method, path, **more)
            if answer.status_code != 503:
                return answer.raise_for_status().json()
    raise httpx.HTTPError("no center leads")


def key_counts(net, name):
    """A key made now is good at an edge in a moment."""
    made = eventually(lambda: at_leader(net, "POST", "/mdn/v1/keys", json={"name": name}), SLOW, "a key can be made")
    keyed = {"authorization": f"Bearer {made['key']}"}
    eventually(lambda: net.edges[-1].get("/v1/models", headers=keyed).status_code == 200, SLOW, "an edge knows it")
    return made["id"]


def key_ids(net):
    return [k["id"] for k in at_leader(net, "GET", "/mdn/v1/keys")["keys"]]


def test_a_leader_that_is_killed_or_stands_still_is_followed_by_the_other(centers, recovery):
    first, second = centers.centers
    assert leads(centers, first)
    refused = asked(centers, second, "POST", "/mdn/v1/tokens", json={})
    assert refused.status_code == 503 and "center leads, ask it at" in refused.text
    old_key = key_counts(centers, "before")
    with Users(centers) as users:
        users.more()
        first.kill()
        since = time.monotonic()
        eventually(lambda: leads(centers, second), SLOW, "the second leads")
        recovery("center killed: the other led after", time.monotonic() - since)
        eventually(lambda: "is back" in centers.edges[0].log(), SLOW, "an edge hears the second")
        recovery("center killed: an edge heard the other after", time.monotonic() - since)
        users.more()
        # The operator's folder names the first only; the command finds the other, and so do the nodes.
        key_counts(centers, "after")
        assert centers.json("token")["token"]
        assert old_key in key_ids(centers)
        centers.wait_up(["front", "one", "two", "repository", "scheduler", "center-2"], SLOW)
        first.start()
        eventually(lambda: asked(centers, first).status_code == 503, SLOW, "the first stands by")
        users.more()
        second.signal(signal.SIGSTOP)
        since = time.monotonic()
        try:
            eventually(lambda: leads(centers, first), SLOW, "the first leads again")
            recovery("center stopped (SIGSTOP): the other led after", time.monotonic() - since)
            users.more()
        finally:
            second.signal(signal.SIGCONT)
        eventually(lambda: asked(centers, second).status_code == 503, SLOW, "who slept leads no more")
        assert leads(centers, first)
        centers.wait_up(["front", "one", "two", "center", "center-2"], SLOW)
        users.more()
        first.stop()  # gives up its lease: no wait for its end
        since = time.monotonic()
        eventually(lambda: leads(centers, second), SLOW)
        recovery("center ended (SIGTERM): the other led after", time.monotonic() - since)
        users.more()
    assert not users.failed, users.failed[0]


def test_without_a_quorum_what_was_decided_stays_and_nothing_is_written(centers):
    members = centers.etcd.members
    with Users(centers) as users:
        users.more()
        gone = eventually(centers.etcd.leader)
        gone.kill()
        eventually(lambda: centers.json("token"), SLOW, "two of three are enough")
        other = next(m for m in members if m is not gone)
        other.process.send_signal(signal.SIGSTOP)
        try:
            def refuses():
                for center in centers.centers:
                    said = asked(centers, center, "POST", "/mdn/v1/tokens", json={})
                    assert said.status_code == 503, said.text
                assert "no center leads now, so nothing can be changed" in said.text, said.text
                return True

            def at_last():
                try:
                    return refuses()
                except AssertionError:
                    return False
            eventually(at_last, SLOW, "writes are refused")
            with pytest.raises(CommandFailed, match="nothing can be changed; what was decided stays"):
                centers.json("token")
            # Who led last shows what it knows, and hears the nodes.
            def hears():
                nodes = {n["name"]: n["health"] for n in centers.json("nodes")["nodes"]}
                return nodes["one"] == nodes["two"] == "up"
            eventually(hears, SLOW, "the nodes tell who led last")
            users.more()
            one = centers.edges[1]
            one.stop()
            one.start()  # with no center: it begins with the last documents
            eventually(lambda: any(name == "one" for _, name, *_ in users.answers[-20:]), SLOW, "it answers again")
        finally:
            other.process.send_signal(signal.SIGCONT)
        eventually(lambda: centers.json("token"), SLOW, "with a quorum tokens are made again")
        gone.start(centers.etcd.cluster)
        centers.wait_up(["front", "one", "two", "center", "center-2"], SLOW)
        users.more()
    lost = [f for f in users.failed if f[1] != "one"]
    assert not lost, lost[0]


def test_a_leader_that_is_cut_off_from_etcd_lets_another_lead(make_network, etcd):
    relays = [etcd_cluster.Relay(url) for url in etcd.urls]
    try:
        net = make_network(edges={"one": "north"}, edge=SYNTHETIC,
                           center={"state": "etcd", "etcd_endpoints": [r.url for r in relays]})
        first, second = net.centers = [net.center, second_center(net, etcd.urls)]
        net.wait_up()
        for relay in relays:
            relay.open.clear()
        eventually(lambda: leads(net, second), SLOW, "the second leads")
        refused = asked(net, first, "POST", "/mdn/v1/tokens", json={})
        assert refused.status_code == 503 and "no center leads now" in refused.text
        # The nodes speak to the first without trouble, and still leave it for the one that leads.
        key = at_leader(net, "POST", "/mdn/v1/keys", json={"name": "late"})
        net.wait_up(["one", "repository", "scheduler"], SLOW)
        roster = net.edges[0].folder / "control/roster.json"
        eventually(lambda: key["id"] in roster.read_text(), SLOW, "the edge hears of the key")
        for relay in relays:
            relay.open.set()
        eventually(lambda: "center-2 leads, ask it at" in asked(net, first, "POST", "/mdn/v1/tokens", json={}).text,
                   SLOW, "the first stands by")
        assert leads(net, second) and key["id"] in key_ids(net)
    finally:
        for relay in relays:
            relay.close()


def test_a_network_moves_from_sqlite_to_etcd_with_all_it_has(make_network, etcd):
    net = make_network(edges={"one": "north"}, edge=SYNTHETIC)
    key = at_leader(net, "POST", "/mdn/v1/keys", json={"name": "kept"})["id"]
    net.center.stop()
    net.center.write_config(state="etcd", etcd_endpoints=etcd.urls)
    net.center.start()
    eventually(lambda: key in key_ids(net), SLOW)
    net.wait_up()
    assert leads(net, net.center)
    # What is left in the file is old from now on, and never used again.
    net.center.stop()
    net.center.write_config(state="sqlite")
    net.center.start()
    assert net.center.process.wait(SLOW) != 0
    assert "was moved to etcd" in net.center.log()
    httpx.post(etcd.urls[0] + "/v3/kv/deleterange", json={"key": "AA==", "range_end": "AA=="}).raise_for_status()
    net.center.write_config(state="etcd")
    net.center.start()
    eventually(lambda: "restore etcd from a backup" in net.center.log(), SLOW)
    assert asked(net, net.center).status_code == 503
