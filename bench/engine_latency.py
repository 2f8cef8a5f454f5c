# SPDX-License-Identifier: Apache-2.0
"""engine_latency - what running answers and new ones feel of each other, our gateway and engine against llama-server.

  itl       8 answers stream while a 4,000-token prompt comes: time between two tokens of an answer
  ttft      8 answers stream while 1,000-token prompts come at random times, two thirds of what the machine could take
  tenants   one tenant floods, another asks now and then; then both flood, with unlike requests. Only ours

bench/run engine_latency [PART...]. Same libraries, model, threads, slots and context for both; while one is asked the other
rests. All prompts differ from their first word on, so no prefix cache helps; llama-server's is off. Greedy, and no
answer may stop early.
"""
import hashlib
import json
import os
import random
import socket
import sys
import threading
import time

from lib import BUILD, CORES, MODEL, ROOT, figure, free_port, introduce, median, resting, rounds, say, seconds, start, stop
from lib import wait_port

THREADS = int(os.environ.get("THREADS", len(CORES)))
SLOTS, CONTEXT, STREAMS = 12, 5120, 8
WORDS = ("rain", "copper", "bridges", "salt", "owls", "clocks", "glass", "rivers", "bread", "tides", "maps", "wool")


def key_of(tenant):
    """An API key in our form: its id is the tenant."""
    body = "mdn-" + hashlib.sha256(tenant.encode()).hexdigest()[:12] + hashlib.sha256(b"secret " + tenant.encode()).hexdigest()[:48]
    return body + hashlib.sha256(body.encode()).hexdigest()[:8]


numbers = iter(range(10 ** 9))


def prompt(tokens):
    """About so many tokens, unlike any other from its first word on."""
    number = next(numbers)
    rng = random.Random(number)
    return f"{number} notes: " + " ".join(rng.choice(WORDS) for _ in range(int(tokens * 0.77)))


class Ask(threading.Thread):
    """One streamed answer; times of its pieces."""

    def __init__(self, port, tokens, answer, tenant=None):
        super().__init__(daemon=True)
        self.port, self.answer, self.tenant, self.text = port, answer, tenant, prompt(tokens)
        self.times, self.error, self.prompt_tokens, self.quit = [], None, 0, False
        self.begun_streaming = threading.Event()

    def run(self):
        try:
            self.stream()
        except OSError as error:
            self.error = self.error or f"no whole answer: {error}"
        self.begun_streaming.set()

    def stream(self):
        body = json.dumps({"model": "bench", "prompt": self.text, "max_tokens": self.answer, "temperature": 0,
                           "stream": True, "cache_prompt": False, "logit_bias": {"0": -100, "2": -100},
                           "stream_options": {"include_usage": True}}).encode()
        key = f"Authorization: Bearer {key_of(self.tenant)}\r\n" if self.tenant else ""
        head = (f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{key}"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode()
        self.asked = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), 10) as self.socket:
            self.socket.settimeout(180)
            self.socket.sendall(head + body)
            seen, all_seen = b"", b""
            while data := self.socket.recv(65536):
                now = time.monotonic()
                seen += data
                *events, seen = seen.split(b"\n\n")
                for event in events:
                    all_seen = (all_seen + event)[-2000:]
                    if b'"text":"' in event and b'"text":""' not in event:
                        self.times.append(now)
                        self.begun_streaming.set()
                    at = event.rfind(b'"prompt_tokens":')
                    if at >= 0:
                        self.prompt_tokens = int(event[at + 16:].split(b",", 1)[0].split(b"}", 1)[0])
            if not self.times and not self.quit:
                self.error = (all_seen + seen).decode(errors="replace")[-600:]

    def leave(self):
        self.quit = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.join()

    def ttft(self):
        return self.times[0] - self.asked


def check(asks):
    for a in asks:
        if a.error or not a.times:
            raise SystemExit(f"bench: port {a.port}: {a.error or 'no answer'}")


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def running(port, answer):
    streams = [Ask(port, 60, answer) for _ in range(STREAMS)]
    for s in streams:
        s.start()
    for s in streams:
        s.begun_streaming.wait(120)
    check(streams)
    return streams


def still_running(streams):
    if any(not s.is_alive() for s in streams):
        raise SystemExit("bench: an answer ended before the measurement did: raise its length")


def itl_round(port):
    """p50 and p99 in ms of the gaps between tokens while a long prompt is computed; and seconds it took."""
    streams = running(port, 3000)
    begun = time.monotonic()
    a = Ask(port, 4000, 1)
    a.run()
    check([a])
    ended = time.monotonic()
    still_running(streams)
    for s in streams:
        s.leave()
    gaps = []
    for s in streams:
        inside = [t for t in list(s.times) if begun <= t <= ended]
        edges = [begun, *inside, ended] if not inside else inside
        gaps += [(b - a) * 1e3 for a, b in zip(edges, edges[1:])]
    return percentile(gaps, 0.5), percentile(gaps, 0.99), ended - begun, a.prompt_tokens


def ttft_round(port, pauses):
    streams = running(port, 3000)
    asks = []
    for pause in pauses:
        a = Ask(port, 1000, 8)
        a.start()
        asks.append(a)
        time.sleep(pause)
    for a in asks:
        a.join()
    check(asks)
    still_running(streams)
    for s in streams:
        s.leave()
    times = [a.ttft() * 1e3 for a in asks]
    return percentile(times, 0.5), percentile(times, 0.99)


def alone_s(port, tokens):
    """Seconds a prompt takes with nothing beside it."""
    a = Ask(port, tokens, 1)
    a.run()
    check([a])
    return a.ttft()


def take_turns(made, turn, measure):
    order = list(made) if turn % 2 else list(made)[::-1]
    found = {}
    for who in order:
        with resting(*(c for n, (_, c) in made.items() if n != who)):
            found[who] = measure(made[who][0])
            time.sleep(0.3)  # those who left are gone
    return found


def part_itl(made):
    found = [take_turns(made, turn, itl_round) for turn in range(rounds(3))]
    say(f"  {found[0]['mdn'][3]} tokens the long prompt; it took "
        + ", ".join(f"{who} {median([f[who][2] for f in found]):.1f} s" for who in made))
    for i, name, goal in ((0, "p50", None), (1, "p99", 0.5)):
        figure(f"engine_itl_{name}_long_prompts", "ms", [f["mdn"][i] for f in found], "llama-server",
               [f["llama-server"][i] for f in found], ratio_goal=goal, at_least=False)


def part_ttft(made):
    with resting(*(c for n, (_, c) in made.items() if n != "llama-server")):
        spacing = alone_s(made["llama-server"][0], 1000) * 1.5
    found = []
    for turn in range(rounds(3)):
        rng = random.Random(turn)
        pauses = [min(rng.expovariate(1 / spacing), 3 * spacing) for _ in range(8)]
        found.append(take_turns(made, turn, lambda port: ttft_round(port, pauses)))
    for i, name, goal in ((0, "p50", None), (1, "p99", 0.8)):
        figure(f"engine_ttft_{name}_beside_streams", "ms", [f["mdn"][i] for f in found], "llama-server",
               [f["llama-server"][i] for f in found], ratio_goal=goal, at_least=False)


class Flood:
    """A tenant with so many requests open all the time; what it was served, as the engine charges it, and when."""

    def __init__(self, port, tenant, width, tokens, answer):
        self.port, self.tenant, self.tokens, self.answer = port, tenant, tokens, answer
        self.open, self.ended, self.asks = True, threading.Event(), []
        self.workers = [threading.Thread(target=self.work, daemon=True) for _ in range(width)]
        for w in self.workers:
            w.start()

    def work(self):
        while self.open:
            a = Ask(self.port, self.tokens, self.answer, self.tenant)
            self.asks.append(a)
            a.run()

    def served(self, begin, end):
        service = 0
        for a in list(self.asks):
            times = list(a.times)
            service += a.prompt_tokens * (bool(times) and begin <= times[0] < end)
            service += 2 * sum(begin <= t < end for t in times)
        return service

    def stop(self):
        self.open = False
        for w in self.workers:
            w.join()


def quiet_times(port, count):
    times = []
    for _ in range(count):
        a = Ask(port, 500, 8, "quiet")
        a.run()
        check([a])
        times.append(a.ttft() * 1e3)
        time.sleep(0.2)
    return times


def part_tenants(made):
    port, other = made["mdn"][0], made["llama-server"][1]
    with resting(other):
        alone, beside = [], []
        for _ in range(rounds(3)):
            alone.append(median(quiet_times(port, 3)))
            flood = Flood(port, "flood", 2 * SLOTS, 150, 48)
            time.sleep(2)
            beside.append(median(quiet_times(port, 6)))
            flood.stop()
        figure("engine_quiet_tenant_ttft", "ms", beside, "alone", alone, ratio_goal=1.3, at_least=False)
        floods = [Flood(port, "long prompts", 2 * SLOTS, 400, 8), Flood(port, "long answers", 2 * SLOTS, 40, 100)]
        time.sleep(3)
        begin = time.monotonic()
        time.sleep(seconds(30))
        end = time.monotonic()
        for f in floods:
            f.open = False
        for f in floods:
            f.stop()
        x = [f.served(begin, end) for f in floods]
        jain = sum(x) ** 2 / (len(x) * sum(v * v for v in x))
        say(f"  two tenants flood for {end - begin:.0f} s: {x[0]} and {x[1]} tokens of service (input + 2 x output)")
        figure("engine_jain_two_tenants", "", [jain], goal=">= 0.99", met=jain >= 0.99)


def servers():
    ours, theirs = free_port(), free_port()
    keys = [key_of(t) for t in ("quiet", "flood", "long prompts", "long answers")]
    return {
        "mdn": (ours, start(BUILD / "bench/bench_gateway_node", ours, "llama", "bench:latest", MODEL, SLOTS, CONTEXT,
                            THREADS, *keys)),
        "llama-server": (theirs, start(
            ROOT / ".deps/llama/prefix/bin/llama-server", "--host", "127.0.0.1", "--port", theirs, "-m", MODEL,
            "-c", SLOTS * CONTEXT, "-np", SLOTS, "-t", THREADS, "-b", 512, "-ub", 512, "-fa", "on", "--kv-unified",
            "--no-cache-prompt", "--cache-ram", 0, "-ctxcp", 0)),
    }


PARTS = {"itl": part_itl, "ttft": part_ttft, "tenants": part_tenants}

if __name__ == "__main__":
    introduce("engine_latency: what running answers and new ones feel of each other")
    say(f"# model:   {MODEL.name}; {THREADS} threads, {SLOTS} slots of {CONTEXT} tokens, batches of 512")
    unknown = [p for p in sys.argv[1:] if p not in PARTS]
    if unknown:
        raise SystemExit(f"bench: no part is called {unknown[0]}; there are: {', '.join(PARTS)}")
    made = servers()
    for port, child in made.values():
        wait_port(port, child)
    for name, (port, child) in made.items():
        for _ in range(100):  # the port is open before the model is loaded
            a = Ask(port, 20, 2)
            a.run()
            if a.times:
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"bench: {name} does not answer: {a.error}")
    for part in sys.argv[1:] or PARTS:
        PARTS[part](made)
    for port, child in made.values():
        stop(child)
