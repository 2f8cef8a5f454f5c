# SPDX-License-Identifier: Apache-2.0
"""Ollama's client: its own pull and push code (Go module github.com/ollama/ollama), built without its engine."""
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from network import ROOT

MODULE = "github.com/ollama/ollama"
SOURCES = ["images", "download", "upload", "auth", "sparse_common"]
LAYER = "application/vnd.ollama.image."


class Unavailable(Exception):
    """No Go here, or the module cannot be had."""


def build(folder):
    """The client's path. A first build takes some seconds, later ones one."""
    for tool in ("go", "ssh-keygen"):
        if not shutil.which(tool):
            raise Unavailable(f"no {tool}")
    work = Path(folder) / "ollama-client"
    shutil.copytree(ROOT / "tests/tools/ollama", work)
    env = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}

    def go(*args):
        done = subprocess.run(["go", *args], cwd=work, env=env, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise Unavailable(f"go {' '.join(args)}: {done.stderr[-1000:]}")
        return done.stdout
    source = Path(json.loads(go("mod", "download", "-json", MODULE))["Dir"]) / "server"
    for name in SOURCES:
        text = (source / f"{name}.go").read_text()
        (work / f"{name}.go").write_text(text.replace("package server", "package main", 1))
    go("build", "-o", "client", ".")
    return work / "client"


class Ollama:
    """One user: a home with a key, and a folder of models as Ollama keeps them."""

    def __init__(self, client, folder):
        self.client, self.home = client, Path(folder) / "home"
        self.models = Path(folder) / "models"
        (self.home / ".ollama").mkdir(parents=True)
        self.key = self.home / ".ollama/id_ed25519"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self.key], check=True)

    @property
    def public_key(self):
        return self.key.with_suffix(".pub").read_text().strip()

    def run(self, what, name):
        env = os.environ | {"HOME": str(self.home), "OLLAMA_MODELS": str(self.models)}
        return subprocess.run([self.client, what, name], env=env, capture_output=True, text=True, timeout=120)

    def pull(self, name):
        done = self.run("pull", name)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(self.manifest_path(name).read_text())

    def push(self, name):
        done = self.run("push", name)
        assert done.returncode == 0, done.stdout + done.stderr

    def manifest_path(self, name):
        host, namespace, rest = name.removeprefix("http://").split("/")
        model, _, tag = rest.partition(":")
        return self.models / "manifests" / host / namespace / model / (tag or "latest")

    def blob(self, digest):
        return (self.models / "blobs" / digest.replace(":", "-")).read_bytes()

    def create(self, name, layers, config):
        """What `ollama create` leaves: layers are (kind, bytes)."""
        def put(media_type, data):
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            path = self.models / "blobs" / digest.replace(":", "-")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return {"mediaType": media_type, "digest": digest, "size": len(data)}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                    "config": put("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
                    "layers": [put(LAYER + kind, data) for kind, data in layers]}
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return manifest
