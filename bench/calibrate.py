# SPDX-License-Identifier: Apache-2.0
"""calibrate - a small scenario in the simulator and for real: do they agree?

The same world (docs/examples/sim/small.yaml: cities, sites, nodes, distances, timings, users) is played by `mdn sim` and by
gateways and synthetic engines over loopback sockets, with a client a request. Loopback has no distance: the way between
the client, the gateway that DNS named and the node that answered is added to what was measured. The simulator plays ten
times as long. ROUNDS (1) for real, of other users each; a figure's ratio is real over simulated.
"""
import asyncio
import json
import random
import statistics
import subprocess
import time
import urllib.request

from lib import BUILD, MDN, ROOT, figure, folder, free_port, introduce, rounds, say, start, stop, wait_port

SCENARIO = ROOT / "docs/examples/sim/small.yaml"
TTL_S, WITHIN = 20, 0.15
NAMES = {"ttft_p50": "ms", "ttft_p99": "ms", "itl_p50": "ms", "served_near": "of all", "way": "ms"}


def simulated():
    longer = folder / "longer.yaml"
    longer.write_text(SCENARIO.read_text().replace("duration: 100s", "duration: 1000s"))
    done = subprocess.run([MDN, "sim", longer, "--policy", "mdn", "--json"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: mdn sim: {done.stderr}")
    p = json.loads(done.stdout)["policies"][0]
    return p["ttft_ms"]["p50"], p["ttft_ms"]["p99"], p["itl_ms"]["p50"], p["served_near"], p["distance_ms"]["mean"], p["busy"]


def fetch(port, path):
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30))


class Network:
    """The real one at `port`, and what its users' resolvers remember."""

    def __init__(self, port):
        self.port, self.world, self.names = port, fetch(port, "/world"), {}
        self.ttft, self.itl, self.ways, self.near, self.failed = [], [], [], 0, []

    def gateway(self, city):
        until, sites = self.names.get(city, (0, []))
        if time.monotonic() >= until:
            sites = fetch(self.port, f"/resolve?city={city}")
            self.names[city] = time.monotonic() + TTL_S, sites
        return sites[0]

    async def ask(self, city, prompt, answer):
        gateway = self.gateway(city)
        content = random.randbytes(prompt * 2).hex()[:prompt * 4]
        body = json.dumps({"model": "chat", "stream": True, "max_tokens": answer,
                           "messages": [{"role": "user", "content": content}]}).encode()
        began, at, seen = time.monotonic(), [], b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port + 1 + gateway)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            node = int(head.split(b"x-mdn-node: n-")[1].split(b"\r")[0])
            while line := await reader.readline():
                seen = line
                if b'"content":"' in line and b'"content":""' not in line:
                    at.append(time.monotonic())
            writer.close()
        except (OSError, IndexError, asyncio.IncompleteReadError) as error:
            self.failed.append(repr(error))
            return
        if not at:
            self.failed.append(repr(seen))
            return
        rtt, site = self.world["rtt_us"], self.world["node_sites"][node]
        way = self.world["access_us"] + rtt[city][gateway] + rtt[gateway][site]
        self.ttft.append((at[0] - began) * 1e3 + way / 1e3)
        if len(at) > 1:
            self.itl.append((at[-1] - at[0]) / (len(at) - 1) * 1e3)
        self.ways.append(rtt[city][site] / 1e3)
        self.near += rtt[city][site] <= min(rtt[city]) + 5000

    async def play(self, seed):
        plan, tasks, began = fetch(self.port, f"/plan?seed={seed}"), [], time.monotonic()
        for at_us, city, prompt, answer in plan:
            await asyncio.sleep(max(0, began + at_us / 1e6 - time.monotonic()))
            tasks.append(asyncio.create_task(self.ask(city, prompt, answer)))
        await asyncio.gather(*tasks)


def real(seed):
    port, model = free_port(), folder / "m.gguf"
    model.write_bytes(b"-")
    child = start(BUILD / "bench/bench_calibrate_node", SCENARIO, port, model)
    wait_port(port, child)
    time.sleep(2.5)  # until the gateways have a map
    n = Network(port)
    asyncio.run(n.play(seed))
    stop(child)
    if not n.ttft:
        raise SystemExit(f"bench: nothing was answered: {n.failed[:1]}")
    ttft = sorted(n.ttft)
    return (ttft[len(ttft) // 2], ttft[int(.99 * (len(ttft) - 1))], statistics.median(n.itl), n.near / len(ttft),
            statistics.mean(n.ways), len(n.failed))


def show(who, values):
    say(f"  {who}: TTFT p50 {values[0]:.1f} ms, p99 {values[1]:.1f} ms; ITL {values[2]:.2f} ms; served near "
        f"{values[3]:.3f}; way {values[4]:.2f} ms; {values[5]} not answered")
    return values


if __name__ == "__main__":
    introduce(f"calibrate: {SCENARIO.name} in the simulator and for real")
    reals = [show("for real ", real(seed)) for seed in range(1, rounds(1) + 1)]
    simulator = show("simulated", simulated())
    for i, (name, unit) in enumerate(NAMES.items()):
        ours = statistics.median(r[i] for r in reals)
        met = max(ours / simulator[i], simulator[i] / ours) <= 1 + WITHIN
        figure(f"calibrate_{name}", unit, [ours], "the simulator", [simulator[i]], goal=f"within {WITHIN:.0%}", met=met)
