# SPDX-License-Identifier: Apache-2.0
"""soak - a whole network under mixed traffic for MINUTES (10): memory, files and the ledger are to be flat at its end.

A center, a repository, a scheduler and two edges with synthetic engines, joined as operators do, real TLS between them.
Against the edges: streams over kept connections, large bodies, clients that leave in the middle, requests that are
wrong in several ways, idle connections; against the scheduler: DNS questions and HTTP decisions. Whoever is meant to be
answered must be. The first quarter is warm-up; then the resident memory of each node may grow, from the median of the
second quarter to that of the last, by 2 % or 2 MiB. Needs the tests' Python: tools/setup test.
"""
import asyncio
import contextlib
import json
import os
import random
import socket
import statistics
import sys
import time
from pathlib import Path

from lib import BUILD, ROOT, family, folder, introduce, say

os.environ["MDN"] = str(BUILD / "mdn")
sys.path.insert(0, str(ROOT / "tests/e2e"))
VENV = ROOT / ".deps/venv/bin/python"
try:
    from network import Network, tiny_model
except ImportError:
    if Path(sys.executable) == VENV or not VENV.exists():
        raise
    os.execv(VENV, [VENV, *sys.argv])

MINUTES = float(os.environ.get("MINUTES", 10))
CHATS, LARGE, LEAVERS, IDLE = 12, 2, 2, 200
WRONG = [b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{]",
         b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 31\r\n\r\n" + b'{"model":"nope","messages":[1]}',
         b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost", b"\x16\x03\x01\x02\x00\x01\x00", b""]
# A and HTTPS of a model's name and of one that is not there.
ASKED = [bytes.fromhex("000101000001000000000000") + b"\x06m-tiny\x03mdn\x04test\x00" + kind + b"\x00\x01" for kind in (b"\x00\x01", b"\x00\x41")]
ASKED += [bytes.fromhex("000101000001000000000000") + b"\x04nope\x03mdn\x04test\x00\x00\x01\x00\x01"]


def request(text, tokens):
    body = json.dumps({"model": "tiny", "stream": True, "max_tokens": tokens, "messages": [{"role": "user", "content": text}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Traffic:
    def __init__(self, net, seconds):
        self.net, self.until, self.counts, self.failed = net, time.monotonic() + seconds, {}, []
        self.edges = [tuple(e.config["api_listen"].rsplit(":", 1)) for e in net.edges]

    def on(self):
        return time.monotonic() < self.until

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    async def chats(self, name, prompts, tokens):
        """One connection kept, one request after the other."""
        rng = random.Random(name)
        while self.on():
            reader, writer = await asyncio.open_connection(*rng.choice(self.edges))
            for _ in range(50):
                if not self.on():
                    break
                writer.write(request(rng.choice(prompts), tokens))
                try:
                    answer = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 120)
                except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
                    answer = repr(error).encode()
                if not answer.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in answer:
                    self.failed.append(answer[:300])
                    break
                self.count(name.split("-")[0])
            writer.close()

    async def leaves(self, name):
        rng = random.Random(name)
        while self.on():
            reader, writer = await asyncio.open_connection(*rng.choice(self.edges))
            writer.write(request(f"{rng.randrange(50)} " * 500, 500))
            with contextlib.suppress(OSError):
                await reader.read(rng.randrange(1, 4000))
            if rng.random() < 0.5:
                writer.transport.abort()
            writer.close()
            self.count("left")
            await asyncio.sleep(0.05)

    async def is_wrong(self):
        rng = random.Random(3)
        while self.on():
            reader, writer = await asyncio.open_connection(*rng.choice(self.edges))
            writer.write(rng.choice(WRONG))
            if rng.random() < 0.5:
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.2)
            writer.close()
            self.count("wrong")
            await asyncio.sleep(0.02)

    async def asks_scheduler(self):
        host, port = self.net.scheduler.config["dns_listen"].rsplit(":", 1)
        http = self.net.scheduler.config["scheduler_listen"].rsplit(":", 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns:
            dns.setblocking(False)
            for i in range(1 << 30):
                if not self.on():
                    return
                dns.sendto(ASKED[i % len(ASKED)], (host, int(port)))
                await asyncio.sleep(0.02)
                with contextlib.suppress(BlockingIOError):
                    dns.recv(4096)
                    self.count("dns")
                if i % 10 == 0:
                    reader, writer = await asyncio.open_connection(*http)
                    writer.write(b"GET /v1/route?model=tiny HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    answer = await reader.read()
                    writer.close()
                    self.count("routes")
                    if not answer.startswith(b"HTTP/1.1 200"):
                        self.failed.append(answer[:300])

    async def idles(self):
        """As many as IDLE of our own connections wait; who is closed for being idle comes again."""
        rng, held = random.Random(4), []
        while self.on():
            held = [(r, w) for r, w in held if not r.at_eof()]
            while len(held) < IDLE:
                held.append(await asyncio.open_connection(*rng.choice(self.edges)))
            await asyncio.sleep(1)
        for _, writer in held:
            writer.close()

    async def run(self, watch):
        small = [f"prompt {i}: " + "tell me more of the sea and of its ships, " * 40 for i in range(200)]
        large = [f"book {i}: " + "call me by the name of the whale, " * 1800 for i in range(2)]
        jobs = [self.chats(f"chats-{i}", small, 16) for i in range(CHATS)]
        jobs += [self.chats(f"large-{i}", large, 8) for i in range(LARGE)]
        jobs += [self.leaves(f"leaves-{i}") for i in range(LEAVERS)]
        await asyncio.gather(*jobs, self.is_wrong(), self.asks_scheduler(), self.idles(), watch(self))


def rss_mib(pid):
    kib = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            kib += sum(int(line.split()[1]) for line in Path(f"/proc/{one}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return kib / 1024


def files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def watch(nodes, samples, traffic):
    while traffic.on():
        for name, node in nodes.items():
            if not node.runs:
                raise SystemExit(f"bench: {name} ended:\n{node.log()[-2000:]}")
            samples[name].append((rss_mib(node.process.pid), files(node.process.pid)))
        await asyncio.sleep(1)


def quarter(values, which):
    size = len(values) // 4
    return statistics.median(values[which * size:(which + 1) * size])


def judge(samples):
    worst = True
    for name, seen in samples.items():
        early, late = (quarter([s[0] for s in seen], q) for q in (1, 3))
        fds = [quarter([s[1] for s in seen], q) for q in (1, 3)]
        flat = late - early <= max(2, early * 0.02)
        worst &= flat
        say(f"  {name}: {early:.1f} MiB, then {late:.1f} MiB; files open {fds[0]:.0f}, then {fds[1]:.0f}")
    growth = max(quarter([s[0] for s in seen], 3) - quarter([s[0] for s in seen], 1) for seen in samples.values())
    say(f"figure soak_growth = {growth:.2f} MiB of the node that grew most, goal <= 2 MiB or 2 %: {'met' if worst else 'missed'}")


def settle(net):
    """Nothing runs any more: so says every edge's ledger."""
    for _ in range(100):
        still = sum(edge.metric("mdn_ledger_open") for edge in net.edges)
        if not still:
            break
        time.sleep(0.1)
    say(f"figure soak_ledger_open = {still:.0f}, goal 0: {'met' if not still else 'missed'}")


if __name__ == "__main__":
    introduce(f"soak: mixed traffic for {MINUTES:g} minutes")
    engine = {"engine": "synthetic", "slots": 32, "context": 65536}
    net = Network(folder, edges={"edge-1": "north", "edge-2": "south"}, edge=engine)
    try:
        net.up()
        net.push(tiny_model(folder), "tiny")
        samples = {name: [] for name in net.nodes}
        traffic = Traffic(net, MINUTES * 60)
        asyncio.run(traffic.run(lambda t: watch(net.nodes, samples, t)))
        say("  " + ", ".join(f"{what} {n}" for what, n in sorted(traffic.counts.items())))
        judge(samples)
        settle(net)
        failed = len(traffic.failed)
        say(f"figure soak_failed = {failed} requests, goal 0: {'met' if not failed else 'missed'}"
            + (f"; the first: {traffic.failed[0]}" if failed else ""))
    finally:
        net.down()
