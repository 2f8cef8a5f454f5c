# SPDX-License-Identifier: Apache-2.0
"""rivals - an edge that sends requests on to two nodes, against vllm-router, smg and litellm doing the same.

Behind all stand the same two of bench/upstream.c, nodes that cost nothing. Everybody balances in the cheapest way it
has (round robin; ours decides as it ships), with all logging below errors off, on one core; load and nodes have the others.
tools/setup routers gets the first two; litellm: pip install -r bench/requirements-litellm.txt into a venv, LITELLM=its program.

  rate     requests per second of CPU time of the router (all its processes), 2 KB bodies, clients as fast as they can
  latency  150 clients with streams of about a second, 220 KB of prompt each: the first byte, less that of a node asked
           directly in the same round; and how long a token takes from the node's write to the client's read
  memory   resident at its most, with all of the above behind it
"""
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import gateway
from lib import BUILD, OTHERS, ROOT, SUBJECT, cpu_s, family, folder, free_port, figure, introduce, median, resting, rounds
from lib import say, seconds, start, stop, wait_port

PROGRAMS = {"vllm_router": "VLLM_ROUTER", "smg": "SMG", "litellm": "LITELLM"}


def program(name):
    """As its environment variable says, or where tools/setup routers puts it."""
    there = ROOT / ".deps/routers/bin" / name.replace("_", "-")
    return shutil.which(os.environ.get(PROGRAMS[name], there))


def version(path, package):
    python = Path(path).parent / "python"
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def mdn(at, urls):
    return start(BUILD / "bench/bench_gateway_node", at, "forward", "bench", *urls, core=SUBJECT)


def vllm_router(at, urls):
    return start(program("vllm_router"), "--host", "127.0.0.1", "--port", at, "--policy", "round_robin", "--log-level", "error",
                 "--prometheus-port", free_port(), "--worker-urls", *urls, core=SUBJECT)


def smg(at, urls):
    return start(program("smg"), "launch", "--host", "127.0.0.1", "--port", at, "--policy", "round_robin", "--log-level",
                 "error", "--disable-load-monitoring", "--disable-tokenizer-autoload", "--prometheus-port", free_port(),
                 "--worker-urls", *urls, core=SUBJECT)


def litellm(at, urls):
    models = "".join(f"""
  - model_name: bench
    litellm_params: {{model: hosted_vllm/bench, api_base: '{url}/v1', api_key: none}}""" for url in urls)
    config = folder / f"litellm-{at}.yaml"
    config.write_text(f"model_list:{models}\nlitellm_settings: {{set_verbose: false}}\n")
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1", "LITELLM_LOG": "ERROR",
             "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}  # open, as all are here
    return start(program("litellm"), "--config", config, "--host", "127.0.0.1", "--port", at, "--telemetry", "False",
                 core=SUBJECT, cwd=folder, env=quiet)


def begin(upstreams):
    urls = [f"http://127.0.0.1:{port}" for port in upstreams]
    made = {}
    for name in ("mdn", *PROGRAMS):
        if name == "mdn" or program(name):
            at = free_port()
            made[name] = at, globals()[name](at, urls)
    for name, (at, child) in made.items():
        wait_port(at, child, 180)
    body = gateway.body(2048, "first.json")
    for name, (at, child) in made.items():
        answers(name, at, body)
    return made


def answers(name, at, body):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        got = subprocess.run(["curl", "-sN", "-m", "10", "-H", "content-type: application/json", "-d", f"@{body}",
                              f"http://127.0.0.1:{at}/v1/chat/completions"], capture_output=True, text=True).stdout
        if "[DONE]" in got:
            return
        time.sleep(0.5)
    raise SystemExit(f"bench: {name} does not answer: {got[:500]}")


def upstreams(*args):
    ports = [free_port(), free_port()]
    return ports, [start(BUILD / "bench/bench_upstream", port, *args, core=OTHERS) for port in ports]


def memory_mib(child):
    found = 0
    for pid in family(child.pid):
        kib = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        found += int(kib.group(1)) if kib else 0
    return found / 1024


def patience(who):
    """Who answers a few a second is asked for longer, or nothing would be counted."""
    return 8 if who == "litellm" else 1


def others(made, who):
    return resting(*(child for name, (_, child) in made.items() if name != who))


def rate(body):
    ports, nodes = upstreams()
    for port, node in zip(ports, nodes):
        wait_port(port, node)
    made = begin(ports)
    per_cpu, by_clock = {n: [] for n in made}, {n: [] for n in made}
    for _ in range(rounds(3)):
        for who, (at, child) in made.items():
            duration = seconds(3) * patience(who)
            with others(made, who):
                before = cpu_s(child)
                result = gateway.ask(at, body, gateway.CLIENTS, duration, strict=who == "mdn")
                used = (cpu_s(child) - before) * result["seconds"] / duration  # requests of its warm-up are not counted
            if result["errors"]:
                say(f"  rate: {who}: {result['errors']} requests failed")
            per_cpu[who].append(result["requests"] / used)
            by_clock[who].append(result["requests"] / result["seconds"])
    for who in made:
        say(f"  rate: {who}: {median(by_clock[who]):.0f} requests/s by the clock, {1e6 / median(per_cpu[who]):.1f} us of CPU a request")
    for who in list(made)[1:]:
        figure("rivals_rate_2k", "requests per CPU second", per_cpu["mdn"], who, per_cpu[who], ratio_goal=1)
    for child in [c for _, c in made.values()] + nodes:
        stop(child)


def latency(body):
    ports, nodes = upstreams(gateway.TOKENS, gateway.INTERVAL_MS)
    for port, node in zip(ports, nodes):
        wait_port(port, node)
    made = begin(ports)
    values = {}

    def keep(who, name, value):
        values.setdefault(name, {}).setdefault(who, []).append(value)
    for _ in range(rounds(3)):
        direct = gateway.ask(ports[0], body, gateway.STREAMS, max(4, seconds(6)))
        keep("direct", "delay_p99", direct["delay_us"]["p99"] / 1e3)
        for who, (at, child) in made.items():
            with others(made, who):
                result = gateway.ask(at, body, gateway.STREAMS, max(4, seconds(6)) * patience(who), strict=who == "mdn")
            if result["errors"]:
                say(f"  latency: {who}: {result['errors']} requests failed")
            for p in ("p50", "p99"):
                keep(who, f"added_ttft_{p}", (result["ttft_us"][p] - direct["ttft_us"][p]) / 1e3)
                keep(who, f"delay_{p}", result["delay_us"][p] / 1e3)
            keep(who, "streams_s", result["requests"] / result["seconds"])
    for who, (_, child) in made.items():
        keep(who, "memory", memory_mib(child))
    say(f"  direct: a token takes p99 {median(values['delay_p99']['direct']):.2f} ms")
    for who in made:
        say(f"  latency: {who}: {median(values['streams_s'][who]):.0f} streams/s of {gateway.STREAMS} clients")
    for name, unit in (("added_ttft_p50", "ms"), ("added_ttft_p99", "ms"), ("delay_p50", "ms"), ("delay_p99", "ms"), ("memory", "MiB")):
        for who in list(made)[1:]:
            ours, theirs = median(values[name]["mdn"]), median(values[name][who])
            say(f"figure rivals_{name} = {ours:.3g} {unit}, peer {who} = {theirs:.3g}, goal < peer: {'met' if ours < theirs else 'missed'}")
    for child in [c for _, c in made.values()] + nodes:
        stop(child)


if __name__ == "__main__":
    found = {name: program(name) for name in PROGRAMS if program(name)}
    if not found:
        raise SystemExit("bench: none of vllm-router, smg and litellm is here; run: tools/setup routers, or set VLLM_ROUTER, SMG or LITELLM")
    introduce("rivals: requests/s, added latency and memory against other routers, two nodes behind each")
    say("# peers:   " + ", ".join(f"{name} {version(path, name.replace('_', '-'))}" for name, path in found.items()))
    rate(gateway.body(2048, "2k.json"))
    latency(gateway.body(220 * 1024, "220k.json"))
