# SPDX-License-Identifier: Apache-2.0
"""idle - the memory of connections that are kept open and say nothing, as SDKs' pools do, plain and with TLS.

Each has been answered once and waits for its next request. What is measured is the resident memory of the process that
they are open to, less that before them; the kernel's own share (socket buffers, the same for every server) is not in it.
nginx, which answers a fixed text itself as we answer our list of models, is asked for the same. The latency of one more client is told with all of them open.
"""
import os
import resource
import socket
import ssl
import subprocess
import time

from lib import BUILD, OTHERS, SUBJECT, figure, folder, free_port, introduce, need, rounds, say, start, stop, wait_port
from streams import rss_kib

CONNECTIONS, GOAL_KIB = int(os.environ.get("CONNECTIONS", 8000)), 8
REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


def certificate():
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def mdn(upstream, files):
    port = free_port()
    env = dict(zip(("TLS_CERTIFICATE", "TLS_KEY"), map(str, files)))
    return port, start(BUILD / "bench/bench_gateway_node", port, "forward", "bench", f"http://127.0.0.1:{upstream}",
                       core=SUBJECT, env=env)


def nginx(_, files):
    port, home = free_port(), folder / f"nginx-{free_port()}"
    home.mkdir()
    tls = f"ssl_certificate {files[0]}; ssl_certificate_key {files[1]}; ssl_session_cache off;" if files else ""
    (home / "nginx.conf").write_text(f"""
daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_timeout 300s;
  client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  server {{
    listen 127.0.0.1:{port} {"ssl" if files else ""} backlog=1024; {tls}
    location / {{ return 200 "models"; }}
  }}
}}
""")
    return port, start("nginx", "-p", home, "-c", home / "nginx.conf", core=SUBJECT)


def client(port, context):
    s = socket.create_connection(("127.0.0.1", port), 60)
    return context.wrap_socket(s, server_hostname="localhost") if context else s


def ask(s):
    s.sendall(REQUEST)
    got = s.recv(65536)
    while b"\r\n\r\n" not in got or got.endswith(b"\r\n\r\n"):
        got += s.recv(65536)
    assert got.startswith(b"HTTP/1.1 "), got[:200]


def measure(who, files):
    port = free_port()
    upstream = start(BUILD / "bench/bench_upstream", port, core=OTHERS)
    wait_port(port, upstream)
    at, child = who(port, files)
    wait_port(at, child)
    time.sleep(1.5)  # it has its map
    context = ssl.create_default_context(cafile=files[0]) if files else None
    clients = [client(at, context) for _ in range(100)]
    for s in clients:
        ask(s)
    before = rss_kib(child)
    for _ in range(CONNECTIONS):
        clients.append(client(at, context))
        ask(clients[-1])
    kib = (rss_kib(child) - before) / CONNECTIONS
    began = time.monotonic()
    for s in clients[-200:]:
        ask(s)
    say(f"  {who.__name__}{' with TLS' if files else ''}: {kib:.2f} KiB each; one more request took "
        f"{(time.monotonic() - began) / 200 * 1e6:.0f} us")
    stop(child)
    stop(upstream)
    for s in clients:
        s.close()
    return kib


if __name__ == "__main__":
    need("nginx", "openssl", "taskset")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    introduce(f"idle: {CONNECTIONS} kept connections that say nothing, KiB of resident memory each")
    for name, files in (("plain", ()), ("tls", certificate())):
        ours, theirs = [], []
        for _ in range(rounds(1)):
            ours.append(measure(mdn, files))
            theirs.append(measure(nginx, files))
        figure(f"idle_{name}", "KiB a connection", ours, "nginx", theirs, goal=f"<= {GOAL_KIB} KiB",
               met=max(ours) <= GOAL_KIB)
