# SPDX-License-Identifier: Apache-2.0
"""engine_load - from a process' start until its model answers, files in the page cache, against llama-server.

Same libraries, model, slots, context and threads; both warm the model up before they call themselves ready. Ours is the
gateway with an engine in a process of its own, as a node runs it. One after the other, in turns.
"""
import socket
import time

from engine import CONTEXT, SLOTS, THREADS
from lib import BUILD, MODEL, ROOT, figure, free_port, introduce, rounds, say, start, stop

GOAL = 1.1


def commands(port):
    return {
        "mdn": ("/ready", [BUILD / "bench/bench_gateway_node", port, "llama", "bench:latest", MODEL, SLOTS, CONTEXT,
                           THREADS]),
        "llama-server": ("/health", [
            ROOT / ".deps/llama/prefix/bin/llama-server", "--host", "127.0.0.1", "--port", port, "-m", MODEL, "-c",
            SLOTS * CONTEXT, "-np", SLOTS, "-t", THREADS, "-b", 512, "-ub", 512, "-fa", "on", "--kv-unified",
            "--jinja"]),
    }


def is_ready(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.settimeout(5)
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in s.recv(64)
    except OSError:
        return False


def load(who):
    port = free_port()
    path, command = commands(port)[who]
    began = time.monotonic()
    child = start(*command)
    while not is_ready(port, path):
        if child.poll() is not None or time.monotonic() - began > 120:
            raise SystemExit(f"bench: {who} does not become ready")
        time.sleep(0.002)
    took = time.monotonic() - began
    stop(child)
    return took * 1e3


if __name__ == "__main__":
    introduce("engine_load: from start to ready, warm page cache, against llama-server of the same libraries")
    say(f"# model:   {MODEL.name}; {THREADS} threads, {SLOTS} slots of {CONTEXT} tokens")
    took = {"mdn": [], "llama-server": []}
    for who in took:
        load(who)  # the file comes into the page cache
    for turn in range(rounds(9)):
        for who in list(took) if turn % 2 else list(took)[::-1]:
            took[who].append(load(who))
    figure("engine_load", "ms", took["mdn"], "llama-server", took["llama-server"], ratio_goal=GOAL, at_least=False)
