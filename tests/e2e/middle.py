# SPDX-License-Identifier: Apache-2.0
"""A server in front of another that counts what is asked for, can be slow, can forget ranges and can be gone."""
import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = 65536


class Middle:
    def __init__(self, target):
        self.target = target  # "host:port"
        self.requests = []  # (method, path, {header: value})
        self.body_bytes = 0
        self.bytes_per_s = 0  # of one answer; 0: no limit
        self.ranges = True
        self.away = False
        self.spoil = None  # a part of paths whose bodies end in another byte than there
        self.referrers_by_tag = False  # as a registry without the referrers API
        self.token = None  # when set: what it wants as Authorization, told by a challenge
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                outer.handle(self)

            do_GET = do_HEAD = do

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = "127.0.0.1:%d" % self.server.server_address[1]
        self.url = "http://" + self.host
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def paths(self, part):
        return [path for method, path, _ in self.requests if method == "GET" and part in path]

    def reset(self):
        self.requests, self.body_bytes = [], 0

    def _answer(self, h, status, headers, body=b""):
        h.send_response(status)
        for key, value in headers.items():
            h.send_header(key, value)
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def _challenged(self, h):
        if h.path.startswith("/token?"):
            self._answer(h, 200, {}, b'{"token": "%s", "expires_in": 60}' % self.token.encode())
        elif h.headers.get("Authorization") != "Bearer " + self.token:
            self._answer(h, 401, {"WWW-Authenticate": f'Bearer realm="{self.url}/token",service="middle",scope="x"'})
        else:
            return False
        return True

    def handle(self, h):
        self.requests.append((h.command, h.path, dict(h.headers)))
        if self.away:
            h.close_connection = True
            return
        if self.token and self._challenged(h):
            return
        path = h.path
        if self.referrers_by_tag and "/referrers/" in path:
            self._answer(h, 404, {}, b'{"errors":[]}')
            return
        if self.referrers_by_tag:
            path = path.replace("/manifests/sha256-", "/referrers/sha256:")
        c = http.client.HTTPConnection(self.target, timeout=30)
        drop = {"host", "connection", "authorization"} | (set() if self.ranges else {"range"})
        c.request(h.command, path, headers={k: v for k, v in h.headers.items() if k.lower() not in drop})
        r = c.getresponse()
        h.send_response_only(r.status)
        for key, value in r.getheaders():
            if key.lower() not in ("connection", "transfer-encoding"):
                h.send_header(key, value.replace(self.target, self.host))
        h.end_headers()
        spoiled = self.spoil and self.spoil in h.path
        while piece := r.read(PIECE):
            if spoiled and not r.length:
                piece = piece[:-1] + bytes([piece[-1] ^ 1])
            if self.away:
                h.close_connection = True
                break
            try:
                h.wfile.write(piece)
            except OSError:
                break
            self.body_bytes += len(piece)
            if self.bytes_per_s:
                time.sleep(len(piece) / self.bytes_per_s)
        c.close()
