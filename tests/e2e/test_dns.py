# SPDX-License-Identifier: Apache-2.0
"""DNS as others' programs see it: RFC 8906 with dig, cookies with kdig, service records, why, and a flood."""
import contextlib
import ipaddress
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import httpx
import pytest

from network import Network, eventually, free_port


def dig(port, *args, program="dig"):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    once = "+tries=1" if program == "dig" else "+retry=0"
    out = subprocess.run([program, "@127.0.0.1", "-p", str(port), "+time=2", once, *args], capture_output=True,
                         text=True, timeout=20)
    return out.stdout


@pytest.fixture
def port(net):
    return int(net.scheduler.config["dns_listen"].rsplit(":", 1)[1])


def ask(port, name, kind="A", **more):
    return dns.query.udp(dns.message.make_query(name, kind, **more), "127.0.0.1", port=port, timeout=3)


# RFC 8906, section 8: what to ask, the status, and what the answer must and must not hold.
SAID = {
    "8.1.1 is it alive": (["+noedns", "+noad", "+norec", "soa", "mdn.test"], "NOERROR", ["IN\tSOA", " aa"], ["OPT PSEUDO"]),
    "8.1.2 unknown type": (["+noedns", "+noad", "+norec", "type1000", "mdn.test"], "NOERROR", [" aa", "ANSWER: 0"], []),
    "8.1.3.1 CD": (["+noedns", "+noad", "+norec", "+cd", "soa", "mdn.test"], "NOERROR", ["IN\tSOA"], []),
    "8.1.3.2 AD": (["+noedns", "+norec", "+ad", "soa", "mdn.test"], "NOERROR", ["IN\tSOA"], []),
    "8.1.3.3 reserved bit": (["+noedns", "+noad", "+norec", "+zflag", "soa", "mdn.test"], "NOERROR", ["IN\tSOA"], ["MBZ"]),
    "8.1.3.4 recursive": (["+noedns", "+noad", "+rec", "soa", "mdn.test"], "NOERROR", ["IN\tSOA", " rd"], [" ra"]),
    "8.1.4 unknown opcode": (["+noedns", "+noad", "+opcode=15", "+norec", "+header-only"], "NOTIMP", [], []),
    "8.1.5 TCP": (["+noedns", "+noad", "+norec", "+tcp", "soa", "mdn.test"], "NOERROR", ["IN\tSOA"], []),
    "8.2.1 EDNS": (["+nocookie", "+edns=0", "+noad", "+norec", "soa", "mdn.test"], "NOERROR", ["EDNS: version: 0", "IN\tSOA"], []),
    "8.2.2 EDNS version 1": (["+nocookie", "+edns=1", "+noednsneg", "+noad", "+norec", "soa", "mdn.test"], "BADVERS",
                             ["EDNS: version: 0"], ["IN\tSOA\t"]),
    "8.2.3 unknown option": (["+nocookie", "+edns=0", "+noad", "+norec", "+ednsopt=100", "soa", "mdn.test"], "NOERROR",
                             ["EDNS: version: 0", "IN\tSOA"], ["OPT=100"]),
    "8.2.4 unknown flag": (["+nocookie", "+edns=0", "+noad", "+norec", "+ednsflags=0x40", "soa", "mdn.test"], "NOERROR",
                           ["EDNS: version: 0", "IN\tSOA"], ["MBZ"]),
    "8.2.5 version 1 with a flag": (["+nocookie", "+edns=1", "+noednsneg", "+noad", "+norec", "+ednsflags=0x40", "soa", "mdn.test"],
                                    "BADVERS", ["EDNS: version: 0"], ["MBZ"]),
    "8.2.6 version 1 with an option": (["+nocookie", "+edns=1", "+noednsneg", "+noad", "+norec", "+ednsopt=100", "soa", "mdn.test"],
                                       "BADVERS", ["EDNS: version: 0"], ["OPT=100"]),
    "8.2.7 DO": (["+nocookie", "+edns=0", "+noad", "+norec", "+dnssec", "soa", "mdn.test"], "NOERROR",
                 ["EDNS: version: 0", "flags: do"], []),
    "8.2.8 version 1 with DO": (["+nocookie", "+edns=1", "+noednsneg", "+noad", "+norec", "+dnssec", "soa", "mdn.test"], "BADVERS",
                                ["EDNS: version: 0"], []),
    "minimal ANY": (["+notcp", "any", "mdn.test"], "NOERROR", ["HINFO", "RFC8482", "ANSWER: 1"], []),
    "not ours": (["a", "www.example.org"], "REFUSED", [], [" aa"]),
}


@pytest.mark.parametrize("case", SAID)
def test_what_rfc_8906_asks_for(port, case):
    args, status, there, absent = SAID[case]
    out = dig(port, *args)
    assert f"status: {status}," in out, out
    flags = re.search(r"^;; flags:[^;]*;", out, re.M)[0]
    for text in there:
        assert text in out, out
    for text in absent:
        assert text not in (flags if text.startswith(" ") else out), out
    assert "WARNING" not in out.replace("WARNING: recursion requested but not available", ""), out


@pytest.mark.parametrize("kind", ("AXFR", "IXFR"))
def test_nobody_gets_the_whole_zone(port, kind):
    reply = dns.query.tcp(dns.message.make_query("mdn.test", kind), "127.0.0.1", port=port, timeout=3)
    assert reply.rcode() == dns.rcode.REFUSED and not reply.answer


def counter(net, name):
    """Sum over all label sets of a metric of the scheduler."""
    text = httpx.get(f"http://{net.scheduler.config['scheduler_listen']}/metrics", timeout=10).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + " ", name + "{")))


def test_kdig_gets_a_cookie_and_shows_it(net, port):
    ours = "0102030405060708"
    first = dig(port, f"+cookie={ours}", "tiny.api.mdn.test", "a", program="kdig")
    got = re.search(rf"COOKIE: (?:cc: )?{ours}[,;: ]*(?:sc: )?([0-9A-Fa-f]{{32}})", first)
    assert got, first
    good = counter(net, "mdn_dns_cookies_total")
    second = dig(port, f"+cookie={ours}{got[1]}", "tiny.api.mdn.test", "a", program="kdig")
    assert counter(net, "mdn_dns_cookies_total") == good + 1, second



def test_case_is_kept(port):
    name = dns.name.from_text("tInY.aPi.MdN.tEsT")
    reply = ask(port, name)
    assert reply.question[0].name.to_text() == "tInY.aPi.MdN.tEsT."
    assert reply.answer[0].name.to_text() == "tInY.aPi.MdN.tEsT."


def test_models_have_a_name_one_label_deep(port):
    one, other = ask(port, "m-tiny.mdn.test"), ask(port, "tiny.api.mdn.test")
    assert {r.address for r in one.answer[0]} & {r.address for r in other.answer[0]}
    # A scheduler that has just begun says SERVFAIL first.
    eventually(lambda: ask(port, "m-no-such-model.mdn.test").rcode() == dns.rcode.NXDOMAIN)
    # Without TLS there is no service record, yet the name exists.
    https = ask(port, "m-tiny.mdn.test", "HTTPS")
    assert https.rcode() == dns.rcode.NOERROR and not https.answer and https.authority[0].rdtype == dns.rdatatype.SOA


def test_txt_says_why(port):
    reply = ask(port, "m-tiny.mdn.test", "TXT", use_edns=0, options=[dns.edns.ECSOption("198.51.100.0", 24)])
    texts = [b"".join(r.strings).decode() for rr in reply.answer for r in rr]
    assert any(re.match(r"client 198\.51\.100\.0/24 by its subnet: site south, scope \d+; map \d+", t) for t in texts), texts
    assert any(re.match(r"1\. 127\.0\.0\.\d+ site south up, costs \d+\.\d{3} ms", t) for t in texts), texts


def subnet_query(option):
    name = dns.name.from_text("tiny.api.mdn.test").to_wire()
    opt = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 4 + len(option)) + struct.pack(">HH", 8, len(option)) + option
    return struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 1) + name + struct.pack(">HH", 1, 1) + opt


# RFC 7871, 6 and 7.1.2: family, source, scope, address.
MALFORMED = {
    "bits past the source": b"\0\1\x17\0\xc6\x33\x65",
    "too many bytes": b"\0\1\x18\0\xc6\x33\x64\0",
    "too few bytes": b"\0\1\x18\0\xc6\x33",
    "longer than the family": b"\0\1\x21\0\xc6\x33\x64\0\0",
    "scope in a query": b"\0\1\x18\x18\xc6\x33\x64",
    "no such family": b"\0\3\x18\0\xc6\x33\x64",
    "no header": b"\0\1",
    "longer than IPv6": b"\0\2\x81\0" + b"\x20\1" + bytes(15),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_subnets_are_formerr_without_a_subnet(port, case):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(3)
        s.sendto(subnet_query(MALFORMED[case]), ("127.0.0.1", port))
        reply = dns.message.from_wire(s.recv(4096))
    assert reply.rcode() == dns.rcode.FORMERR and reply.edns == 0 and not reply.options and not reply.answer


def test_subnet_of_nobody_and_of_ipv6(port):
    reply = ask(port, "tiny.api.mdn.test", use_edns=0, options=[dns.edns.ECSOption("0.0.0.0", 0)])
    ecs = next(o for o in reply.options if isinstance(o, dns.edns.ECSOption))
    assert (ecs.srclen, ecs.scopelen) == (0, 0) and reply.answer
    reply = ask(port, "tiny.api.mdn.test", use_edns=0, options=[dns.edns.ECSOption("2001:db8:7::", 48)])
    ecs = next(o for o in reply.options if isinstance(o, dns.edns.ECSOption))
    assert (ecs.family, ecs.srclen, ecs.address) == (2, 48, "2001:db8:7::") and reply.answer
    assert not ask(port, "tiny.api.mdn.test", use_edns=0).options


def test_a_flood_from_one_network_is_thinned_and_slips_to_tcp(net, port):
    """30,000 in a burst, at 10,000 a second for a network: what is over gets TC or nothing, and TCP goes on."""
    query = dns.message.make_query("ns.mdn.test", "AAAA").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setblocking(False)
        cut, until = 0, time.monotonic() + 10
        while not cut and time.monotonic() < until:
            for _ in range(200):
                s.sendto(query, ("127.0.0.1", port))
            try:
                while True:
                    cut += bool(s.recv(4096)[2] & 2)
            except BlockingIOError:
                pass
    assert cut
    assert counter(net, "mdn_dns_limited_total") > 0
    assert dns.query.tcp(dns.message.make_query("ns.mdn.test", "AAAA"), "127.0.0.1", port=port,
                         timeout=3).rcode() == dns.rcode.NOERROR


# ---- the same map beside gdnsd ---------------------------------------------------------------------------


def nested_zones(rng):
    """10.0.0.0/8 in the hands of one site, with exceptions in exceptions."""
    zones = {"10.0.0.0/8": "north"}
    for length in (12, 14, 16, 18, 20, 22, 24) * 12:
        address = 10 << 24 | rng.getrandbits(length - 8) << 32 - length
        zones[f"{ipaddress.ip_address(address)}/{length}"] = rng.choice(PLACES)
    return zones


PLACES = ("north", "south", "west")


@contextlib.contextmanager
def gdnsd(folder, zones, addresses):
    port, nets = free_port(), "\n".join(f"{prefix} => [ {site} ]" for prefix, site in zones.items())
    for name in ("zones", "geoip", "run", "state"):
        (folder / name).mkdir(parents=True)
    (folder / "geoip/nets").write_text(nets + "\n")
    (folder / "config").write_text(f"""
options => {{ listen => 127.0.0.1:{port}, udp_threads => 1, tcp_threads => 1, run_dir => {folder}/run, state_dir => {folder}/state,
  edns_client_subnet => true }}
plugins => {{ geoip => {{ maps => {{ places => {{ datacenters => [ {", ".join(PLACES)} ], nets => nets }} }}
  resources => {{ node => {{ map => places, service_types => up,
    dcmap => {{ {", ".join(f"{site} => {address}" for site, address in addresses.items())} }} }} }} }} }}
""")
    (folder / "zones/mdn.test").write_text("@ 20 SOA ns hostmaster 1 7200 1800 259200 20\n@ 20 NS ns\nns 20 A 192.0.2.53\napi 20 DYNA geoip!node\n")
    with open(folder / "log", "wb") as log:
        child = subprocess.Popen(["gdnsd", "-c", str(folder), "start"], stdout=log, stderr=log)
    try:
        eventually(lambda: answers(port), 10, "gdnsd answers")
        yield port
    finally:
        child.terminate()
        child.wait(10)


def answers(port):
    with contextlib.suppress(OSError, dns.exception.DNSException):
        return ask(port, "mdn.test", "SOA").answer


def near(port, address, source):
    """The best address for a client's subnet, and how far that holds."""
    network = ipaddress.ip_network((address, source), strict=False)
    reply = ask(port, "api.mdn.test", use_edns=0, options=[dns.edns.ECSOption(str(network.network_address), source)])
    ecs = next(o for o in reply.options if isinstance(o, dns.edns.ECSOption))
    return reply.answer[0][0].address, ecs.scopelen


@pytest.mark.skipif(not shutil.which("gdnsd"), reason="gdnsd is not installed")
def test_the_same_map_gives_what_gdnsd_gives(tmp_path):
    rng = random.Random(11)
    zones = nested_zones(rng)
    folder = Path(tempfile.mkdtemp(prefix="mdn-e2e-"))
    network = Network(folder, edges={f"edge-{site}": site for site in PLACES}, scheduler={
        "zones": [f"{prefix}={site}" for prefix, site in zones.items()], "dns_rate_limit": 0,
        "distances": ["north-south=40ms", "north-west=40ms", "south-west=40ms"]})
    try:
        network.up()
        ours = int(network.scheduler.config["dns_listen"].rsplit(":", 1)[1])
        addresses = {site: edge.api_host for site, edge in zip(PLACES, network.edges)}
        eventually(lambda: len(ask(ours, "api.mdn.test").answer[0]) == 3, 10, "all three are named")
        with gdnsd(tmp_path, zones, addresses) as theirs:
            for _ in range(400):
                client = 10 << 24 | rng.getrandbits(24)
                got, scope = near(ours, client, 24)
                assert got == near(theirs, client, 24)[0], ipaddress.ip_address(client)
                # Whoever is inside the scope gets the same.
                block = ipaddress.ip_network((client, scope), strict=False)
                other = int(block.network_address) | rng.getrandbits(32 - scope)
                assert near(theirs, other, 32)[0] == got, (ipaddress.ip_address(client), scope)
    finally:
        network.down()
        shutil.rmtree(folder, ignore_errors=True)
