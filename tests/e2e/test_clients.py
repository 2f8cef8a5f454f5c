# SPDX-License-Identifier: Apache-2.0
"""Where clients are sent: coverage-zone files, operators' words, demand, and all of it without a center."""
import json
import re
import signal

import dns.edns
import dns.message
import dns.query
import pytest

from network import Network, eventually

from conftest import discard, network_folder, shared

SOUTH, NORTH = "198.51.100.7", "192.0.2.7"


@pytest.fixture
def two_sites(tiny):
    folder = network_folder()
    network = Network(folder, edges={"edge-1": "north", "edge-2": "south"})
    shared.append(network)
    try:
        network.up()
        network.push(tiny, "tiny")
        yield network
    finally:
        network.down()
        discard(folder)


def client_site(network, address):
    """Where the scheduler takes a client to be, and whom it would get; neither while nobody can answer."""
    answer = network.route("tiny", client=address).json()
    return answer.get("client", {}).get("site"), answer.get("choice", {}).get("site")


def named_by_dns(network, address):
    query = dns.message.make_query("tiny.api.mdn.test", "A", options=[dns.edns.ECSOption(address, 24)])
    host, port = network.scheduler.config["dns_listen"].rsplit(":", 1)
    answer = dns.query.udp(query, host, port=int(port), timeout=3)
    sites = {edge.api_host: edge.site for edge in network.edges}
    return answer.answer and sites[answer.answer[0][0].address]


def is_sent(network, address, site):
    last = []

    def check():
        last[:] = client_site(network, address)[1], named_by_dns(network, address)
        return last == [site, site]
    try:
        eventually(check, 30)
    except AssertionError:
        raise AssertionError(f"{address} is not sent to {site}, but by route and DNS to {last}; "
                             f"{network.route('tiny', client=address).text}") from None


def test_operators_say_where_clients_go_with_and_without_a_center(two_sites):
    network = two_sites
    is_sent(network, SOUTH, "south")
    # A pin, and back.
    network.mdn("pin", "198.51.100.0/24", "north")
    is_sent(network, SOUTH, "north")
    assert client_site(network, SOUTH)[0] == "north"
    assert "pinned    prefix=198.51.100.0/24 to north" in network.mdn("clients")
    network.mdn("unpin", "198.51.100.0/24")
    is_sent(network, SOUTH, "south")
    # A site that is to be rebuilt, and a node by its name.
    network.mdn("weight", "site=south", "0")
    is_sent(network, SOUTH, "north")
    network.mdn("weight", "site=south", "100")
    is_sent(network, SOUTH, "south")
    network.mdn("weight", "edge-1", "0%")
    is_sent(network, NORTH, "south")
    # Now the center is gone, and the scheduler comes back without it.
    network.center.kill()
    network.mdn("weight", "edge-1", "100")
    is_sent(network, NORTH, "north")
    network.mdn("weight", "site=south", "0")
    network.scheduler.kill()
    network.scheduler.start()
    is_sent(network, SOUTH, "north")
    eventually(lambda: [n["reason"] for n in network.route("tiny", client=SOUTH).json()["refused"]] == ["draining"], 15,
               "the south has reported, too")


def test_demand_reaches_the_map_from_the_edges(two_sites):
    network = two_sites
    client = network.edges[0].openai()
    for _ in range(5):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=20)
    told = eventually(lambda: (told := network.json("clients"))["prefixes"] and told, 30, "the edge tells its demand")
    assert told["prefixes"] == 1
    # A round: the clients' own site has nobody, so that the map names another.
    told = eventually(lambda: (told := network.json("clients"))["named"] and told, 30, "a round")
    assert told["number"] == 1 and 0 < told["demand"] < 4 and told["capacity"] == 8
    assert {s["site"]: s["capacity"] for s in told["sites"] if s["capacity"]} == {"north": 4, "south": 4}
    assert client_site(network, "127.0.0.1")[0] == "north"
    # It is kept: no round can be over when the scheduler answers again.
    network.scheduler.kill()
    kept = json.loads((network.scheduler.folder / "scheduler/map.json").read_text())
    assert kept == {"number": 1, "named": [{"prefix": "127.0.0.0/24", "site": "north"}]}
    network.scheduler.start()
    eventually(lambda: client_site(network, "127.0.0.1")[0] == "north", 15, "the map is back")


def test_a_coverage_file_is_read_on_sighup_and_a_bad_one_changes_nothing(two_sites):
    network = two_sites
    path = network.folder / "coverage.json"
    path.write_text(json.dumps({"coverageZones": {"south": {"network": ["203.0.113.0/24"]}}}))
    network.scheduler.write_config(coverage_file=str(path))
    network.scheduler.signal(signal.SIGHUP)
    is_sent(network, "203.0.113.9", "south")
    path.write_text(json.dumps({"coverageZones": {"north": {"network": ["203.0.113.0/24", "203.0.113.0/55"]}}}))
    network.scheduler.signal(signal.SIGHUP)
    eventually(lambda: re.search(r'zone \\"north\\": network\[1\]', network.scheduler.log()), 10, "it says what is wrong")
    assert client_site(network, "203.0.113.9")[0] == "south"
    path.write_text(json.dumps({"coverageZones": {"north": {"network": ["203.0.113.0/24"]}}}))
    network.scheduler.signal(signal.SIGHUP)
    is_sent(network, "203.0.113.9", "north")
