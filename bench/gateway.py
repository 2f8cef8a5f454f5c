# SPDX-License-Identifier: Apache-2.0
"""gateway - an edge that sends requests on to another node, against nginx and HAProxy proxying to the same one.

Behind all three stands bench/upstream.c, a node that costs nothing. Ours parses, checks and understands each request,
decides, keeps its ledger and reads the load in each answer; the proxies copy bytes. One worker each, on a core of its
own; load and upstream share the other cores.

  rate     requests per second of CPU time of the proxy (all its threads), clients as fast as they can. CPU time
           and not wall time, because the machine may be busy with something else; the rate by the clock is printed too.
  latency  150 clients with streams of about a second, 220 KB of prompt each: TTFT less that of the upstream asked
           directly, in the same round.
"""
import json
import random
import subprocess

from lib import OTHERS, SUBJECT, BUILD, cpu_s, figure, folder, free_port, introduce, median, need, output, resting
from lib import rounds, say, seconds, start, stop, wait_port

CLIENTS, STREAMS, TOKENS, INTERVAL_MS = 64, 150, 10, 100
WORDS = "the model sends words near you from an edge node where every token comes in time \\\"quoted\\\" café".split()


def body(size, name):
    """A chat request with turns of about 1 KB."""
    chance, turns, length = random.Random(1), [], 0
    while length < size - 200:
        words = " ".join(chance.choice(WORDS) for _ in range(min(180, (size - 200 - length) // 7 + 1)))
        role = "assistant" if len(turns) % 2 else "user"
        turns.append('{"role":"%s","content":"%s"}' % (role, words))
        length += len(turns[-1]) + 1
    path = folder / name
    path.write_text('{"model":"bench","stream":true,"temperature":0.7,"max_tokens":100,"messages":[%s]}' % ",".join(turns))
    json.loads(path.read_text())
    return path


def mdn(upstream):
    port = free_port()
    return port, start(BUILD / "bench/bench_gateway_node", port, "forward", "bench", f"http://127.0.0.1:{upstream}",
                       core=SUBJECT)


def nginx(upstream):
    port, home = free_port(), folder / f"nginx-{upstream}"
    home.mkdir()
    (home / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_max_body_size 16m; client_body_buffer_size 512k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  upstream node {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""")
    return port, start("nginx", "-p", home, "-c", home / "nginx.conf", core=SUBJECT)


def haproxy(upstream):
    port, conf = free_port(), folder / f"haproxy-{upstream}.cfg"
    conf.write_text(f"""
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option http-no-delay
frontend in
  bind 127.0.0.1:{port}
  default_backend node
backend node
  server node 127.0.0.1:{upstream} pool-max-conn 1024
""")
    return port, start("haproxy", "-db", "-f", conf, core=SUBJECT)


def ask(port, request, clients, duration, strict=True):
    cores = ",".join(map(str, OTHERS))
    out = output("taskset", "-c", cores, str(BUILD / "bench/bench_load"), str(port), "/v1/chat/completions",
                 str(request), str(clients), str(duration))
    result = json.loads(out)
    if (result["errors"] and strict) or not result["requests"]:
        raise SystemExit(f"bench: port {port}: {result}")
    return result


def proxies(upstream):
    made = {"mdn": mdn(upstream), "nginx": nginx(upstream), "haproxy": haproxy(upstream)}
    for port, child in made.values():
        wait_port(port, child)
    return made


def rate(name, request):
    port = free_port()
    upstream = start(BUILD / "bench/bench_upstream", port, core=OTHERS)
    wait_port(port, upstream)
    made = proxies(port)
    per_cpu, by_clock = {n: [] for n in made}, {n: [] for n in made}
    for _ in range(rounds(5)):
        for who, (at, child) in made.items():
            with resting(*(c for n, (_, c) in made.items() if n != who)):
                before = cpu_s(child)
                result = ask(at, request, CLIENTS, seconds(3))
                # CPU time was taken over the whole run, requests are counted without its warm-up.
                share = result["seconds"] / seconds(3)
                per_cpu[who].append(result["requests"] / ((cpu_s(child) - before) * share))
                by_clock[who].append(result["requests"] / result["seconds"])
    for who, values in by_clock.items():
        say(f"  {name}: {who}: {median(values):.0f} requests/s by the clock, "
            f"{1e6 / median(per_cpu[who]):.1f} us of CPU a request")
    for peer in ("nginx", "haproxy"):
        figure(f"gateway_rate_{name}", "requests per CPU second", per_cpu["mdn"], peer, per_cpu[peer],
               ratio_goal=1 if name == "2k" else None)
    for _, child in made.values():
        stop(child)
    stop(upstream)


def latency(request):
    port = free_port()
    upstream = start(BUILD / "bench/bench_upstream", port, TOKENS, INTERVAL_MS, core=OTHERS)
    wait_port(port, upstream)
    made = proxies(port)
    added = {n: {"p50": [], "p99": []} for n in made}
    for _ in range(rounds(5)):
        direct = ask(port, request, STREAMS, max(4, seconds(6)))
        for who, (at, child) in made.items():
            with resting(*(c for n, (_, c) in made.items() if n != who)):
                result = ask(at, request, STREAMS, max(4, seconds(6)))
            for p in ("p50", "p99"):
                added[who][p].append((result["ttft_us"][p] - direct["ttft_us"][p]) / 1e3)
        say(f"  220k: direct TTFT p50 {direct['ttft_us']['p50'] / 1e3:.2f} ms, p99 {direct['ttft_us']['p99'] / 1e3:.2f} ms")
    for p in ("p50", "p99"):
        ours = median(added["mdn"][p])
        for peer in ("nginx", "haproxy"):
            theirs = median(added[peer][p])
            goal = dict(goal="< 5 ms", met=ours < 5) if p == "p99" else {}
            differ(f"gateway_added_ttft_220k_{p}", ours, peer, theirs, **goal)
    for _, child in made.values():
        stop(child)
    stop(upstream)


def differ(name, ours, peer, theirs, goal=None, met=None):
    """Differences may be zero or less, so their ratio is only told where it means something."""
    ratio = f", ratio {ours / theirs:.3f}" if theirs > 0.05 else ""
    end = f", goal {goal}: {'met' if met else 'missed'}" if goal else ""
    say(f"figure {name} = {ours:.3g} ms, peer {peer} = {theirs:.3g}{ratio}{end}")


if __name__ == "__main__":
    need("nginx", "haproxy", "taskset")
    introduce("gateway: requests/s and added latency against nginx and HAProxy")
    nginx_version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.split("/")[-1].strip()
    say(f"# peers:   nginx {nginx_version}, {output('haproxy', '-v').splitlines()[0]}")
    small, large = body(2048, "2k.json"), body(220 * 1024, "220k.json")
    rate("2k", small)
    rate("220k", large)
    latency(large)
