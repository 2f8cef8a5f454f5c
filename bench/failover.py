# SPDX-License-Identifier: Apache-2.0
"""failover - kill -9 of an edge that answers: what its streams, new requests and DNS see of it.

A whole network with synthetic engines (10 ms a token). Clients talk to edge-1, which does not have the model; edge-2 and
edge-3 do. Each round: one stream alone, whose node is killed in the middle (its longest pause, the detection of the
death within it, less the time a token takes anyway); then CLIENTS at once, each asking for short streams one after the
other, while the node that answers most is killed (requests that failed, the longest wait for a first token); meanwhile
the scheduler's DNS is asked for the killed node's address until it is not given any more. The text of each stream is
compared with that of one nobody disturbed. Needs the tests' Python: tools/setup test.
"""
import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from lib import BUILD, ROOT, figure, folder, introduce, rounds, say

os.environ["MDN"] = str(BUILD / "mdn")
sys.path.insert(0, str(ROOT / "tests/e2e"))
VENV = ROOT / ".deps/venv/bin/python"
try:
    import httpx
    from network import Network, eventually, tiny_model
except ImportError:
    if Path(sys.executable) == VENV or not VENV.exists():
        raise
    os.execv(VENV, [VENV, *sys.argv])

CLIENTS = 12
QUESTION = bytes.fromhex("000101000001000000000000") + b"\x06m-tale\x03mdn\x04test\x00\x00\x01\x00\x01"


class Stream:
    """Reads one to its end. `begun(node)` is called behind its tenth event."""

    def __init__(self, net, tokens, begun=None):
        self.text, self.pauses, self.first, self.failed = "", [], None, None
        asked = last = time.monotonic()
        try:
            with httpx.stream("POST", net.edges[0].api_url + "/v1/completions", timeout=30, json={
                    "model": "tale", "prompt": "Once upon a time. " * 20, "max_tokens": tokens, "stream": True}) as answer:
                self.node = answer.headers.get("x-mdn-node-name")
                for line in answer.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    now, event = time.monotonic(), json.loads(line[6:])
                    if "error" in event:
                        raise ValueError(event["error"]["message"])
                    self.first = self.first or now - asked
                    self.text += event["choices"][0]["text"]
                    self.pauses.append(now - last)
                    last = now
                    if begun and len(self.pauses) == 10:
                        begun(self.node)
                        begun, self.pauses, last = None, [], time.monotonic()
            if self.first is None:
                raise ValueError(f"status {answer.status_code}")
        except (httpx.HTTPError, ValueError) as error:
            self.failed = str(error)


def gone_from_dns(net, node, ret):
    host, port = net.scheduler.config["dns_listen"].rsplit(":", 1)
    address, began = socket.inet_aton(node.api_host), time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        while time.monotonic() - began < 20:
            s.sendto(QUESTION, (host, int(port)))
            with contextlib.suppress(TimeoutError):
                if address not in s.recv(4096):
                    break
            time.sleep(0.02)
    ret.append(time.monotonic() - began)


def ready(net):
    net.wait_up()
    eventually(lambda: all(n["state"] == "ready" for n in net.model("tale")["nodes"]), 60, "tale is ready")
    time.sleep(1)  # for maps to tell of it


def alone(net, whole):
    killed = []

    def kill(name):
        net.nodes[name].kill()
        killed.append(net.nodes[name])
    s = Stream(net, 100, kill)
    for node in killed:
        node.start()
    if s.failed or s.text != whole.text:
        say(f"  the stream was not what it should be: {s.failed or s.text}")
        return 20.0
    return max(s.pauses) - sorted(s.pauses)[len(s.pauses) // 2]


def under_load(net, whole, counts):
    streams, dns, over = [], [], threading.Event()

    def client():
        while not over.is_set():
            streams.append(Stream(net, 20))
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    eventually(lambda: len(streams) > 3 * CLIENTS, 60, "the clients are served")
    names = [s.node for s in streams]
    victim = net.nodes[max(("edge-2", "edge-3"), key=names.count)]
    warm = len(streams)
    victim.kill()
    gone_from_dns(net, victim, dns)
    eventually(lambda: len(streams) > warm + 3 * CLIENTS, 60, "the clients are served")
    over.set()
    for t in threads:
        t.join()
    victim.start()
    failed = [s for s in streams if s.failed]
    for s in failed[:3]:
        say(f"  failed: {s.failed}")
    counts["before"] += sum(not s.first for s in failed)
    counts["after"] += sum(bool(s.first) for s in failed) + sum(not s.failed and not whole.text.startswith(s.text) for s in streams)
    counts["all"] += len(streams)
    calm = sorted(s.first for s in streams[CLIENTS:warm] if s.first)
    return max(s.first for s in streams[warm:] if s.first) - calm[len(calm) // 2], dns[0]


if __name__ == "__main__":
    introduce(f"failover: an edge killed, a stream alone and {CLIENTS} clients at once")
    net = Network(folder, edge={"engine": "synthetic", "slots": 32})
    try:
        net.up()
        net.push(tiny_model(folder, "tale"), "tale", on="node=edge-2,node=edge-3")
        whole, gaps, waits, dns, counts = Stream(net, 100), [], [], [], {"before": 0, "after": 0, "all": 0}
        for _ in range(rounds(5)):
            ready(net)
            gaps.append(alone(net, whole) * 1e3)
            ready(net)
            wait, left = under_load(net, whole, counts)
            waits.append(wait)
            dns.append(left)
        say(f"  pauses {' '.join(f'{g:.0f}' for g in gaps)} ms; waits {' '.join(f'{w:.2f}' for w in waits)} s; {counts['all']} requests under load")
        figure("failover_pause", "ms, detection included", gaps, goal="<= 300", met=sorted(gaps)[len(gaps) // 2] <= 300)
        figure("failover_lost", f"of {counts['all']} requests before their first token", [counts["before"]], goal="0", met=counts["before"] == 0)
        figure("failover_broken", "streams broken or with other text", [counts["after"]], goal="0", met=counts["after"] == 0)
        figure("failover_reroute", "s longer than usual, the longest first token", waits, goal="<= 1", met=sorted(waits)[len(waits) // 2] <= 1)
        figure("failover_dns", "s until DNS gives another", dns, goal="<= 3", met=sorted(dns)[len(dns) // 2] <= 3)
    finally:
        net.down()
