# SPDX-License-Identifier: Apache-2.0
"""A node that lies: hostile.py FOLDER LISTEN MODE, its first report as JSON on standard input.

It has a real node's identity (FOLDER/identity) and place, goes on reporting to center and scheduler that all is well and
that it has everything, and answers what other nodes ask for with (MODE)

  wrong   other bytes, as many as asked for          short   half of them, then the connection ends
  stall   the head, and then nothing for ever        noise   what is not HTTP at all
  mixed   each of these in turn

Prints "asked" for each request for bytes, so that the test knows that it was believed once.
"""
import http.server
import itertools
import json
import os
import ssl
import sys
import threading
import time

import httpx

folder, listen, mode = sys.argv[1:4]
identity = f"{folder}/identity/"
modes = itertools.cycle(("wrong", "short", "stall", "noise") if mode == "mixed" else (mode,))
lock = threading.Lock()


def context(make):
    made = make(cafile=identity + "ca.pem")
    made.check_hostname = False
    made.load_cert_chain(identity + "cert.pem", identity + "key.pem")
    return made


def report(document):
    with httpx.Client(verify=context(ssl.create_default_context), timeout=3) as client:
        for seq in itertools.count(document["report"]["seq"] + 1000):
            document["report"] |= {"seq": seq, "wall_us": time.time_ns() // 1000}
            for url in document["to"]:
                try:
                    answer = client.post(url, json=document["report"])
                    if answer.status_code != 204:
                        print("report:", answer.status_code, answer.text, flush=True)
                except httpx.HTTPError as error:
                    print("report:", repr(error), flush=True)
            time.sleep(0.5)


class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path.endswith("/ping"):
            self.send(204)
        elif "/have" in self.path:
            self.send(200, json.dumps({"size": document["size"], "complete": True}).encode())
        elif "/blobs/" in self.path:
            self.lie(*self.range())
        else:
            self.send(404)

    def range(self):
        words = self.headers.get("Range", f"bytes=0-{document['size'] - 1}").removeprefix("bytes=").split("-")
        return int(words[0]), int(words[1])

    def lie(self, first, last):
        with lock:
            print("asked", flush=True)
            how = next(modes)
        size = last - first + 1
        head = {"Content_Range": f"bytes {first}-{last}/{document['size']}"}
        if how == "wrong":
            self.send(206, os.urandom(size), **head)
        elif how == "noise":
            self.wfile.write(os.urandom(4096))
            self.close_connection = True
        else:
            self.send(206, os.urandom(size // 2 if how == "short" else 0), size, **head)
            if how == "stall":
                time.sleep(3600)
            self.close_connection = True

    def log_message(self, *args):
        pass


document = json.load(sys.stdin)
threading.Thread(target=report, args=(document,), daemon=True).start()
server_context = context(lambda cafile: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cafile))
host, port = listen.rsplit(":", 1)


class Server(http.server.ThreadingHTTPServer):
    def finish_request(self, request, address):
        request.settimeout(30)
        with server_context.wrap_socket(request, server_side=True) as tls:
            tls.settimeout(None)
            self.RequestHandlerClass(tls, address, self)

    def handle_error(self, request, address):
        pass  # connections that end are nothing to speak of


Server((host, int(port)), Liar).serve_forever()
