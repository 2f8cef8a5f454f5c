# SPDX-License-Identifier: Apache-2.0
"""streams - the API alone: how many streams of 50 tokens/s one core serves, and how much memory an idle one takes.

The engine is the synthetic one: a token for every stream every 20 ms, each an event of its own that is parsed from
nothing, written as JSON, framed and sent. The node has one core for itself, the clients have the others. Two figures: the
streams that a core's CPU time would serve (50 tokens/s / what a token costs), and whether so many really get their
tokens. Idle streams have had their first token and wait 60 s for the next.
"""
import json
import os
import subprocess
import time
from pathlib import Path

from lib import BUILD, MODEL, OTHERS, SUBJECT, cpu_s, family, figure, folder, free_port, introduce, rounds, say, seconds
from lib import start, stop, wait_port

STREAMS, RATE, WARM = int(os.environ.get("STREAMS", 2000)), 50, 0.2


def node(itl_ms):
    port = free_port()
    child = start(BUILD / "bench/bench_gateway_node", port, "synthetic", "bench:latest", MODEL, STREAMS, itl_ms,
                  core=SUBJECT)
    wait_port(port, child)
    return port, child


def load(port, duration, tokens):
    body = folder / "streams.json"
    body.write_text(json.dumps({"model": "bench", "stream": True, "max_tokens": tokens,
                                "messages": [{"role": "user", "content": "Say what you are asked to say. " * 20}]}))
    return subprocess.Popen(["taskset", "-c", ",".join(map(str, OTHERS)), str(BUILD / "bench/bench_load"), str(port),
                             "/v1/chat/completions", str(body), str(STREAMS), str(duration)],
                            stdout=subprocess.PIPE, text=True)


def rss_kib(child):
    total = 0
    for pid in family(child.pid):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("VmRSS") else 0
    return total


def busy(duration):
    """Tokens a second, and CPU seconds of the node a token, once all streams run."""
    port, child = node(1000 // RATE)
    client = load(port, duration, 3000)
    time.sleep(duration * WARM)
    before, began = cpu_s(child), time.monotonic()
    result = json.loads(client.communicate()[0])
    took = time.monotonic() - began
    cpu = cpu_s(child) - before
    stop(child)
    if result["errors"] or not result["events"]:
        raise SystemExit(f"bench: {result}")
    rate = result["events"] / result["seconds"]
    return rate, cpu / took / rate


def idle():
    port, child = node(60_000)
    time.sleep(0.5)
    before = rss_kib(child)
    client = load(port, 12, 100)
    time.sleep(6)  # they start in the first second
    kib = (rss_kib(child) - before) / STREAMS
    client.communicate()
    stop(child)
    return kib


if __name__ == "__main__":
    introduce(f"streams: the API alone, {STREAMS} streams of {RATE} tokens/s; the node on core {SUBJECT}")
    duration = seconds(10)
    found = [busy(duration) for _ in range(rounds(3))]
    say(f"  a token costs {min(f[1] for f in found) * 1e6:.1f} to {max(f[1] for f in found) * 1e6:.1f} us of CPU")
    served = [1 / f[1] / RATE for f in found]
    figure("streams_a_core", "streams of CPU time", served, goal=">= 2000", met=sorted(served)[len(served) // 2] >= 2000)
    share = [f[0] / (STREAMS * RATE) for f in found]
    figure("streams_tokens_on_time", f"of {STREAMS * RATE} tokens/s", share, goal=">= 0.98",
           met=sorted(share)[len(share) // 2] >= 0.98)
    kib = [idle()]
    figure("streams_idle_rss", "KiB each", kib, goal="<= 32", met=kib[0] <= 32)
