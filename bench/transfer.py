# SPDX-License-Identifier: Apache-2.0
"""transfer - moving a large file over loopback without a rate limit, against nginx, curl and sha256sum.

  sending    GB per CPU second of the server while curl takes the whole file; peer: nginx with sendfile
  receiving  GB/s by the clock, every chunk verified and written; the source is nginx for both. Peers: SHA-256 of one
             core (openssl speed), and curl into a file followed by sha256sum of it
  memory     of what receives MEMORY_GIB (20) of a sparse file: what is not page cache
  node       the same of whole nodes, repository and edge, TLS between them, from `mdn place` to loaded: a model of NODE_MIB
             (2048) of random weights, and one of an eighth of that: memory must not follow the size

What is sent lies in the page cache, what is received goes to memory (TMPFS, default /dev/shm): the network, the hash and
the copies are measured, not the disk. Only the last figure writes to TMPDIR.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from lib import BUILD, MDN, SUBJECT, cpu_s, figure, folder, free_port, introduce, median, need, output, rounds, say, start
from lib import stop, wait_port

SIZE = int(os.environ.get("SIZE_MIB", 2048)) << 20
MEMORY = int(os.environ.get("MEMORY_GIB", 20)) << 30
NODE_SIZE = int(os.environ.get("NODE_MIB", 2048)) << 20
NODE = BUILD / "bench/bench_transfer_node"
fast = Path(os.environ.get("TMPFS", "/dev/shm")) / folder.name


def put(store, file):
    return output(NODE, "put", store, file).split()


def nginx(root, workers=1, core=None):
    port = free_port()
    config = folder / f"nginx-{port}.conf"
    config.write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off; worker_processes {workers}; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}.log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {folder}/nginx-body; proxy_temp_path {folder}/nginx-proxy; fastcgi_temp_path {folder}/nginx-f;
  uwsgi_temp_path {folder}/nginx-u; scgi_temp_path {folder}/nginx-s;
  server {{ listen 127.0.0.1:{port}; root {root}; }} }}
""")
    child = start("nginx", "-c", config, core=core)
    wait_port(port, child)
    return port, child


def www(root, store, *digests):
    """The blobs of a store under the names that peers ask for."""
    at = root / "mdn/v1/blobs"
    at.mkdir(parents=True)
    for digest in digests:
        name = digest.split(":")[1]
        (at / digest).symlink_to(store / "blobs/sha256" / name[:2] / name)


def download(port, digest, to="/dev/null"):
    subprocess.run(["curl", "-sS", "-f", "-o", to, f"http://127.0.0.1:{port}/mdn/v1/blobs/{digest}"], check=True)


def sending(store, digest, size):
    root = folder / "send"
    www(root, store, digest)
    port = free_port()
    ours, (peer_port, peer) = start(NODE, "send", store, port, core=SUBJECT), nginx(root, core=SUBJECT)
    wait_port(port, ours)
    rates = {"mdn": [], "nginx": []}
    for _ in range(rounds(5)):
        for who, at, child in (("mdn", port, ours), ("nginx", peer_port, peer)):
            before, began = cpu_s(child), time.monotonic()
            download(at, digest)
            took, used = time.monotonic() - began, cpu_s(child) - before
            rates[who].append(size / 1e9 / used)
            say(f"  {who}: {size / 1e9 / took:.2f} GB/s by the clock, {size / 1e9 / used:.2f} per CPU second")
    stop(ours)
    stop(peer)
    return figure("transfer_send", "GB per CPU second", rates["mdn"], "nginx", rates["nginx"], ratio_goal=1)


def sha_speed():
    """GB/s of one core."""
    out = output("openssl", "speed", "-seconds", "1", "-bytes", str(1 << 20), "-mr", "-evp", "sha256")
    return float(re.search(r"\+F:\d+:sha256:([\d.]+)", out, re.I)[1]) / 1e9


def receive_once(port, words, into, watch=None):
    """(seconds, CPU seconds, highest memory that is not a file's)"""
    before = os.times()
    child = subprocess.Popen([NODE, "receive", into, f"http://127.0.0.1:{port}", *words], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, text=True)
    most = 0
    while watch and child.poll() is None:
        most = max(most, memory(child.pid))
        time.sleep(0.1)
    out = child.communicate()[0]
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    if child.returncode or not out:
        raise SystemExit(f"bench: receiving failed: exit {child.returncode}")
    return float(out), used, most


def memory(pid):
    """Bytes of a process that are not page cache."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(kb) << 10 for kb in re.findall(r"(?:RssAnon|RssShmem):\s+(\d+) kB", status))


def curl_and_hash(port, digest, into):
    began, before = time.monotonic(), os.times()
    download(port, digest, into)
    got = output("sha256sum", into).split()[0]
    if got != digest.split(":")[1]:
        raise SystemExit("bench: curl got other bytes")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - began, used


def receiving(store, words, size):
    root = fast / "receive"
    www(root, store, words[0], words[2])
    port, source = nginx(root)
    ours, curls, shas, cpus = [], [], [], []
    for _ in range(rounds(5)):
        into = fast / "into"
        took, used, _ = receive_once(port, words, into)
        shutil.rmtree(into)
        ours.append(size / 1e9 / took)
        cpus.append(size / 1e9 / used)
        took_curl, used_curl = curl_and_hash(port, words[0], fast / "curl")
        (fast / "curl").unlink()
        curls.append(size / 1e9 / took_curl)
        shas.append(sha_speed())
        say(f"  mdn {ours[-1]:.2f} GB/s ({cpus[-1]:.2f} per CPU second), curl and sha256sum {curls[-1]:.2f} "
            f"({size / 1e9 / used_curl:.2f}), SHA-256 {shas[-1]:.2f}")
    stop(source)
    figure("transfer_receive", "GB/s", ours, "SHA-256 of a core", shas, ratio_goal=0.8)
    figure("transfer_receive", "GB/s", ours, "curl and sha256sum", curls, ratio_goal=1)
    figure("transfer_receive_cpu", "GB per CPU second", cpus)


def memory_of_a_large_one():
    sparse, store = folder / "sparse", folder / "large"
    with open(sparse, "wb") as f:
        f.truncate(MEMORY)
    # The list is made from the file, which no store needs to hold: nginx serves it as it is.
    words = output(NODE, "list", folder / "lists", sparse).split()
    name = words[2].split(":")[1]
    root = folder / "large-www"
    at = root / "mdn/v1/blobs"
    at.mkdir(parents=True)
    (at / words[0]).symlink_to(sparse)
    (at / words[2]).symlink_to(folder / "lists/blobs/sha256" / name[:2] / name)
    port, source = nginx(root)
    took, used, most = receive_once(port, words, store, watch=True)
    stop(source)
    shutil.rmtree(store)
    say(f"  {MEMORY >> 30} GiB in {took:.0f} s")
    figure("transfer_memory", "MiB", [most / (1 << 20)], goal="<= 64", met=most <= 64 << 20)


class Pair:
    """A center with a repository and one edge, as an operator would start them."""

    def __init__(self, home):
        self.home, self.operator = home, home / "operator"
        home.mkdir()
        ports = [free_port() for _ in range(4)]
        self.center, self.repository = f"https://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[2]}"
        self.config("origin", ports[0], "roles: [center, repository]", f"repository_listen: 127.0.0.1:{ports[2]}")
        self.config("edge", ports[1], "roles: [edge]", f"center: {self.center}", f"api_listen: 127.0.0.1:{ports[3]}",
                    "open: true", "engine: synthetic")
        self.mdn("init", "--config", home / "origin.yaml", "--operator", self.operator)
        self.origin = self.serve("origin", ports[0])
        token = json.loads(self.mdn("token", "--json"))["token"]
        self.mdn("join", self.center, token, "--config", home / "edge.yaml")
        self.edge = self.serve("edge", ports[1])

    def config(self, name, port, *more):
        lines = [f"name: {name}", f"data: {self.home / name}", f"node_listen: 127.0.0.1:{port}", "log_level: warn", *more]
        (self.home / f"{name}.yaml").write_text("\n".join(lines) + "\n")

    def serve(self, name, port):
        child = start(MDN, "serve", "--config", self.home / f"{name}.yaml", log=f"{name}.log")
        wait_port(port, child)
        return child

    def mdn(self, *args):
        done = subprocess.run([str(a) for a in (MDN, *args)], capture_output=True, text=True,
                              env=os.environ | {"MDN_OPERATOR": str(self.operator)})
        if done.returncode:
            raise SystemExit(f"bench: mdn {args[0]}: {done.stderr}")
        return done.stdout

    def state(self, model):
        return [n["state"] for n in json.loads(self.mdn("models", model, "--json"))["nodes"]]

    def move(self, file, model):
        """Most memory of the repository and of the edge, from placed to loaded."""
        self.mdn("push", file, model, "--repository", self.repository, "--quiet")
        self.mdn("place", model, "--on", "role=edge")
        most, asked = [0, 0], 0
        while True:
            most = [max(m, memory(child.pid)) for m, child in zip(most, (self.origin, self.edge))]
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                if self.state(model) == ["ready"]:
                    return most
            time.sleep(0.05)


def memory_of_nodes():
    from distribution import model_file
    pair, found = Pair(folder / "pair"), {}
    for size in (NODE_SIZE // 8, NODE_SIZE):
        file, length = model_file(size)
        began = time.monotonic()
        found[size] = pair.move(file, f"m{size >> 20}:v1")
        file.unlink()
        say(f"  {length >> 20} MiB in {time.monotonic() - began:.0f} s with the push: repository "
            f"{found[size][0] / (1 << 20):.1f} MiB, edge {found[size][1] / (1 << 20):.1f} MiB")
    stop(pair.edge)
    stop(pair.origin)
    for i, who in enumerate(("repository", "edge")):
        most = found[NODE_SIZE][i]
        figure(f"transfer_memory_{who}", "MiB", [most / (1 << 20)], goal="<= 64", met=most <= 64 << 20)


def main():
    need("nginx", "curl", "sha256sum", "openssl")
    introduce("transfer: a large file over loopback")
    what = sys.argv[1:] or ["send", "receive", "memory", "node"]
    fast.mkdir(parents=True)
    try:
        if {"send", "receive"} & set(what):
            file, store = folder / "file", folder / "store"
            with open(file, "wb") as f:
                for _ in range(SIZE >> 20):
                    f.write(os.urandom(1 << 20))
            words = put(store, file)
            file.unlink()
        if "send" in what:
            sending(store, words[0], SIZE)
        if "receive" in what:
            receiving(store, words, SIZE)
        if "memory" in what:
            memory_of_a_large_one()
        if "node" in what:
            memory_of_nodes()
    finally:
        shutil.rmtree(fast, ignore_errors=True)


if __name__ == "__main__":
    main()
