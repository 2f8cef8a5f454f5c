# SPDX-License-Identifier: Apache-2.0
"""A lab of network namespaces: places around a bridge, each behind a bad link of its own (link.c).

    place "core"                     hub                           place "far"
    eth0 10.77.0.1 ──── o1 ═ link ═ b1 ─┐                  ┌─ b2 ═ link ═ o2 ──── eth0 10.77.0.2
                                        └────── br0 ───────┘

Nothing of it exists outside its namespaces, so any number of labs can be there at once and none needs an address of the
machine. What a lab made goes with it: links end with their standard input, mdn processes are told to end with ours
(prctl), and namespaces left by a run that was killed are removed by the next.

A thread goes into a place with `with place:`; what it starts there stays there. Linux keeps the network namespace per
thread, so the other threads do not notice; new ones are born where their maker is.
"""
import contextlib
import ctypes
import json
import os
import re
import select
import signal
import ssl
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from network import MDN, Network, Node, run_mdn  # noqa: E402

LINK = MDN.parent / "tests/lab/link"
PREFIX = "mdnlab"
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


def ip(*words, **more):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, **more)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def interface(namespace, name):
    return json.loads(ip("-n", namespace, "-s", "-j", "link", "show", name))[0]["stats64"]


def why_not():
    """Why no lab can be built here, or None."""
    if os.geteuid() != 0:
        return "the lab needs root, to make network namespaces"
    name = f"{PREFIX}-{os.getpid()}-try"
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            ip("-n", name, "link", "add", "br0", "type", "bridge")
        finally:
            ip("netns", "del", name)
    except OSError as error:
        return f"the lab needs network namespaces, veth and bridge; {error}"
    return None


def sweep():
    """Removes what labs left whose process is gone."""
    for name in re.findall(rf"^({PREFIX}-(\d+)-\S+)", ip("netns", "list"), re.M):
        if not Path(f"/proc/{name[1]}").exists():
            ip("netns", "del", name[0])


def enter(fd):
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def end_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Link:
    """A running link.c, or any orders to it: link("delay 20", "loss 2")."""

    def __init__(self, hub, one, other):
        self.process = subprocess.Popen(["ip", "netns", "exec", hub, LINK, one, other], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)
        self.expect("ready")

    def line(self):
        if not select.select([self.process.stdout], [], [], 10)[0]:
            raise AssertionError("the link does not answer")
        return self.process.stdout.readline().strip()

    def expect(self, word):
        said = self.line()
        assert said == word, f"the link says {said!r}"

    def __call__(self, *orders):
        for order in orders:
            self.process.stdin.write(order + "\n")
            self.expect("ok")

    def count(self):
        """What became of the frames: {"passed": N, "lost": N, "full": N, "cut": N, "overrun": N}."""
        self.process.stdin.write("count\n")
        words = self.line().split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def plain(self):
        self("delay 0", "jitter 0", "loss 0", "rate 0", "restore")

    def end(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.process.stdout.close()


class Place:
    """A namespace with one interface. As a context: this thread is there."""

    def __init__(self, lab, name, number):
        self.name, self.address = name, f"10.77.0.{number}"
        self.namespace = f"{lab.name}-{name}"
        self.came_from = []
        lab.add_namespace(self.namespace)
        self.fd = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY | os.O_CLOEXEC)
        outside, port = f"o{number}", f"b{number}"
        self.hub, self.port = lab.hub, port
        # One segment a frame, or the kernel hands 64 KB over as one and loses them as one.
        ip("-n", lab.hub, "-batch", "-", input=f"""\
link add {outside} up type veth peer name eth0 netns {self.namespace}
link add {port} up type veth peer name {port}x
link set {port}x master br0 up
""")
        ip("-n", self.namespace, "-batch", "-", input=f"""\
link set lo up
link set eth0 gso_max_segs 1
address add {self.address}/24 dev eth0
link set eth0 up
""")
        self.link = Link(lab.hub, outside, port)

    def line_bytes(self):
        """(in, out) since the beginning: what the kernel counted where the line ends, at each side."""
        inside = interface(self.namespace, "eth0")
        outside = interface(self.hub, self.port + "x")
        return inside["rx"]["bytes"], outside["rx"]["bytes"]

    def __enter__(self):
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        enter(self.fd)
        self.came_from.append(before)
        return self

    def __exit__(self, *_):
        before = self.came_from.pop()
        enter(before)
        os.close(before)


class Lab:
    def __init__(self):
        sweep()
        self.name = f"{PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.hub = f"{self.name}-hub"
        self.places, self.namespaces = {}, []
        try:
            self.add_namespace(self.hub)
            ip("-n", self.hub, "link", "add", "br0", "up", "type", "bridge")
        except BaseException:
            self.end()
            raise

    def add_namespace(self, name):
        self.namespaces.append(name)
        ip("netns", "add", name)

    def place(self, name):
        """The place of that name, made when first asked for."""
        if name not in self.places:
            self.places[name] = Place(self, name, len(self.places) + 1)
        return self.places[name]

    def end(self):
        for place in self.places.values():
            place.link.end()
            os.close(place.fd)
        for name in self.namespaces:
            with contextlib.suppress(OSError):
                ip("netns", "del", name)


class LabNode(Node):
    """A node that lives in a place."""

    def __init__(self, network, name, roles, site, place, **config):
        self.place = place
        super().__init__(network, name, roles, site, **config)

    @property
    def link(self):
        return self.place.link

    def start(self, env=None, **more):
        with self.place:
            return super().start(env, preexec_fn=end_with_parent, **more)

    def certificate_ends(self):
        """When, in seconds since 1970."""
        path = self.folder / "identity/cert.pem"
        return ssl.cert_time_to_seconds(ssl._ssl._test_decode_cert(str(path))["notAfter"])


class LabNetwork(Network):
    """The repository and the scheduler are at "core", where the tests and the operator are as well; every other node
    is at a place of its own name, or, `by_site`, all edges of a site at one. Addresses are the places', and distances are
    measured, not configured."""

    by_site = False

    def __init__(self, lab, folder, **more):
        self.lab = lab
        super().__init__(folder, **more)

    def _add(self, name, roles, site, **config):
        at = site if self.by_site and "edge" in roles else name
        place = self.lab.place("core" if name in ("repository", "scheduler") else at)
        for i, key in enumerate(("repository_listen", "scheduler_listen", "dns_listen", "api_listen")):
            if key in config:
                config[key] = f"{place.address}:{8080 + 10 * len(self.nodes) + i}"
        if "scheduler" in roles:
            del config["distances"]
            config["zones"] = [f"{place.address}/32=core", "198.51.100.0/24=south"]
        if self.nodes:
            config["center"] = self.center.node_url
        config["node_listen"] = f"{place.address}:{7300 + len(self.nodes)}"
        node = self.nodes[name] = LabNode(self, name, roles, site, place, **config)
        return node

    def join(self, node, token=None, code=0, env=None):
        token = token or self.token()
        with node.place:
            run_mdn("join", self.center.node_url, token, "--config", node.config_path, code=code, env=env)
        return node
