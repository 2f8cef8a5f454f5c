# SPDX-License-Identifier: Apache-2.0
"""A whole network of real processes for a test: own folder, own ports, joined by token, over real TLS.

Every step is what an operator would type: `mdn init`, `mdn serve`, `mdn token`, `mdn join`. Each edge listens on a
loopback address of its own (127.0.0.11 and so on), so that DNS answers can be told apart. Only processes started here
are ended, each by its own handle.
"""
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tools"))
import tiny_gguf  # noqa: E402

MDN = Path(os.environ.get("MDN_BIN") or os.environ.get("MDN") or ROOT / "build/mdn").absolute()
START_S = 20
ZONES = ["127.0.0.0/8=here", "192.0.2.0/24=north", "198.51.100.0/24=south"]
DISTANCES = ["here-north=2ms", "here-south=30ms", "north-south=40ms"]


def ports():
    """Ports below the range that the kernel gives to clients, one after the other: none comes twice before all did.
    Tests that run side by side (pytest-xdist) have ranges of their own."""
    first = 20000 + 2000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 6)
    start = random.randrange(2000)
    while True:
        yield first + start % 2000
        start += 1


PORTS = ports()


def free_port():
    while True:
        port = next(PORTS)
        with contextlib.ExitStack() as stack:
            try:
                for host in ("127.0.0.1", "127.0.0.11", "127.0.0.12", "127.0.0.13"):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        stack.enter_context(socket.socket(socket.AF_INET, kind)).bind((host, port))
                return port
            except OSError:
                continue


def eventually(check, seconds=START_S, what=None, every=0.05):
    """Waits until check() is true and returns what it said. Errors of a side that is not there yet count as false."""
    until, last = time.monotonic() + seconds, None
    while True:
        try:
            value = check()
            if value:
                return value
            last = value
        except (OSError, httpx.HTTPError, openai.OpenAIError, CommandFailed) as error:
            last = error
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what or check}; last: {last!r}")
        time.sleep(every)


class CommandFailed(Exception):
    def __init__(self, args, code, out, err):
        super().__init__(f"mdn {' '.join(map(str, args))}: exit {code}\n{out}{err}")
        self.code, self.out, self.err = code, out, err


def run_mdn(*args, env=None, code=0, cwd=None, timeout=60, stdin=None):
    """Runs mdn to its end; CommandFailed unless it exits with `code`. Returns (stdout, stderr)."""
    done = subprocess.run([MDN, *map(str, args)], env=os.environ | (env or {}), cwd=cwd, text=True, capture_output=True,
                          timeout=timeout, input=stdin)
    if code is None or done.returncode != code:
        raise CommandFailed(args, done.returncode, done.stdout, done.stderr)
    return done.stdout, done.stderr


class Node:
    def __init__(self, network, name, roles, site, **config):
        self.network, self.name, self.roles, self.site = network, name, roles, site
        self.folder = network.folder / name
        self.config_path = network.folder / f"{name}.yaml"
        self.log_path = network.folder / f"{name}.log"
        self.process = None
        self.config = {"name": name, "roles": roles, "site": site, "data": str(self.folder),
                       "node_listen": f"127.0.0.1:{free_port()}", "log_format": "json", **config}
        self.write_config()

    def write_config(self, **changes):
        self.config |= changes
        # Every JSON value is a YAML value.
        self.config_path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in self.config.items()))

    @property
    def node_url(self):
        return "https://" + self.config["node_listen"]

    @property
    def api_host(self):
        return self.config["api_listen"].rsplit(":", 1)[0]

    @property
    def api_url(self):
        return "http://" + self.config["api_listen"]

    @property
    def id(self):
        return self.network.node(self.name)["id"]

    def start(self, env=None, **more):
        assert not self.runs, f"{self.name} runs already"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([MDN, "serve", "--config", self.config_path], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=os.environ | (env or {}), **more)
        return self

    @property
    def runs(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """As if the power went."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds=15):
        """As a service manager would; returns the exit code."""
        if self.runs:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
                raise AssertionError(f"{self.name} did not stop within {seconds} s of SIGTERM") from None
        return self.process.returncode if self.process else 0

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_lines(self):
        """The JSON lines of the log."""
        lines = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    def get(self, path, **more):
        return httpx.get(self.api_url + path, timeout=10, **more)

    def metric(self, name):
        """Sum over all label sets of a metric of the public port; 0 when it is not there."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            if line.startswith((name + " ", name + "{")):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def openai(self, key="any", **more):
        more.setdefault("max_retries", 0)
        more.setdefault("timeout", 30)
        return openai.OpenAI(base_url=self.api_url + "/v1", api_key=key, **more)


class Network:
    """edges: {name: site}. Keywords of `edge` go into every edge's configuration."""

    def __init__(self, folder, edges=None, edge=None, center=None, repository=None, scheduler=None):
        self.folder = Path(folder)
        self.operator = self.folder / "operator"
        self.nodes, self.clients = {}, []
        self._operator_http = None
        edges = edges if edges is not None else {"edge-1": "north", "edge-2": "north", "edge-3": "south"}
        self.center = self._add("center", ["center"], "core",
                                **({"console_listen": f"127.0.0.1:{free_port()}"} | (center or {})))
        self.repository = self._add("repository", ["repository"], "core", chunk_size="1M",
                                    repository_listen=f"127.0.0.1:{free_port()}", **(repository or {}))
        self.scheduler = self._add("scheduler", ["scheduler"], "core", scheduler_listen=f"127.0.0.1:{free_port()}",
                                   dns_listen=f"127.0.0.1:{free_port()}",
                                   **({"zones": ZONES, "distances": DISTANCES} | (scheduler or {})))
        self.edges = [self.add_edge(name, site, **(edge or {})) for name, site in edges.items()]

    def _add(self, name, roles, site, **config):
        config.setdefault("center", "" if not self.nodes else self.center.node_url)
        if not config["center"]:
            del config["center"]
        node = self.nodes[name] = Node(self, name, roles, site, **config)
        return node

    def add_edge(self, name, site, **config):
        place = sum("edge" in n.roles for n in self.nodes.values())
        defaults = {"api_listen": f"127.0.0.{11 + place}:{free_port()}", "open": True, "threads": 1, "slots": 4,
                    "context": 2048}
        return self._add(name, ["edge"], site, **(defaults | config))

    # ---- life -------------------------------------------------------------------------------------

    def up(self):
        run_mdn("init", "--config", self.center.config_path, "--operator", self.operator)
        self.center.start()
        eventually(lambda: self.json("nodes"), what="the center answers")
        for node in list(self.nodes.values())[1:]:
            self.join(node).start()
        self.wait_up()
        return self

    def token(self, *args):
        return self.json("token", *args)["token"]

    def join(self, node, token=None, code=0):
        run_mdn("join", self.center.node_url, token or self.token(), "--config", node.config_path, code=code)
        return node

    def wait_up(self, names=None, seconds=START_S):
        names = set(names or [n.name for n in self.nodes.values() if n.runs])
        eventually(lambda: names <= {n["name"] for n in self.json("nodes")["nodes"]
                                     if n["health"] == "up" and n["state"] == "ready"},
                   seconds, f"{sorted(names)} are up")

    def down(self):
        for client in self.clients:
            client.close()
        for node in self.nodes.values():
            if node.runs:
                node.process.kill()
        for node in self.nodes.values():
            if node.process:
                node.process.wait(10)

    def tails(self, lines=25):
        out = []
        for node in self.nodes.values():
            state = "runs" if node.runs else f"exit {node.process.returncode if node.process else None}"
            tail = node.log().splitlines()[-lines:] if node.log_path.exists() else []
            out += [f"---- {node.name} ({state})", *tail]
        return "\n".join(out)

    # ---- the operator ------------------------------------------------------------------------------

    def mdn(self, *args, **more):
        more["env"] = {"MDN_OPERATOR": str(self.operator)} | more.pop("env", {})
        return run_mdn(*args, **more)[0]

    def json(self, *args, **more):
        return json.loads(self.mdn(*args, "--json", **more))

    def node(self, name):
        return next(n for n in self.json("nodes")["nodes"] if n["name"] == name)

    def operator_context(self):
        """TLS as the operator: our certificate, their CA; who they are stands in a URI, so no host name is checked."""
        context = ssl.create_default_context(cafile=self.operator / "ca.pem")
        context.check_hostname = False
        context.load_cert_chain(self.operator / "cert.pem", self.operator / "key.pem")
        return context

    def http(self):
        """An HTTP client of the operator, for the node ports."""
        if self._operator_http is None:
            self._operator_http = httpx.Client(verify=self.operator_context(), timeout=20)
            self.clients.append(self._operator_http)
        return self._operator_http

    # ---- models ------------------------------------------------------------------------------------

    @property
    def repository_url(self):
        return "http://" + self.repository.config["repository_listen"]

    def push(self, file, model, on="role=edge", ready=True, seconds=60):
        self.mdn("push", file, model, "--repository", self.repository_url, "--quiet")
        if on:
            self.place(model, on)
            if ready:
                self.wait_model(model, seconds=seconds)

    def place(self, model, on="role=edge"):
        """The center hears of a new version from the repository's feed, in a moment."""
        return eventually(lambda: self.json("place", model, "--on", on), 10, f"{model} can be placed")

    def model(self, model):
        return self.json("models", model)

    def wait_model(self, model, names=None, seconds=60):
        """Until it is ready wherever it is placed (or on these) and the gateways of all running edges know it."""
        def ready():
            nodes = {n["name"]: n for n in self.model(model)["nodes"]}
            for n in nodes.values():
                assert n["state"] != "failed", n["error"]
            return nodes and all(nodes.get(name, {}).get("state") == "ready" for name in names or nodes)
        eventually(ready, seconds, f"{model} is ready")
        full = model if ":" in model else model + ":latest"
        for edge in self.edges:
            if edge.runs:
                eventually(lambda: full in [m["id"] for m in edge.get(
                    "/v1/models", headers=self.api_headers).json()["data"]], 10, f"{edge.name} lists {model}")

    api_headers = {}

    # ---- the scheduler -----------------------------------------------------------------------------

    @property
    def scheduler_url(self):
        return "http://" + self.scheduler.config["scheduler_listen"]

    def route(self, model, **query):
        return httpx.get(self.scheduler_url + "/v1/route", params={"model": model, **query}, timeout=5)


def tiny_model(folder, name="tiny", **shape):
    """A random-weight model; the same arguments give the same bytes."""
    return tiny_gguf.make(str(Path(folder) / f"{name}.gguf"), **shape)
