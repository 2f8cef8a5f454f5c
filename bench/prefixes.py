# SPDX-License-Identifier: Apache-2.0
"""prefixes - many prompts on few beginnings: p90 of the first token and share found in caches, against other policies.

150 groups of prompts, each with a beginning of 6,000 tokens and PROMPTS different ends, come in random order as a
Poisson process of RATE a second to 4 nodes with synthetic engines and prefix caches that hold KV tokens, less than half
of all beginnings, each. The ideal is that only the first of a group finds nothing. Ours is measured as it ships and as
route_policy round_robin; vllm-router and smg as cache_aware, their default; they ask the nodes for a prompt's tokens as
they would ask vLLM. Everybody starts with empty caches.
"""
import asyncio
import json
import os
import random
import sys
import time

from lib import BUILD, figure, folder, free_port, introduce, rounds, say, start, stop, wait_port
from rivals import program, version

GROUPS, PREFIX, TAIL, PROMPTS = 150, 6000, 100, int(os.environ.get("PROMPTS", 12))
NODES, PREFILL_US, KV, RATE = 4, 30, int(os.environ.get("KV", 400_000)), float(os.environ.get("RATE", 20))
IDEAL = (PROMPTS - 1) / PROMPTS * PREFIX / (PREFIX + TAIL)


def words(name, tokens):
    text = "".join(f"{name}{i:05}"[-8:].rjust(8, "-") for i in range((tokens + 1) // 2))
    return text[:tokens * 4]


def prompts(seed):
    rng = random.Random(seed)
    order = [(g, n) for g in range(GROUPS) for n in range(PROMPTS)]
    rng.shuffle(order)
    at = 0
    for group, n in order:
        at += rng.expovariate(RATE)
        messages = [{"role": "system", "content": words(f"{seed % 10}{group:03}", PREFIX)},
                    {"role": "user", "content": words(f"{n:03}{group % 10}", TAIL)}]
        yield at, json.dumps({"model": "m:latest", "messages": messages, "max_tokens": 8, "stream": True,
                              "stream_options": {"include_usage": True}}).encode()


async def ask(port, body, results):
    began, first, seen = time.monotonic(), None, b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while data := await reader.read(65536):
            seen += data
            if first is None and b'"content":"' in seen.replace(b'"content":""', b""):
                first = time.monotonic() - began
        writer.close()
    except OSError as error:
        seen = str(error).encode()

    def number(key):
        return int(seen[seen.rfind(key) + len(key):].lstrip().split(b",")[0].split(b"}")[0])
    if first is None or b'"prompt_tokens":' not in seen:
        results["failed"].append(seen[-200:])
        return
    results["ttft"].append(first)
    results["prompt"] += number(b'"prompt_tokens":')
    results["cached"] += number(b'"cached_tokens":')


async def play(port, seed):
    plan = list(prompts(seed))  # made before, so that the clients cost little while they ask
    results = {"ttft": [], "prompt": 0, "cached": 0, "failed": []}
    began, tasks = time.monotonic(), []
    for at, body in plan:
        await asyncio.sleep(max(0, began + at - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, body, results)))
    await asyncio.gather(*tasks)
    return results


def router(who, at, port):
    launch = ["launch"] if who == "smg" else []
    return start(program(who), *launch, "--host", "127.0.0.1", "--port", at, "--policy", "cache_aware", "--log-level", "error",
                 "--prometheus-port", free_port(), "--worker-urls", *(f"http://127.0.0.1:{port + i}" for i in range(1, NODES + 1)))


def measure(who, seed):
    port, model = free_port(), folder / "m.gguf"
    model.write_bytes(b"-")
    ours = who in ("mdn", "round_robin")
    running = [start(BUILD / "bench/bench_prefixes_node", port, who if ours else "mdn", NODES, PREFILL_US, KV, model)]
    wait_port(port + NODES, running[0])
    time.sleep(2)  # until what the nodes have is known to those that send
    at = port if ours else free_port()
    if not ours:
        running.append(router(who, at, port))
        wait_port(at, running[1], 60)
        time.sleep(5)
    r = asyncio.run(play(at, seed))
    for child in running:
        stop(child)
    if not r["ttft"]:
        raise SystemExit(f"bench: {who} answered nothing: {r['failed'][:1]}")
    ttft = sorted(r["ttft"])
    p50, p90, p99 = (ttft[int(q * (len(ttft) - 1))] * 1e3 for q in (.5, .9, .99))
    hit = r["cached"] / r["prompt"] / IDEAL
    say(f"  {who}: TTFT p50 {p50:.1f} ms, p90 {p90:.1f} ms, p99 {p99:.1f} ms; {hit:.3f} of the ideal found in caches; "
        f"{len(r['failed'])} failed{': ' + repr(r['failed'][0][-120:]) if r['failed'] else ''}")
    return p90, hit


if __name__ == "__main__":
    routers = [name for name in ("vllm_router", "smg") if program(name)]
    introduce(f"prefixes: {GROUPS} beginnings x {PROMPTS} prompts, {RATE:g} a second, {NODES} nodes")
    say("# peers:   route_policy round_robin" + "".join(f", {n} {version(program(n), n.replace('_', '-'))}" for n in routers))
    names = ["mdn", *(sys.argv[1:] or ["round_robin", *routers])]
    made = {name: [] for name in names}
    for i in range(rounds(2)):
        for name in names:
            made[name].append(measure(name, i + 1))
    p90, hits = ({name: [m[i] for m in all] for name, all in made.items()} for i in (0, 1))
    for peer in names[1:]:
        figure("prefixes_ttft_p90", "ms", p90["mdn"], peer, p90[peer], ratio_goal=1, at_least=False)
    for peer in names[1:]:
        figure("prefixes_found", "of the ideal", hits["mdn"], peer, hits[peer], goal=">= 0.95", met=min(hits["mdn"]) >= 0.95)
