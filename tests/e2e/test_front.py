# SPDX-License-Identifier: Apache-2.0
"""The HTTP front against clients of the worst kind: requests that proxies understand otherwise than we do, clients that
are slow in every way there is, TLS as openssl speaks it, and a server that goes."""
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from network import MDN, ROOT, eventually, free_port

sys.path.insert(0, str(ROOT / "tests/front"))
import front  # noqa: E402

CASES = front.cases(ROOT / "tests/front/corpus")
GET = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="session")
def program():
    subprocess.run(["ninja", "-C", MDN.parent, "--quiet", "tests/front/server"], check=True)
    return MDN.parent / "tests/front/server"


@pytest.fixture
def serve(program):
    """serve(option...) is a running server.c."""
    with contextlib.ExitStack() as running:
        def start(*options):
            server = front.Server(program, *options)
            running.callback(server.stop)
            return server
        yield start


def connect(server, receive=None):
    s = socket.socket()
    if receive:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    s.settimeout(60)
    s.connect(("127.0.0.1", server.port))
    return s


def peek(s, size):
    """What has come, b"" if nothing has."""
    if select.select([s], [], [], 0)[0]:
        with contextlib.suppress(ConnectionError):
            return s.recv(size)
    return b""


def is_answered(server):
    return front.answers_of(front.talk(server.port, front.LAST)) == ["/last:0"]


def rss_kib(server):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[1])


# ---- one request is never two ----------------------------------------------------------------------


def test_doubtful_requests_have_their_verdicts(serve):
    server = serve("stall=500")
    assert [words for case in CASES if (words := front.judge_raw(server.port, case))] == []
    assert len(CASES) >= 200


def nginx(folder, port, back):
    """As careless as it can be made."""
    (folder / "nginx.conf").write_text(f"""
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  ignore_invalid_headers off; underscores_in_headers on; merge_slashes off; large_client_header_buffers 8 64k;
  client_max_body_size 16m;
  upstream back {{ server 127.0.0.1:{back}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Front yes;
      proxy_request_buffering off; proxy_set_header Host $http_host; proxy_next_upstream off;
    }}
  }}
}}
""")
    return ["nginx", "-p", folder, "-c", folder / "nginx.conf"]


def haproxy(folder, port, back):
    (folder / "haproxy.cfg").write_text(f"""
global
  tune.bufsize 65536
defaults
  mode http
  timeout connect 5s
  timeout client 1s
  timeout http-request 1s
  timeout server 10s
  http-reuse always
  retries 0
frontend in
  bind 127.0.0.1:{port}
  option accept-invalid-http-request
  http-request set-header X-Front yes
  default_backend back
backend back
  option accept-invalid-http-response
  server back 127.0.0.1:{back} pool-max-conn 4
""")
    return ["haproxy", "-db", "-f", folder / "haproxy.cfg"]


def accepts(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def attack(port, case):
    """Sends it, and is then others, over connections of the proxy's to us that are used again. None, or what is wrong."""
    front.talk(port, case.data + front.LAST)
    for turn in range(2):
        victim = f"/victim-{case.name}-{turn}"
        answer = front.talk(port, front.LAST.replace(b"/last", victim.encode()))
        if f"GET {victim} 0 yes" not in answer.decode("latin-1"):
            return f"{case.name}: {victim} was answered {answer[-100:]}"


@pytest.mark.parametrize("proxy", [nginx, haproxy], ids=lambda p: p.__name__)
def test_nothing_is_smuggled_past_a_careless_proxy(proxy, serve, folder):
    """Each request that we see is one that the proxy sent and marked, and the next client gets its own answer."""
    if not shutil.which(proxy.__name__):
        pytest.skip(f"{proxy.__name__} is not installed: tools/setup bench")
    server, port = serve("stall=500"), free_port()
    log = open(folder / "log", "wb")
    process = subprocess.Popen([str(word) for word in proxy(folder, port, server.port)], stdout=log, stderr=log)
    try:
        eventually(lambda: accepts(port), what=f"{proxy.__name__} listens")
        with ThreadPoolExecutor(8) as clients:
            wrong = [words for words in clients.map(lambda case: attack(port, case), CASES) if words]
    finally:
        process.terminate()
        process.wait(20)
        log.close()
    seen = server.stop()
    wrong += [f"seen without the proxy's mark: {line}" for line in seen if not line.endswith(" yes")]
    assert wrong == []
    assert len(seen) > 2 * len(CASES)  # some cases are good requests, and went through


# ---- slow clients ----------------------------------------------------------------------------------


def test_heads_that_never_end_are_answered_408_and_others_do_not_wait(serve):
    server = serve("head=1500")
    slow = [connect(server) for _ in range(150)]
    for s in slow:
        s.sendall(b"GET / HTTP/1.1\r\n")
    answers = {}
    while len(answers) < len(slow):
        for s in slow:
            if s in answers:
                continue
            with contextlib.suppress(OSError):
                s.sendall(b"X: y\r\n")
            if got := peek(s, 12):
                answers[s] = got
        assert is_answered(server)
        time.sleep(0.05)
    assert set(answers.values()) == {b"HTTP/1.1 408"}


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(serve):
    server = serve("stall=1000")
    with connect(server) as s:
        s.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        sent, answer = 0, b""
        while not answer and sent < 3000:  # far from still, and far from ready
            with contextlib.suppress(ConnectionError):
                s.sendall(b"a")
            sent += 1
            time.sleep(0.02)
            answer = peek(s, 4096)
    assert answer.startswith(b"HTTP/1.1 408"), (sent, answer)


def test_unfinished_heads_are_bounded_together(serve):
    server = serve("head=60000", "ahead=1000000")
    before, waiting = rss_kib(server), []
    for _ in range(100):
        s = connect(server)
        s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: %s\r\n" % (b"y" * 1000) * 30)
        waiting.append(s)
    assert is_answered(server)  # whoever asks for little is answered still
    refused = sum(peek(s, 12) == b"HTTP/1.1 503" for s in waiting)
    assert 50 < refused < 95, f"{refused} of 100 were refused"
    if "ASAN_OPTIONS" not in os.environ:
        assert rss_kib(server) - before < 20000
    for s in waiting:
        s.close()
    large = b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: " + b"y" * 30000 + b"\r\n\r\n"
    eventually(lambda: front.answers_of(front.talk(server.port, large)) == ["/big:0"], what="what they held is given back")


def test_readers_of_single_bytes_get_their_stream_in_order(serve):
    server = serve()
    event = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
    readers = [connect(server, receive=1) for _ in range(20)]
    got = [b""] * len(readers)
    for s in readers:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 1)
        s.sendall(GET % b"stream")
    for _ in range(600):
        for number, s in enumerate(readers):
            got[number] += s.recv(1)
    assert is_answered(server)
    for text in got:
        body = re.sub(rb"(?:^|\r\n)[0-9a-f]+\r\n", b"", text.partition(b"\r\n\r\n")[2])
        assert (event * 10).startswith(body[:300]) and len(body) > 300
    for s in readers:
        s.close()


def test_readers_that_take_nothing_are_cut_and_cost_a_bounded_sum(serve):
    server, count = serve("idle=1500"), 40
    before, stuck = rss_kib(server), [connect(server, receive=1) for _ in range(40)]
    for s in stuck:
        s.sendall(GET % b"flood")
    most = 0
    lines = []
    watch = threading.Thread(target=lambda: lines.extend(server.line() for _ in range(count)))
    watch.start()
    while watch.is_alive():
        most = max(most, rss_kib(server) - before)
        watch.join(0.05)
    assert lines == ["gone"] * count
    assert most < count * 1024, f"{most / count:.0f} KiB each"
    for s in stuck:
        s.close()
    assert is_answered(server)


def test_readers_that_leave_most_are_cut_when_all_leave_too_much(serve):
    server = serve("unread=4000000")
    with connect(server, receive=1) as small:
        small.sendall(GET % b"stream")
        assert small.recv(100)
        stuck = [connect(server, receive=1) for _ in range(40)]
        for s in stuck:
            s.sendall(GET % b"flood")
        # Each leaves a quarter of a megabyte and more: some have to go, nobody else.
        assert [server.line() for _ in range(25)] == ["gone"] * 25
        assert is_answered(server)
        assert small.recv(100) and small.recv(100)
        for s in stuck:
            s.close()


def test_a_reader_of_a_byte_now_and_then_is_cut(serve):
    server = serve("idle=2000")  # 200 bytes until then
    with connect(server, receive=1) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 1)
        s.sendall(GET % b"flood")
        gone = threading.Event()
        watch = threading.Thread(target=lambda: server.line() == "gone" and gone.set())
        watch.start()
        for _ in range(3000):
            if gone.wait(0.02):
                break
            with contextlib.suppress(ConnectionError):
                s.recv(1)
        assert gone.is_set()
        watch.join()


def test_connections_that_say_nothing_end_without_a_word(serve):
    server = serve("idle=500", "head=500")
    with connect(server) as never, connect(server) as once:
        once.sendall(GET % b"once")
        assert b"GET /once 0 -" in once.recv(4096)
        assert once.recv(1) == b"" and never.recv(1) == b""


# ---- TLS -------------------------------------------------------------------------------------------


def certificate(folder, name):
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls(serve, folder):
    """(server, certificate, key): both files may be written again."""
    cert, key = certificate(folder, "first")
    return serve(f"cert={cert}", f"key={key}"), cert, key


def wrap(server, cert, **options):
    context = ssl.create_default_context(cafile=cert)
    for name, value in options.items():
        setattr(context, name, value)
    return context.wrap_socket(connect(server), server_hostname="localhost")


def s_client(server, *options):
    """Asks once and reads the answer, so that tickets have come."""
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *map(str, options)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(front.LAST)
            process.stdin.flush()
        out = process.stdout.read()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    return out.decode("latin-1")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_second_handshake_resumes_the_first(tls, folder, version):
    server, session = tls[0], folder / "session"
    first = s_client(server, version, "-alpn", "http/1.1", "-ign_eof", "-sess_out", session)
    assert "\nNew, TLSv1." in first and "ALPN protocol: http/1.1" in first and "GET /last 0 -" in first
    second = s_client(server, version, "-ign_eof", "-sess_in", session)
    assert "\nReused, TLSv1." in second and "GET /last 0 -" in second


def test_old_versions_and_other_protocols_are_refused(tls):
    for old in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in s_client(tls[0], old, "-cipher", "ALL:@SECLEVEL=0")
    assert "no application protocol" in s_client(tls[0], "-alpn", "h2")
    assert "GET /last 0 -" in s_client(tls[0], "-alpn", "h2,http/1.1", "-ign_eof")
    assert is_refused_plain(tls[0])


def is_refused_plain(server):
    """Plain HTTP on a TLS port: an alert or an end, no answer."""
    return not front.talk(server.port, front.LAST).startswith(b"HTTP/")


def test_a_new_certificate_is_for_new_connections_and_cuts_none(tls, folder):
    server, cert, key = tls
    old_cert = Path(shutil.copy(cert, folder / "old.pem"))
    with wrap(server, old_cert) as lives:
        lives.sendall(GET % b"before")
        assert b"GET /before" in lives.recv(4096) and server.line() == "GET /before 0 -"
        for path, fresh in zip((cert, key), certificate(folder, "second")):
            path.write_bytes(fresh.read_bytes())
        server.process.send_signal(signal.SIGHUP)
        assert server.line() == "reloaded: yes"
        lives.sendall(GET % b"after")
        assert b"GET /after" in lives.recv(4096) and server.line() == "GET /after 0 -"
        with wrap(server, cert) as fresh:
            assert dict(part[0] for part in fresh.getpeercert()["subject"])["commonName"] == "second"
        with pytest.raises(ssl.SSLCertVerificationError):
            wrap(server, old_cert)
        # What does not fit together is told, and changes nothing.
        key.write_bytes(certificate(folder, "third")[1].read_bytes())
        server.process.send_signal(signal.SIGHUP)
        assert "the private key is not that of the certificate" in server.line()
        lives.sendall(GET % b"still")
        assert b"GET /still" in lives.recv(4096)
        with wrap(server, cert):
            pass


def test_a_key_of_another_certificate_is_told_at_the_start(program, folder):
    (cert, _), (_, key) = certificate(folder, "one"), certificate(folder, "other")
    done = subprocess.run([program, f"cert={cert}", f"key={key}"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1 and "the private key is not that of the certificate" in done.stderr


# ---- going -----------------------------------------------------------------------------------------


def test_who_goes_resets_new_clients_at_once_and_answers_old_ones(serve):
    server = serve()
    with connect(server) as old:
        old.sendall(GET % b"one")
        assert b"GET /one 0 -" in old.recv(4096)
        with connect(server) as streams:
            streams.sendall(GET % b"stream")
            assert streams.recv(4096)
            server.process.send_signal(signal.SIGUSR1)
            while server.line() != "refusing":
                pass
            with pytest.raises(ConnectionRefusedError):
                connect(server)
            old.sendall(GET % b"two")
            answer = old.recv(4096)
            assert b"GET /two 0 -" in answer and b"Connection: close\r\n" in answer
            assert old.recv(1) == b""
            assert all(streams.recv(4096) for _ in range(5))
