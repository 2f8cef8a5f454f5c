# SPDX-License-Identifier: Apache-2.0
"""Small things in a registry, against Debian's docker-registry: 1,000 blobs pushed one after the other and by eight
clients at once, and a list of 100,000 tags. Both keep their data on the same disk and answer over plain HTTP on
loopback; the server has one core, the clients have the others. A push is what clients do that know nothing: POST, PUT. ROUNDS (5); BLOBS and TAGS for a
quick look.
"""
import hashlib
import http.client
import json
import os
import random
import sqlite3
import threading
import time

import lib

BLOBS, BLOB_BYTES, CLIENTS = int(os.environ.get("BLOBS", 1000)), 1024, 8
TAGS = int(os.environ.get("TAGS", 100_000))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "bench/many"


class Mdn:
    name = "mdn"

    def __init__(self, folder):
        self.data, self.port = folder / "mdn", lib.free_port()
        self.config = folder / "mdn.yaml"
        self.config.write_text(f"name: bench\nroles: [center, repository]\ndata: {self.data}\nlog_level: warn\n"
                               f"node_listen: 127.0.0.1:{lib.free_port()}\nrepository_listen: 127.0.0.1:{self.port}\n")
        done = lib.subprocess.run([lib.MDN, "init", "--config", self.config, "--operator", folder / "operator"],
                                  capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)

    def start(self):
        self.child = lib.start(lib.MDN, "serve", "--config", self.config, core=lib.SUBJECT)
        lib.wait_port(self.port, self.child)

    def make_tags(self, body, digest):
        db = sqlite3.connect(self.data / "catalog.db")
        db.executemany("INSERT OR REPLACE INTO tags(repo, tag, digest) VALUES(?, ?, ?)",
                       ((NAME, tag_of(i), bytes.fromhex(digest)) for i in range(TAGS)))
        db.commit()
        db.close()


class DockerRegistry:
    name = "docker-registry"

    def __init__(self, folder):
        self.data, self.port = folder / "docker", lib.free_port()
        self.config = folder / "docker.yml"
        self.config.write_text("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
                               f"storage: {{filesystem: {{rootdirectory: {self.data}, maxthreads: 100}}, delete: {{enabled: true}}}}\n"
                               f"http: {{addr: '127.0.0.1:{self.port}'}}\n")

    def start(self):
        self.child = lib.start("docker-registry", "serve", self.config, core=lib.SUBJECT)
        lib.wait_port(self.port, self.child)

    def make_tags(self, body, digest):
        """As it lays them down itself: a folder each, with a link to what the tag names now."""
        tags = self.data / "docker/registry/v2/repositories" / NAME / "_manifests/tags"
        for i in range(TAGS):
            for where in ("current", f"index/sha256/{digest}"):
                folder = tags / tag_of(i) / where
                os.makedirs(folder, exist_ok=True)
                (folder / "link").write_text("sha256:" + digest)


def tag_of(i):
    return f"v{i:06d}"


def push_blobs(port, repo, blobs):
    http_ = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for data in blobs:
        http_.request("POST", f"/v2/{repo}/blobs/uploads/", headers={"Content-Length": "0"})
        answer = http_.getresponse()
        answer.read()
        assert answer.status == 202, answer.status
        at = answer.headers["Location"]
        at = at[at.index("/v2/"):]
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        http_.request("PUT", f"{at}{'&' if '?' in at else '?'}digest={digest}", body=data,
                      headers={"Content-Type": "application/octet-stream"})
        answer = http_.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    http_.close()


def push_time(server, clients):
    blobs = [random.randbytes(BLOB_BYTES) for _ in range(BLOBS)]
    failed = []

    def one(i):
        try:
            push_blobs(server.port, f"bench/push{i}", blobs[i::clients])
        except Exception as e:
            failed.append(e)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(clients)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise SystemExit(f"bench: {server.name}: {failed[0]!r}")
    return BLOBS / (time.monotonic() - began)


def push_manifest(server):
    push_blobs(server.port, NAME, [b"{}"])
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
              "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest()}
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()
    http_ = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    http_.request("PUT", f"/v2/{NAME}/manifests/{tag_of(0)}", body=body, headers={"Content-Type": MANIFEST})
    answer = http_.getresponse()
    assert answer.status == 201, answer.read()
    return body, hashlib.sha256(body).hexdigest()


def list_time(server):
    """All pages, as a client follows them."""
    http_ = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
    at, seen = f"/v2/{NAME}/tags/list", 0
    began = time.monotonic()
    while at:
        http_.request("GET", at)
        answer = http_.getresponse()
        seen += len(json.loads(answer.read())["tags"])
        link = answer.headers.get("Link")
        at = link[link.index("<") + 1:link.index(">")] if link else None
    took = time.monotonic() - began
    assert seen == TAGS, f"{server.name} lists {seen} tags"
    return seen / took


def main():
    lib.need("docker-registry")
    lib.introduce("registry: small things")
    servers = Mdn(lib.folder), DockerRegistry(lib.folder)
    for server in servers:
        server.start()
    for what, measure, unit in ((f"push {BLOBS} blobs of {BLOB_BYTES} bytes, one client", lambda s: push_time(s, 1), "blobs/s"),
                                (f"the same, {CLIENTS} clients", lambda s: push_time(s, CLIENTS), "blobs/s")):
        found = {s.name: [] for s in servers}
        for i in range(lib.rounds(5)):
            for s in servers[::-1] if i % 2 else servers:
                with lib.resting(*(o.child for o in servers if o is not s)):
                    found[s.name].append(measure(s))
        lib.figure(what, unit, found["mdn"], "docker-registry", found["docker-registry"], ratio_goal=1.0)
    for s in servers:
        body, digest = push_manifest(s)
        lib.stop(s.child)
        s.make_tags(body, digest)
        s.start()
    found = {s.name: [] for s in servers}
    for i in range(lib.rounds(5)):
        for s in servers[::-1] if i % 2 else servers:
            with lib.resting(*(o.child for o in servers if o is not s)):
                found[s.name].append(list_time(s))
    lib.figure(f"list {TAGS} tags", "tags/s", found["mdn"], "docker-registry", found["docker-registry"], ratio_goal=1.0)


main()
