# SPDX-License-Identifier: Apache-2.0
"""dns - answers per second with client subnets, against gdnsd and Knot's geoip module.

All three hold the same map: 65,536 /24 prefixes, each belonging to one of 64 sites by chance, so that neighbours do not
melt into one. dnsperf asks for the site's address with a client subnet of its own in every query. Ours has live load
under it meanwhile (64 nodes report once a second); gdnsd and Knot answer from fixed tables, which is easier. One
thread each, on a core of its own; dnsperf on the others.

The figure is answers per second of CPU time of the server; the rate by the clock is printed too (dnsperf itself can
be the slowest part).
"""
import random
import re
import socket
import struct
import subprocess

from lib import BUILD, OTHERS, SUBJECT, cpu_s, figure, folder, free_port, introduce, median, need, output, resting
from lib import rounds, say, seconds, start, stop, wait_port

SITES, PREFIXES, NAME = 64, 65536, "bench.api.mdn.test"
chance = random.Random(7)
MAP = [chance.randrange(SITES) for _ in range(PREFIXES)]  # of 10.A.B.0/24 -> site


def prefix(i):
    return f"10.{i >> 8}.{i & 255}.0/24"


def query(number, subnet):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in NAME.split(".")) + b"\0"
    ecs = struct.pack(">HHHBB", 8, 7, 1, 24, 0) + bytes([10, subnet >> 8, subnet & 255])
    opt = b"\0" + struct.pack(">HHIH", 41, 1232, 0, len(ecs)) + ecs
    return struct.pack(">HHHHHH", number & 65535, 0x0100, 1, 0, 0, 1) + labels + struct.pack(">HH", 1, 1) + opt


def write_queries(path):
    order = list(range(PREFIXES))
    chance.shuffle(order)
    with open(path, "wb") as f:
        for i in order:
            q = query(i, i)
            f.write(struct.pack(">H", len(q)) + q)


def mdn():
    port = free_port(socket.SOCK_DGRAM)
    zones = folder / "zones"
    zones.write_text("\n".join(f"{prefix(i)}=s{site:03}" for i, site in enumerate(MAP)) + "\n")
    return port, start(BUILD / "bench/bench_dns_node", port, zones, SITES, core=SUBJECT)


def gdnsd():
    port, home = free_port(socket.SOCK_DGRAM), folder / "gdnsd"
    (home / "zones").mkdir(parents=True)
    (home / "geoip").mkdir()
    (home / "run").mkdir()
    (home / "state").mkdir()
    sites = [f"s{s:03}" for s in range(SITES)]
    (home / "geoip/nets").write_text("\n".join(f"{prefix(i)} => [ s{site:03} ]" for i, site in enumerate(MAP)) + "\n")
    (home / "config").write_text(f"""
options => {{
  listen => 127.0.0.1:{port}
  udp_threads => 1
  tcp_threads => 1
  run_dir => {home}/run
  state_dir => {home}/state
  edns_client_subnet => true
}}
plugins => {{
  geoip => {{
    maps => {{ places => {{ datacenters => [ {", ".join(sites)} ], nets => nets }} }}
    resources => {{ node => {{ map => places, service_types => up,
      dcmap => {{ {", ".join(f"s{s:03} => 192.0.2.{s}" for s in range(SITES))} }} }} }}
  }}
}}
""")
    (home / "zones/mdn.test").write_text("""
@ 20 SOA ns hostmaster 1 7200 1800 259200 20
@ 20 NS ns
ns 20 A 192.0.2.253
bench.api 20 DYNA geoip!node
""")
    return port, start("gdnsd", "-c", home, "start", core=SUBJECT)


def knot():
    port, home = free_port(socket.SOCK_DGRAM), folder / "knot"
    home.mkdir()
    nets = "".join(f"  - net: {prefix(i)}\n    A: 192.0.2.{site}\n" for i, site in enumerate(MAP))
    (home / "geo.conf").write_text(f"{NAME}:\n{nets}")
    (home / "mdn.test.zone").write_text(f"""
$ORIGIN mdn.test.
$TTL 20
@ SOA ns hostmaster 1 7200 1800 259200 20
@ NS ns
ns A 192.0.2.253
bench.api A 192.0.2.0
""")
    (home / "knot.conf").write_text(f"""
server:
    rundir: {home}
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    edns-client-subnet: on
log:
  - target: stderr
    any: warning
database:
    storage: {home}
mod-geoip:
  - id: places
    config-file: {home}/geo.conf
    ttl: 20
    mode: subnet
template:
  - id: default
    storage: {home}
zone:
  - domain: mdn.test
    module: mod-geoip/places
""")
    return port, start("knotd", "-c", home / "knot.conf", core=SUBJECT)


def answer(port, subnet):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.sendto(query(1, subnet), ("127.0.0.1", port))
        reply = s.recv(4096)
    return reply


def same_answers(who, port):
    """Each must give the address of the site, and the subnet back."""
    for i in random.Random(3).sample(range(PREFIXES), 200):
        reply = answer(port, i)
        if bytes([192, 0, 2, MAP[i]]) not in reply or bytes([10, i >> 8, i & 255]) not in reply:
            raise SystemExit(f"bench: {who} does not answer {prefix(i)} with 192.0.2.{MAP[i]}: {reply.hex(' ')}")


def measure(port, child, queries):
    before = cpu_s(child)
    out = output("taskset", "-c", ",".join(map(str, OTHERS)), "dnsperf", "-B", "-s", "127.0.0.1", "-p", str(port),
                 "-d", str(queries), "-l", str(max(1, round(seconds(3)))), "-c", "8", "-T", "1", "-q", "400", "-b", "4096", "-t", "2")
    used = cpu_s(child) - before
    done, lost = (int(re.search(rf"Queries {word}:\s+(\d+)", out)[1]) for word in ("completed", "lost"))
    if not re.search(r"NOERROR \d+ \(100\.00%\)", out):
        raise SystemExit("bench: not all answers are NOERROR\n" + out)
    clock = float(re.search(r"Queries per second:\s+([\d.]+)", out)[1])
    return done / used, clock, lost / (done + lost)


if __name__ == "__main__":
    need("gdnsd", "knotd", "dnsperf", "taskset")
    introduce("dns: answers/s with client subnets against gdnsd and Knot geoip")
    versions = [subprocess.run(c, capture_output=True, text=True) for c in (["gdnsd", "-V"], ["knotd", "-V"])]
    words = [re.search(r"(gdnsd version|Knot DNS).*?([\d.]+)", v.stdout + v.stderr) for v in versions]
    say(f"# peers:   {', '.join(w[0].replace(')', '') for w in words if w)}")
    queries = folder / "queries"
    write_queries(queries)
    made = {"mdn": mdn(), "gdnsd": gdnsd(), "knot": knot()}
    for who, (port, child) in made.items():
        wait_port(port, child)
        same_answers(who, port)
    per_cpu, by_clock, lost = ({n: [] for n in made} for _ in range(3))
    for _ in range(rounds(7)):
        for who, (port, child) in made.items():
            with resting(*(c for n, (_, c) in made.items() if n != who)):
                for into, value in zip((per_cpu, by_clock, lost), measure(port, child, queries)):
                    into[who].append(value)
    for who in made:
        say(f"  {who}: {median(by_clock[who]):.0f} answers/s by the clock, {1e6 / median(per_cpu[who]):.2f} us of CPU an "
            f"answer, {100 * median(lost[who]):.2f} % lost")
    for peer in ("gdnsd", "knot"):
        figure("dns_rate", "answers per CPU second", per_cpu["mdn"], peer, per_cpu[peer], ratio_goal=1)
    for port, child in made.values():
        stop(child)
