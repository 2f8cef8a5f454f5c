# SPDX-License-Identifier: Apache-2.0
"""engine - tokens/s and time to first token of our gateway with its llama engine, against llama-server.

Both use the same libraries (.deps/llama), model, threads, slots and context, both speak HTTP and stream. The prompts
are the same for both and different for each request, so that no prefix cache helps; llama-server's is off. Greedy,
and neither may stop early. While one is asked the other rests. The tolerance says what counts as "not slower": two
runs of the same server on a quiet machine differ by so much.
"""
import json
import os
import socket
import threading
import time

from lib import BUILD, CORES, MODEL, ROOT, cpu_s, figure, free_port, introduce, median, resting, rounds, say
from lib import start, stop, wait_port

THREADS = int(os.environ.get("THREADS", len(CORES)))
SLOTS, CONTEXT, TOKENS, TOLERANCE = 32, 1024, 64, 0.05
TOPICS = ("rain", "copper", "bridges", "salt", "owls", "clocks", "glass", "rivers", "bread", "tides", "maps", "wool")


def prompt(number):
    """About 200 tokens, unlike any other from its first word on."""
    topic = TOPICS[number % len(TOPICS)]
    facts = " ".join(f"Note {number * 37 + i}: {TOPICS[(number + i) % len(TOPICS)]} and {topic} were seen together "
                     f"{i + 3} times on day {number + i}." for i in range(7))
    return f"{number} notes about {topic}. {facts} What follows from these notes?"


class Answer:
    patience = 120

    def __init__(self, port, number):
        self.port, self.number, self.tokens, self.error = port, number, 0, None

    def ask(self):
        try:
            self.stream()
        except OSError as error:
            self.error = f"no whole answer: {error}"

    def question(self):
        return {"messages": [{"role": "user", "content": prompt(self.number)}], "max_tokens": TOKENS,
                "cache_prompt": False}

    def stream(self):
        body = json.dumps({"model": "bench", "temperature": 0, "stream": True, "logit_bias": {"2": -100},
                           "stream_options": {"include_usage": True}, **self.question()}).encode()
        head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode()
        with socket.create_connection(("127.0.0.1", self.port), 5) as s:
            s.settimeout(self.patience)
            self.began = time.monotonic()
            s.sendall(head + body)
            seen, self.first = b"", None
            while data := s.recv(65536):
                seen += data
                self.seen = seen
                if self.first is None and (b'"content":"' in seen.replace(b'"content":""', b"")):
                    self.first = time.monotonic()
            self.ended = time.monotonic()
        usage = seen.rfind(b'"completion_tokens":')
        if b" 200 " not in seen[:20] or usage < 0 or self.first is None:
            self.error = seen[-600:].decode(errors="replace")
        else:
            self.tokens = int(seen[usage + 20:].split(b",", 1)[0].split(b"}", 1)[0])
            self.prompt_tokens = int(seen[seen.rfind(b'"prompt_tokens":') + 16:].split(b",", 1)[0].split(b"}", 1)[0])


def ask_all(port, numbers):
    """Tokens per second of all together, and the median TTFT in ms."""
    answers = [Answer(port, n) for n in numbers]
    threads = [threading.Thread(target=a.ask) for a in answers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a in answers:
        if a.error or not a.tokens:
            raise SystemExit(f"bench: port {port}: {a.error or 'no answer'}")
    took = max(a.ended for a in answers) - min(a.began for a in answers)
    return sum(a.tokens for a in answers) / took, median([(a.first - a.began) * 1e3 for a in answers]), answers


def servers(context=CONTEXT, cache=("--no-cache-prompt", "--cache-ram", 0, "-ctxcp", 0)):
    ours, theirs, threads = free_port(), free_port(), THREADS
    made = {
        "mdn": (ours, start(BUILD / "bench/bench_gateway_node", ours, "llama", "bench:latest", MODEL, SLOTS, context,
                            threads)),
        "llama-server": (theirs, start(
            ROOT / ".deps/llama/prefix/bin/llama-server", "--host", "127.0.0.1", "--port", theirs, "-m", MODEL,
            "-c", SLOTS * context, "-np", SLOTS, "-t", threads, "-b", 512, "-ub", 512, "-fa", "on", "--kv-unified",
            "--jinja", *cache)),
    }
    for port, child in made.values():
        wait_port(port, child)
    for name, (port, child) in made.items():
        for attempt in range(100):  # the port is open before the model is loaded
            a = Answer(port, attempt)
            a.ask()
            if not a.error:
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"bench: {name} does not answer: {a.error}")
    return made


def compare(made, streams):
    rate, ttft, cpu = ({n: [] for n in made} for _ in range(3))
    for turn in range(rounds(7 if streams < 32 else 3)):
        numbers = [1000 * streams + turn * streams + i for i in range(streams)]
        order = list(made) if turn % 2 else list(made)[::-1]
        for who in order:
            with resting(*(c for n, (_, c) in made.items() if n != who)):
                before = cpu_s(made[who][1])
                tokens, first, answers = ask_all(made[who][0], numbers)
                cpu[who].append((cpu_s(made[who][1]) - before) / sum(a.tokens for a in answers) * 1e3)
            rate[who].append(tokens)
            ttft[who].append(first)
        if turn == 0:
            say(f"  {streams} streams: {answers[0].prompt_tokens} prompt tokens, {answers[0].tokens} of answer each")
    for who in made:
        say(f"  {streams} streams: {who}: {median(cpu[who]):.1f} ms of CPU for each token of answer, prompt included")
    figure(f"engine_tokens_{streams}", "tokens/s", rate["mdn"], "llama-server", rate["llama-server"],
           ratio_goal=1 - TOLERANCE)
    figure(f"engine_ttft_{streams}", "ms", ttft["mdn"], "llama-server", ttft["llama-server"],
           ratio_goal=1 + TOLERANCE, at_least=False)


if __name__ == "__main__":
    introduce("engine: tokens/s and TTFT against llama-server of the same libraries")
    say(f"# model:   {MODEL.name}; {THREADS} threads, {SLOTS} slots of {CONTEXT} tokens; tolerance {TOLERANCE:.0%}")
    made = servers()
    for streams in (1, 8, 32):
        compare(made, streams)
    for port, child in made.values():
        stop(child)
