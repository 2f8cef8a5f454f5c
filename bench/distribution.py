# SPDX-License-Identifier: Apache-2.0
"""distribution - a model to many receivers at 100 Mbit/s each, against the floor, BitTorrent and a relay chain by hand.

Needs root: network namespaces, one a machine, on a bridge; a token bucket (tbf) at both ends of each wire holds it to
100 Mbit/s each way. `origin` runs center and repository, `r1`.. an edge each: `mdn init`, `serve`, `token`, `join`,
`push`, as an operator would, real TLS. The file is a GGUF model of random weights; edges run the synthetic engine, so
that loading does not count. The clock runs from `mdn place` until the last receiver has the verified file.

  floor    file size / rate, with the headers of TCP, IP and Ethernet that each packet has: no way of sending is faster
  aria2    BitTorrent of aria2 with opentracker, from one seed
  chain    64 KiB relayed from one to the next, each knowing its place beforehand: nothing verified, nobody may fail
  curl     downloads from one HTTP server, all at once

Scenarios, as arguments (default: crowd slow kill cut origin sites):

  crowd     256 MiB to 8         crowd24  to 24        big, big24  2 GiB (three minutes and more a run)
  slow      r8 has 20 Mbit/s: how much later are the others done than the floor?
  kill      r3 is killed midway   cut     r3 is off for 5 s midway   origin  killed once it sent one copy
  sites     9 receivers on three sites, 20 ms apart by a WAN of 50 Mbit/s each: copies over each WAN link
  star      curl

ROUNDS (3) of each; SIZE_MIB (256) and BIG_MIB (2048) for a quick look; PEERS=0 leaves out aria2 and the chain; TRACE=1
prints a time line of ours: each machine's Mbit/s out and in, second by second.
"""
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from lib import BUILD, MDN, ROOT, children, cpu_s, figure, folder, introduce, median, need, output, rounds, say, start, stop

RATE, SLOW_RATE, WAN_MBIT, WAN_DELAY_MS = 100_000_000, 20_000_000, 50, 5
SIZE = int(os.environ.get("SIZE_MIB", 256)) << 20
BIG = int(os.environ.get("BIG_MIB", 2048)) << 20
WIRE = 1514 / 1448  # a full frame carries 1448 bytes and takes 1514 on the wire (tbf counts no preamble)
PEERS = os.environ.get("PEERS", "1") != "0"
TAG = f"mb{os.getpid() % 10000}"  # of the namespaces of this run
LINK = BUILD / "tests/lab/link"


def sh(*args, check=True, **more):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **more)
    if check and done.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, args))}: {done.stdout}{done.stderr}")
    return done.stdout


def ns(name):
    return f"{TAG}-{name}"


def inside(name, *args):
    return ["ip", "netns", "exec", ns(name), *args]


# ---- the network ---------------------------------------------------------------------------------

TRACER = """
import time
while True:
    print(time.monotonic(), *(f"{n.strip()}={v.split()[0]}/{v.split()[8]}" for n, v in
          (line.split(":") for line in open("/proc/net/dev").readlines()[2:])), flush=True)
    time.sleep(0.2)
"""


def tell_trace(names, began, out=0):
    """A row a machine, a column a second: how full its way out was, then its way in. A port's rx is its machine's tx;
    of a site's end of the WAN it is what comes in (`out` 1)."""
    looks = []
    for line in (folder / "trace").read_text().splitlines():
        at, *ports = line.split()
        looks.append((float(at) - began, {n: [int(b) for b in v.split("/")] for n, v in (p.split("=") for p in ports)}))
    for way, side in (("out", out), ("in", 1 - out)):
        for name in names:
            columns, last, due = [], None, 0
            for at, ports in looks:
                if at < due:
                    continue
                if last:
                    columns.append(f"{(ports[name][side] - last[1]) * 8e-6 / (at - last[0]):3.0f}")
                last, due = (at, ports[name][side]), max(due, int(at)) + 1
            say(f"  {name:>7} {way:3} {' '.join(columns)}")


class Net:
    """`origin` and r1..rN on a bridge; with sites, a bridge each, joined by emulated WAN links."""

    def __init__(self, receivers, sites=1):
        self.names = ["origin"] + [f"r{i + 1}" for i in range(receivers)]
        self.sites, self.links = sites, []
        try:
            self.up()
        except BaseException:
            self.down()
            raise

    def site(self, name):
        return 0 if name == "origin" else (self.names.index(name) - 1) * self.sites // (len(self.names) - 1)

    def address(self, name):
        return f"10.77.0.{self.names.index(name) + 1}"

    def up(self):
        sh("ip", "netns", "add", ns("switch"))
        for k in range(self.sites):
            sh("ip", "-n", ns("switch"), "link", "add", f"br{k}", "up", "type", "bridge")
        for name in self.names:
            sh("ip", "netns", "add", ns(name))
            sh("ip", "link", "add", "eth0", "netns", ns(name), "type", "veth", "peer", "name", name, "netns", ns("switch"))
            sh("ip", "-n", ns("switch"), "link", "set", name, "master", f"br{self.site(name)}", "up")
            sh("ip", "-n", ns(name), "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            sh("ip", "-n", ns(name), "link", "set", "lo", "up")
            if self.sites > 1:  # one segment a frame, for the link emulator
                sh("ip", "-n", ns(name), "link", "set", "eth0", "gso_max_segs", "1")
            sh("ip", "-n", ns(name), "link", "set", "eth0", "up")
            self.rate(name, RATE)
        if self.sites > 1:
            self.wan_up()

    def wan_up(self):
        sh("ip", "-n", ns("switch"), "link", "add", "wan", "up", "type", "bridge")
        for k in range(self.sites):
            for end, bridge in ((f"s{k}", f"br{k}"), (f"w{k}", "wan")):
                sh("ip", "-n", ns("switch"), "link", "add", end, "up", "type", "veth", "peer", "name", end + "x")
                sh("ip", "-n", ns("switch"), "link", "set", end + "x", "master", bridge, "up")
            self.links.append(start(*inside("switch", LINK, f"s{k}", f"w{k}"), log=f"link{k}.log",
                                    stdin=subprocess.PIPE))

    def rate(self, name, rate):
        """Both ends. Holds up to 20 ms. A burst has room for the largest packet the kernel hands down before it is cut
        into frames; tbf counts the headers of all those frames."""
        for where, device in ((name, "eth0"), ("switch", name)):
            sh("ip", "netns", "exec", ns(where), "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate",
               f"{rate}bit", "burst", "70kb", "latency", "20ms")

    def cut(self, name, off):
        sh("ip", "-n", ns("switch"), "link", "set", name, "down" if off else "up")

    def bytes(self, where, device, way):
        return json.loads(sh("ip", "-n", ns(where), "-s", "-j", "link", "show", device))[0]["stats64"][way]["bytes"]

    def sent_by_origin(self):
        return self.bytes("origin", "eth0", "tx")

    def over_wan(self):
        """Of each site: bytes out, bytes in."""
        return [(self.bytes("switch", f"s{k}x", "tx"), self.bytes("switch", f"s{k}x", "rx")) for k in range(self.sites)]

    def trace(self):
        """A child that writes down what every wire carried, five times a second."""
        return start(*inside("switch", sys.executable, "-c", TRACER), log="trace.log", stdout=open(folder / "trace", "w"))

    def down(self):
        for link in self.links:
            stop(link)
        for name in ["switch", *self.names]:
            sh("ip", "netns", "del", ns(name), check=False)


# ---- the file ------------------------------------------------------------------------------------

def model_file(size):
    sys.path.insert(0, str(ROOT / "tests/tools"))
    import tiny_gguf
    path = folder / f"model-{size >> 20}.gguf"
    if not path.exists():
        layer = 34 * (1024 // 32) * (3 * 4096 + 4 * 1024)  # bytes of one, in Q8_0
        tiny_gguf.make(str(path), quant="q8_0", embedding=1024, heads=16, heads_kv=16, head=64, ff=4096, context=2048,
                       layers=max(1, round((size - (5 << 20)) / layer)), seed=time.time_ns())
    return path, path.stat().st_size


def floor_of(size, rate=RATE):
    return size * 8 / rate * WIRE


# ---- ours ----------------------------------------------------------------------------------------

class Network:
    def __init__(self, net, home):
        self.net, self.home, self.nodes = net, home, {}
        home.mkdir()
        self.operator = home / "operator"
        self.center = f"https://{net.address('origin')}:7300"
        self.config("origin", roles=["center", "repository"], repository_listen="127.0.0.1:5000")
        self.mdn("origin", "init", "--config", home / "origin.yaml", "--operator", self.operator)
        self.serve("origin")
        self.wait(lambda: self.json("nodes"), "the center")
        for name in net.names[1:]:
            self.config(name, roles=["edge"], center=self.center, api_listen="127.0.0.1:8080", open=True,
                        engine="synthetic")
            token = self.json("token")["token"]
            self.mdn(name, "join", self.center, token, "--config", home / f"{name}.yaml")
            self.serve(name)
        self.wait(lambda: sum(n["health"] == "up" for n in self.json("nodes")["nodes"]) == len(net.names), "all nodes")

    def config(self, name, **keys):
        keys |= {"name": name, "site": f"site{self.net.site(name)}", "data": str(self.home / name),
                 "node_listen": f"{self.net.address(name)}:7300"}
        (self.home / f"{name}.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in keys.items()))

    def serve(self, name):
        self.nodes[name] = start(*inside(name, MDN, "serve", "--config", self.home / f"{name}.yaml"), log=f"{name}.log")

    def mdn(self, where, *args):
        return sh(*inside(where, MDN, *args), env=os.environ | {"MDN_OPERATOR": str(self.operator)})

    def json(self, *args):
        return json.loads(self.mdn("origin", *args, "--json"))

    def wait(self, check, what, patience=60):
        until = time.monotonic() + patience
        while time.monotonic() < until:
            with contextlib.suppress(SystemExit, ValueError, KeyError):
                if check():
                    return
            time.sleep(0.1)
        raise SystemExit(f"bench: {what} not there after {patience} s")

    def push(self, path):
        self.mdn("origin", "push", path, "bench:v1", "--repository", "http://127.0.0.1:5000", "--quiet")
        self.wait(lambda: any(m.get("name", "").startswith("bench") for m in self.json("models")["models"]), "the model")

    def run(self, path, size, mishap=None, missing=()):
        """Seconds of each, copies sent by the origin. `mishap(self, began)` runs beside; `missing` need not finish."""
        digest = hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()
        self.push(path)
        for link in self.net.links:
            link_say(link, f"delay {WAN_DELAY_MS}", f"rate {WAN_MBIT}")
        before, began = self.net.sent_by_origin(), time.monotonic()
        self.mdn("origin", "place", "bench:v1", "--on", "role=edge")
        beside = mishap and threading.Thread(target=mishap, args=(self, began), daemon=True)
        if beside:
            beside.start()
        homes = {n: self.home / n for n in self.net.names[1:] if n not in missing}
        tracer = os.environ.get("TRACE") and self.net.trace()
        spent = sum(cpu_s(n) for n in self.nodes.values())
        done = wait_files(homes, size, digest, began, 20 * floor_of(size))
        spent = sum(cpu_s(n) for n in self.nodes.values()) - spent
        say(f"  {spent:.1f} s of CPU, {spent / len(self.nodes) / size * 1e9:.2f} s a GB and node")
        copies = (self.net.sent_by_origin() - before) / (size * WIRE)
        if tracer:
            stop(tracer)
            tell_trace(self.net.names, began)
            tell_trace([f"s{k}x" for k in range(len(self.net.links))], began, out=1)
        if beside:
            beside.join()
        return done, copies

    def down(self):
        for node in list(self.nodes.values()):
            stop(node)
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.home, ignore_errors=True)


def link_say(link, *orders):
    for order in orders:
        link.stdin.write(order.encode() + b"\n")
        link.stdin.flush()


def wait_files(homes, size, digest, began, patience):
    """When each got the whole file: it has its final name then, under its digest."""
    done = {}
    while len(done) < len(homes):
        for name, home in homes.items():
            if name in done:
                continue
            path = home / "blobs/blobs/sha256" / digest[:2] / digest
            if path.is_file() and path.stat().st_size == size:
                done[name] = time.monotonic() - began
        if time.monotonic() - began > patience:
            raise SystemExit(f"bench: only {sorted(done)} are done after {patience:.0f} s")
        time.sleep(0.02)
    return done


# ---- the peers -----------------------------------------------------------------------------------

def aria2(net, home, path, size):
    home.mkdir()
    piece, data = 1 << 20, path.read_bytes()
    sums = b"".join(hashlib.sha1(data[at:at + piece]).digest() for at in range(0, size, piece))
    url = f"http://{net.address('origin')}:6969/announce".encode()
    info = (b"d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:" % (size, len(path.name), path.name.encode(), piece,
                                                                       len(sums)) + sums + b"e")
    torrent = home / "t.torrent"
    torrent.write_bytes(b"d8:announce%d:%s4:info" % (len(url), url) + info + b"e")
    # Debian's opentracker serves listed torrents only.
    (home / "list").write_text(hashlib.sha1(info).hexdigest() + "\n")
    (home / "tracker.conf").write_text(f"access.whitelist {home}/list\nlisten.tcp {net.address('origin')}:6969\n"
                                       f"tracker.rootdir {home}\n")
    folder.chmod(0o755)  # it does not run as root
    tracker = start(*inside("origin", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "opentracker", "-f",
                            home / "tracker.conf"), log="tracker.log")
    common = ["aria2c", "--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true",
              "--summary-interval=0", "--file-allocation=none", "--bt-max-peers=40", "--bt-tracker-interval=5",
              "--max-upload-limit=0", "--seed-ratio=0.0", "--console-log-level=warn"]
    before = net.sent_by_origin()
    seed = start(*inside("origin", *common, "--check-integrity=true", "--bt-seed-unverified=true", "-d", path.parent,
                         torrent), log="seed.log")
    time.sleep(1)
    began, peers = time.monotonic(), [tracker, seed]
    for name in net.names[1:]:
        (home / name).mkdir()
        peers.append(start(*inside(name, *common, "-d", home / name, "--on-bt-download-complete", mark(home), torrent),
                           log=f"aria2-{name}.log"))
    done = wait_until({n: (home / n / "done").exists for n in net.names[1:]}, began, 20 * floor_of(size), "aria2")
    copies = (net.sent_by_origin() - before) / (size * WIRE)
    for peer in peers:
        stop(peer)
    shutil.rmtree(home, ignore_errors=True)
    return done, copies


def wait_until(checks, began, patience, what):
    done = {}
    while len(done) < len(checks):
        for name, check in checks.items():
            if name not in done and check():
                done[name] = time.monotonic() - began
        if time.monotonic() - began > patience:
            raise SystemExit(f"bench: {what}: only {sorted(done)} are done after {patience:.0f} s")
        time.sleep(0.02)
    return done


def mark(home):
    """aria2 calls this with gid, count and path of what is complete."""
    script = home / "mark"
    script.write_text('#!/bin/sh\ntouch "$(dirname "$3")/done"\n')
    script.chmod(0o755)
    return script


RELAY = """
import socket, sys
before, out, last = sys.argv[1], sys.argv[2], sys.argv[3] == "last"
after = None
if not last:
    s = socket.create_server(("0.0.0.0", 7000))
    after = s.accept()[0]
file = open(out, "rb" if before == "-" else "wb")
source = None if before == "-" else socket.create_connection((before, 7000))
while data := file.read(65536) if source is None else source.recv(65536):
    if after:
        after.sendall(data)
    if source is not None:
        file.write(data)
"""


def chain(net, home, path, size):
    """From the last on, each connects to the one before it, which then does the same."""
    home.mkdir()
    before, relays = net.sent_by_origin(), {}
    for i, name in enumerate(net.names):
        came = net.address(net.names[i - 1]) if i else "-"
        relays[name] = start(*inside(name, sys.executable, "-c", RELAY, came, home / name if i else path,
                                     "last" if i == len(net.names) - 1 else "-"), log=f"chain-{name}.log")
        time.sleep(0.1)
    began = time.monotonic()
    done = wait_until({n: lambda r=relays[n]: r.poll() is not None for n in net.names[1:]}, began, 20 * floor_of(size), "chain")
    copies = (net.sent_by_origin() - before) / (size * WIRE)
    whole = all((home / n).stat().st_size == size for n in net.names[1:])
    for relay in relays.values():
        stop(relay)
    shutil.rmtree(home, ignore_errors=True)
    if not whole:
        raise SystemExit("bench: the chain lost something")
    return done, copies


def star(net, home, path, size):
    home.mkdir()
    (home / "nginx.conf").write_text(f"daemon off; worker_processes 1; user root; pid {home}/pid; error_log {home}/e.log;\n"
                                     f"events {{ worker_connections 64; }} http {{ access_log off; sendfile on;\n"
                                     f"server {{ listen {net.address('origin')}:8000; root {path.parent}; }} }}")
    server = start(*inside("origin", "nginx", "-p", home, "-c", home / "nginx.conf"))
    time.sleep(0.5)
    before, began = net.sent_by_origin(), time.monotonic()
    gets = {n: start(*inside(n, "curl", "-sf", "-o", home / n, f"http://{net.address('origin')}:8000/{path.name}"))
            for n in net.names[1:]}
    done = wait_until({n: lambda g=g: g.poll() is not None for n, g in gets.items()}, began, 50 * floor_of(size), "curl")
    copies = (net.sent_by_origin() - before) / (size * WIRE)
    stop(server)
    return done, copies


# ---- figures -------------------------------------------------------------------------------------

turns = 0


def home_for(who):
    global turns
    turns += 1
    return folder / f"{who}-{turns}"


def tell(who, done, copies, floor):
    times = sorted(done.values())
    say(f"  {who}: first {times[0]:.1f} s, last {times[-1]:.1f} s ({times[-1] / floor:.3f} x floor), "
        f"origin sent {copies:.3f} copies")


def ours(net, path, size, floor, who="mdn", **more):
    network = Network(net, home_for("mdn"))
    try:
        done, sent = network.run(path, size, **more)
    finally:
        network.down()
    tell(who, done, sent, floor)
    return done, sent


def crowd(receivers, size, name):
    path, size = model_file(size)
    floor, net = floor_of(size), Net(receivers)
    last, copies, peers = [], [], {"aria2": [], "chain": []} if PEERS else {}
    say(f"# {name}: {size} bytes to {receivers} receivers, floor {floor:.1f} s")
    try:
        for _ in range(rounds(3)):
            done, sent = ours(net, path, size, floor)
            last.append(max(done.values()))
            copies.append(sent)
            for peer in peers:
                done, sent = globals()[peer](net, home_for(peer), path, size)
                tell(peer, done, sent, floor)
                peers[peer].append(max(done.values()))
    finally:
        net.down()
    figure(f"{name}_last", "s", last, "floor", [floor] * len(last), ratio_goal=1.10, at_least=False)
    for peer, times in peers.items():
        figure(f"{name}_last", "s", last, peer, times, **({"ratio_goal": 1, "at_least": False} if peer == "aria2" else {}))
    figure(f"{name}_origin_copies", "copies", copies, goal="<= 1.10", met=median(copies) <= 1.10)


def mishaps(name, goal, prepare=None, mishap=None, spared=(), dies=False):
    path, size = model_file(SIZE)
    floor, net, others, itself = floor_of(size), Net(8), [], []
    say(f"# {name}: {size} bytes to 8 receivers, floor {floor:.1f} s")
    try:
        if prepare:
            prepare(net)
        for _ in range(rounds(3)):
            beside = mishap and (lambda network, began: mishap(network, began, floor, size))
            done, _ = ours(net, path, size, floor, name, mishap=beside, missing=spared if dies else ())
            others.append(max(v for n, v in done.items() if n not in spared))
            itself += [v for n, v in done.items() if n in spared]
    finally:
        net.down()
    if itself:
        say(f"  {', '.join(spared)}: {median(itself):.1f} s")
    figure(f"distribution_{name}", "s (others)", others, "floor", [floor] * len(others), ratio_goal=goal, at_least=False)


def at(began, seconds):
    time.sleep(max(0, began + seconds - time.monotonic()))


def kill_relay(network, began, floor, size):
    at(began, floor * 0.4)
    os.killpg(network.nodes["r3"].pid, 9)


def cut_link(network, began, floor, size):
    at(began, floor * 0.4)
    network.net.cut("r3", True)
    time.sleep(5)
    network.net.cut("r3", False)


def kill_origin(network, began, floor, size):
    before = network.net.sent_by_origin()
    while network.net.sent_by_origin() - before < 1.002 * size * WIRE and time.monotonic() - began < 1.3 * floor:
        time.sleep(0.02)
    os.killpg(network.nodes["origin"].pid, 9)


def sites():
    path, size = model_file(SIZE)
    floor, net, last, worst = floor_of(size, WAN_MBIT * 1_000_000), None, [], []
    say(f"# sites: {size} bytes to 9 receivers on 3 sites, WAN {WAN_MBIT} Mbit/s, floor {floor:.1f} s")
    for _ in range(rounds(3)):
        net = Net(9, 3)
        try:
            network = Network(net, home_for("mdn"))
            before = net.over_wan()
            done, sent = network.run(path, size)
            copies = [[(b - a) / (size * WIRE) for a, b in zip(x, y)] for x, y in zip(before, net.over_wan())]
            network.down()
            tell("mdn", done, sent, floor)
            say("  copies out and in: " + ", ".join(f"site{k} {o:.3f} {i:.3f}" for k, (o, i) in enumerate(copies)))
            last.append(max(done.values()))
            worst.append(max(max(pair) for pair in copies))
        finally:
            net.down()
    figure("distribution_sites_last", "s", last, "floor", [floor] * len(last), ratio_goal=1.10, at_least=False)
    figure("distribution_sites_wan", "copies", worst, goal="<= 1.05", met=median(worst) <= 1.05)


def curl_star():
    path, size = model_file(SIZE)
    net = Net(8)
    try:
        done, copies = star(net, home_for("star"), path, size)
        tell("curl star", done, copies, floor_of(size))
    finally:
        net.down()


SCENARIOS = {
    "crowd": lambda: crowd(8, SIZE, "distribution"),
    "crowd24": lambda: crowd(24, SIZE, "distribution_24"),
    "big": lambda: crowd(8, BIG, "distribution_2g"),
    "big24": lambda: crowd(24, BIG, "distribution_2g_24"),
    "slow": lambda: mishaps("slow", 1.15, prepare=lambda net: net.rate("r8", SLOW_RATE), spared=("r8",)),
    "kill": lambda: mishaps("kill", 1.25, mishap=kill_relay, spared=("r3",), dies=True),
    "cut": lambda: mishaps("cut", 1.25, mishap=cut_link, spared=("r3",)),
    "origin": lambda: mishaps("origin", 1.25, mishap=kill_origin),
    "sites": sites,
    "star": curl_star,
}


def main():
    if os.geteuid():
        raise SystemExit("bench: distribution makes network namespaces, which needs root: sudo bench/run distribution")
    names = sys.argv[1:] or ["crowd", "slow", "kill", "cut", "origin", "sites"]
    unknown = [n for n in names if n not in SCENARIOS]
    if unknown:
        raise SystemExit(f"bench: no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    need("ip", "tc", *(["aria2c", "opentracker"] if PEERS else []), *(["nginx", "curl"] if "star" in names else []))
    if "sites" in names:
        output("ninja", "-C", str(BUILD), "tests/lab/link")
    introduce("distribution: a model to many receivers at 100 Mbit/s")
    try:
        for name in names:
            SCENARIOS[name]()
    finally:
        for child in list(children):
            stop(child)


if __name__ == "__main__":
    main()
