# SPDX-License-Identifier: Apache-2.0
"""distribution - 256 MiB to 8 receivers at 100 Mbit/s each, against the floor, BitTorrent and a star of HTTP downloads.

Needs root: network namespaces, one a machine, on a bridge; a token bucket (tbf) at both ends of each wire holds it to
100 Mbit/s each way. `origin` runs center and repository, `r1`..`r8` an edge each: `mdn init`, `serve`, `token`, `join`,
`push`, as an operator would, real TLS. The file is a GGUF model of random weights; edges run the synthetic engine, so
that loading does not count. The clock runs from `mdn place` until the last receiver has the verified file.

  floor   file size / rate, with the headers of TCP, IP and Ethernet that each packet has: no way of sending is faster
  aria2   BitTorrent of aria2 with opentracker, from one seed
  curl    eight downloads from one HTTP server at once: eight times the floor; only with the argument `star`

`slow`: r8 has 20 Mbit/s; how much later are the others done than without it?
"""
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib import MDN, ROOT, children, figure, folder, introduce, median, need, rounds, say, start, stop

RECEIVERS, RATE, SLOW_RATE = 8, 100_000_000, 20_000_000
SIZE = int(os.environ.get("SIZE_MIB", 256)) << 20
# A full frame carries 1448 bytes and takes 1514 on the wire (tbf counts no preamble): 66 bytes of headers.
FLOOR = SIZE * 8 / RATE * 1514 / 1448
TAG = f"mb{os.getpid() % 10000}"  # of the namespaces of this run
NAMES = ["origin"] + [f"r{i + 1}" for i in range(RECEIVERS)]


def sh(*args, check=True, **more):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, **more)
    if check and done.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, args))}: {done.stdout}{done.stderr}")
    return done.stdout


def ns(name):
    return f"{TAG}-{name}"


def address(name):
    return f"10.77.0.{NAMES.index(name) + 1}"


def inside(name, *args):
    return ["ip", "netns", "exec", ns(name), *args]


# ---- the network ---------------------------------------------------------------------------------

def limit(where, device, rate):
    """Holds up to 20 ms. A burst has room for the largest packet the kernel hands down before it is cut into frames;
    tbf counts the headers of all those frames."""
    sh("ip", "netns", "exec", ns(where), "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{rate}bit",
       "burst", "70kb", "latency", "20ms")


def network_up():
    sh("ip", "netns", "add", ns("switch"))
    sh("ip", "-n", ns("switch"), "link", "add", "br0", "type", "bridge")
    sh("ip", "-n", ns("switch"), "link", "set", "br0", "up")
    for name in NAMES:
        sh("ip", "netns", "add", ns(name))
        sh("ip", "link", "add", "eth0", "netns", ns(name), "type", "veth", "peer", "name", name, "netns", ns("switch"))
        sh("ip", "-n", ns("switch"), "link", "set", name, "master", "br0", "up")
        sh("ip", "-n", ns(name), "addr", "add", f"{address(name)}/24", "dev", "eth0")
        sh("ip", "-n", ns(name), "link", "set", "lo", "up")
        sh("ip", "-n", ns(name), "link", "set", "eth0", "up")
        set_rate(name, RATE)


def set_rate(name, rate):
    limit(name, "eth0", rate)
    limit("switch", name, rate)


def network_down():
    for name in ["switch", *NAMES]:
        sh("ip", "netns", "del", ns(name), check=False)


def sent_by_origin():
    """Bytes that left origin, headers and all."""
    links = json.loads(sh("ip", "-n", ns("origin"), "-s", "-j", "link", "show", "eth0"))
    return links[0]["stats64"]["tx"]["bytes"]


# ---- the file ------------------------------------------------------------------------------------

def model_file():
    sys.path.insert(0, str(ROOT / "tests/tools"))
    import tiny_gguf
    path = folder / "model.gguf"
    layer = 34 * (1024 // 32) * (3 * 4096 + 4 * 1024)  # bytes of one, in Q8_0
    tiny_gguf.make(str(path), quant="q8_0", embedding=1024, heads=16, heads_kv=16, head=64, ff=4096, context=2048,
                   layers=max(1, round((SIZE - (5 << 20)) / layer)), seed=time.time_ns())
    return path, path.stat().st_size


# ---- ours ----------------------------------------------------------------------------------------

class Network:
    def __init__(self, home):
        self.home, self.nodes = home, {}
        home.mkdir()
        self.operator = home / "operator"
        self.center = f"https://{address('origin')}:7300"
        self.config("origin", roles=["center", "repository"], repository_listen="127.0.0.1:5000")
        self.mdn("origin", "init", "--config", home / "origin.yaml", "--operator", self.operator)
        self.serve("origin")
        self.wait(lambda: self.json("nodes"), "the center")
        for name in NAMES[1:]:
            self.config(name, roles=["edge"], center=self.center, api_listen="127.0.0.1:8080", open=True,
                        engine="synthetic")
            token = self.json("token")["token"]
            self.mdn(name, "join", self.center, token, "--config", home / f"{name}.yaml")
            self.serve(name)
        self.wait(lambda: sum(n["health"] == "up" for n in self.json("nodes")["nodes"]) == len(NAMES), "all nodes")

    def config(self, name, **keys):
        keys |= {"name": name, "site": "bench", "data": str(self.home / name), "node_listen": f"{address(name)}:7300"}
        (self.home / f"{name}.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in keys.items()))

    def serve(self, name):
        self.nodes[name] = start(*inside(name, MDN, "serve", "--config", self.home / f"{name}.yaml"), log=f"{name}.log")

    def mdn(self, where, *args):
        return sh(*inside(where, MDN, *args), env=os.environ | {"MDN_OPERATOR": str(self.operator)})

    def json(self, *args):
        return json.loads(self.mdn("origin", *args, "--json"))

    def wait(self, check, what, patience=30):
        until = time.monotonic() + patience
        while time.monotonic() < until:
            with contextlib.suppress(SystemExit, ValueError, KeyError):
                if check():
                    return
            time.sleep(0.1)
        raise SystemExit(f"bench: {what} not there after {patience} s")

    def run(self, path, size):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.mdn("origin", "push", path, "bench:v1", "--repository", "http://127.0.0.1:5000", "--quiet")
        self.wait(lambda: any(m.get("name", "").startswith("bench") for m in self.json("models")["models"]), "the model")
        before, began = sent_by_origin(), time.monotonic()
        self.mdn("origin", "place", "bench:v1", "--on", "role=edge")
        done = wait_files({n: self.home / n for n in NAMES[1:]}, size, digest, began)
        return done, (sent_by_origin() - before) / (size * 1514 / 1448)

    def down(self):
        for node in self.nodes.values():
            stop(node)
        shutil.rmtree(self.home, ignore_errors=True)


def wait_files(homes, size, digest, began, patience=400):
    """When each got the whole file: it has its final name then, under its digest."""
    done = {}
    while len(done) < len(homes):
        for name, home in homes.items():
            if name in done:
                continue
            for path in home.glob("blobs/**/*" + digest[8:]):
                if path.is_file() and path.stat().st_size == size and "partial" not in str(path):
                    done[name] = time.monotonic() - began
        if time.monotonic() - began > patience:
            raise SystemExit(f"bench: only {sorted(done)} are done after {patience} s")
        time.sleep(0.02)
    return done


# ---- the peers -----------------------------------------------------------------------------------

def aria2(home, path, size):
    home.mkdir()
    info = [b"e"]  # a torrent is bencoded; pieces of 1 MiB
    piece, data = 1 << 20, path.read_bytes()
    sums = b"".join(hashlib.sha1(data[at:at + piece]).digest() for at in range(0, size, piece))
    url = f"http://{address('origin')}:6969/announce".encode()
    info = (b"d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:" % (size, len(path.name), path.name.encode(), piece,
                                                                       len(sums)) + sums + b"e")
    torrent = home / "t.torrent"
    torrent.write_bytes(b"d8:announce%d:%s4:info" % (len(url), url) + info + b"e")
    # Debian's opentracker serves listed torrents only.
    (home / "list").write_text(hashlib.sha1(info).hexdigest() + "\n")
    (home / "tracker.conf").write_text(f"access.whitelist {home}/list\nlisten.tcp {address('origin')}:6969\n"
                                       f"tracker.rootdir {home}\n")
    folder.chmod(0o755)  # it does not run as root
    tracker = start(*inside("origin", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "opentracker", "-f",
                            home / "tracker.conf"), log="tracker.log")
    common = ["aria2c", "--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true",
              "--summary-interval=0", "--file-allocation=none", "--bt-max-peers=20", "--bt-tracker-interval=5",
              "--max-upload-limit=0", "--seed-ratio=0.0", "--console-log-level=warn"]
    before = sent_by_origin()
    seed = start(*inside("origin", *common, "--check-integrity=true", "--bt-seed-unverified=true", "-d", path.parent,
                         torrent), log="seed.log")
    time.sleep(1)
    began, peers = time.monotonic(), [tracker, seed]
    for name in NAMES[1:]:
        (home / name).mkdir()
        peers.append(start(*inside(name, *common, "-d", home / name, "--on-bt-download-complete", mark(home), torrent),
                           log=f"aria2-{name}.log"))
    done = {}
    while len(done) < RECEIVERS:
        for name in NAMES[1:]:
            if name not in done and (home / name / "done").exists():
                done[name] = time.monotonic() - began
        if time.monotonic() - began > 200:
            raise SystemExit(f"bench: aria2: only {sorted(done)} are done")
        time.sleep(0.02)
    copies = (sent_by_origin() - before) / (size * 1514 / 1448)
    for peer in peers:
        stop(peer)
    shutil.rmtree(home, ignore_errors=True)
    return done, copies


def mark(home):
    """aria2 calls this with gid, count and path of what is complete."""
    script = home / "mark"
    script.write_text('#!/bin/sh\ntouch "$(dirname "$3")/done"\n')
    script.chmod(0o755)
    return script


def star(home, path, size):
    home.mkdir()
    (home / "nginx.conf").write_text(f"daemon off; worker_processes 1; user root; pid {home}/pid; error_log {home}/e.log;\n"
                                     f"events {{ worker_connections 64; }} http {{ access_log off; sendfile on;\n"
                                     f"server {{ listen {address('origin')}:8000; root {path.parent}; }} }}")
    server = start(*inside("origin", "nginx", "-p", home, "-c", home / "nginx.conf"))
    time.sleep(0.5)
    before, began, done = sent_by_origin(), time.monotonic(), {}
    gets = {n: start(*inside(n, "curl", "-sf", "-o", home / n, f"http://{address('origin')}:8000/{path.name}"))
            for n in NAMES[1:]}
    while len(done) < RECEIVERS:
        for name, get in gets.items():
            if name not in done and get.poll() is not None:
                done[name] = time.monotonic() - began
        time.sleep(0.02)
    copies = (sent_by_origin() - before) / (size * 1514 / 1448)
    stop(server)
    return done, copies


# ---- figures -------------------------------------------------------------------------------------

def tell(who, done, copies):
    times = sorted(done.values())
    say(f"  {who}: first {times[0]:.1f} s, last {times[-1]:.1f} s, origin sent {copies:.2f} copies")


def main():
    if os.geteuid():
        raise SystemExit("bench: distribution makes network namespaces, which needs root: sudo bench/run distribution")
    need("ip", "tc", "aria2c", "opentracker", "nginx", "curl")
    introduce("distribution: 256 MiB to 8 receivers at 100 Mbit/s")
    path, size = model_file()
    floor = size * 8 / RATE * 1514 / 1448
    say(f"# file:    {size} bytes, floor {floor:.1f} s")
    ours, theirs, copies, their_copies, slowed = [], [], [], [], []
    network_up()
    try:
        for turn in range(rounds(3)):
            network = Network(folder / f"mdn-{turn}")
            done, sent = network.run(path, size)
            network.down()
            tell("mdn", done, sent)
            ours.append(max(done.values()))
            copies.append(sent)
            done, sent = aria2(folder / f"aria2-{turn}", path, size)
            tell("aria2", done, sent)
            theirs.append(max(done.values()))
            their_copies.append(sent)
            set_rate("r8", SLOW_RATE)
            network = Network(folder / f"slow-{turn}")
            done, sent = network.run(path, size)
            network.down()
            set_rate("r8", RATE)
            tell("mdn, r8 at 20 Mbit/s", done, sent)
            slowed.append(max(v for n, v in done.items() if n != "r8"))
        figure("distribution_last", "s", ours, "floor", [floor] * len(ours), ratio_goal=1.10, at_least=False)
        figure("distribution_last", "s", ours, "aria2", theirs, ratio_goal=1, at_least=False)
        figure("distribution_origin_copies", "copies", copies, "aria2", their_copies, goal="<= 1.10",
               met=median(copies) <= 1.10)
        figure("distribution_one_slow", "s (others)", slowed, "mdn without", ours, ratio_goal=1.15, at_least=False)
        if "star" in sys.argv[1:]:
            done, sent = star(folder / "star", path, size)
            tell("curl star", done, sent)
            figure("distribution_last", "s", ours[-1:], "curl star", [max(done.values())], ratio_goal=1, at_least=False)
    finally:
        for child in list(children):
            stop(child)
        network_down()


if __name__ == "__main__":
    main()
