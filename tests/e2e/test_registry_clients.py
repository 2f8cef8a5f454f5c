# SPDX-License-Identifier: Apache-2.0
"""oras (the real one) and skopeo: artefacts, what is attached to them, images of many platforms, logging in with a key."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from conftest import discard, network_folder
from network import ROOT, Network, eventually
from test_repository import sha256, write_layout

ORAS = Path(os.environ.get("ORAS", ROOT / ".deps/registry/oras"))
INDEX = "application/vnd.oci.image.index.v1+json"
needs_oras = pytest.mark.skipif(not ORAS.exists(), reason="no oras: tools/setup test builds it")
needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")


def run(*command, home, code=0, stdin=None):
    done = subprocess.run([str(word) for word in command], cwd=home, capture_output=True, text=True, timeout=60,
                          input=stdin, env=os.environ | {"HOME": str(home), "DOCKER_CONFIG": str(home / "docker")})
    assert done.returncode == code or code is None and done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["open", "pull", "key"])
def place(request, tmp_path_factory):
    """A repository and, unless it is open, a key of its network."""
    folder = network_folder()
    network = Network(folder, edges={}, repository={"repository_access": request.param})
    try:
        network.up()
        network.access = request.param
        network.key = network.json("key", "new", "clients")["key"]
        eventually(lambda: httpx.get(network.repository_url + "/v2/", auth=("any", network.key)).status_code == 200)
        network.host = network.repository.config["repository_listen"]
        yield network
    finally:
        network.down()
        discard(folder)


def oras(place, home):
    """oras, logged in where that is needed."""
    if place.access != "open":
        run(ORAS, "login", "--plain-http", "-u", "any", "--password-stdin", place.host, home=home, stdin=place.key)

    return lambda *words, code=0: run(ORAS, *words, "--plain-http", home=home, code=code)


def attached(call, target, *words):
    found = json.loads(call("discover", "--format", "json", *words, target))
    return found.get("referrers") or found.get("manifests") or []


@needs_oras
def test_oras_pushes_attaches_discovers_copies_and_deletes(place, folder):
    call, target = oras(place, folder), f"{place.host}/art/work:v1"
    (folder / "weights.bin").write_bytes(os.urandom(300_000))
    (folder / "card.md").write_text("# What it is\n")
    call("push", "--artifact-type", "application/vnd.test.model", target, "weights.bin:application/octet-stream")
    call("attach", "--artifact-type", "application/vnd.test.card", target, "card.md:text/markdown")
    call("attach", "--artifact-type", "application/vnd.test.eval", "-a", "score=42", target)
    found = attached(call, target)
    assert {f["artifactType"]: (f.get("annotations") or {}).get("score") for f in found} == {
        "application/vnd.test.card": None, "application/vnd.test.eval": "42"}
    only = attached(call, target, "--artifact-type", "application/vnd.test.card")
    assert [f["artifactType"] for f in only] == ["application/vnd.test.card"]

    run(ORAS, "copy", "--from-plain-http", "--to-plain-http", "-r", target, f"{place.host}/art/copy:v1", home=folder)
    assert len(attached(call, f"{place.host}/art/copy:v1")) == 2
    call("pull", "-o", "back", f"{place.host}/art/copy:v1")
    assert (folder / "back/weights.bin").read_bytes() == (folder / "weights.bin").read_bytes()
    assert call("repo", "tags", f"{place.host}/art/copy").split() == ["v1"]
    call("manifest", "delete", "-f", f"{place.host}/art/copy:v1")
    call("manifest", "fetch", f"{place.host}/art/copy:v1", code=None)


@needs_skopeo
def test_skopeo_copies_an_image_of_many_platforms(place, folder):
    layout, target = folder / "layout", f"docker://{place.host}/multi/arch"
    write_index(layout, ["amd64", "arm64", "riscv64"])
    creds = [] if place.access == "open" else [f"any:{place.key}"]
    run("skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v1", f"{target}:v1",
        *[w for c in creds for w in ("--dest-creds", c)], home=folder)
    run("skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
        f"{target}:v1", f"{target}-copy:v2", *[w for c in creds for w in ("--src-creds", c, "--dest-creds", c)],
        home=folder)
    # Reading needs no key where only writing does.
    reader = creds if place.access == "key" else []
    run("skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"{target}-copy:v2",
        f"oci:{folder}/back:v1", *[w for c in reader for w in ("--src-creds", c)], home=folder)
    def blobs(at):
        return {p.name for p in (at / "blobs/sha256").iterdir()}
    assert blobs(folder / "back") == blobs(layout)
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"{target}:v1",
              *[w for c in reader for w in ("--creds", c)], home=folder)
    assert [m["platform"]["architecture"] for m in json.loads(raw)["manifests"]] == ["amd64", "arm64", "riscv64"]
    run("skopeo", "delete", "--tls-verify=false", f"{target}-copy:v2",
        *[w for c in creds for w in ("--creds", c)], home=folder)


def write_index(layout, architectures):
    """An OCI layout with one index of images, one a platform."""
    children = []
    for architecture in architectures:
        write_layout(layout.parent / architecture, {f"{architecture}.txt": architecture.encode() * 1000})
        shutil.copytree(layout.parent / architecture, layout, dirs_exist_ok=True)
        child = json.loads((layout / "index.json").read_text())["manifests"][0]
        children.append({key: child[key] for key in ("mediaType", "digest", "size")} |
                        {"platform": {"os": "linux", "architecture": architecture}})
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    (layout / "blobs/sha256" / sha256(index)[7:]).write_bytes(index)
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{
        "mediaType": INDEX, "digest": sha256(index), "size": len(index),
        "annotations": {"org.opencontainers.image.ref.name": "v1"}}]}))


def test_who_has_no_key_gets_as_far_as_the_rules_say(place):
    with httpx.Client(base_url=place.repository_url, timeout=10) as http:
        read = http.get("/v2/any/thing/tags/list").status_code
        write = http.post("/v2/any/thing/blobs/uploads/")
        assert (read, write.status_code) == {"open": (404, 202), "pull": (404, 401), "key": (401, 401)}[place.access]
        if place.access != "open":
            assert write.json()["errors"][0]["code"] == "UNAUTHORIZED"
            assert write.headers["www-authenticate"].startswith("Basic" if place.access == "key" else "Bearer")
            wrong = "mdn-" + "0" * 68
            assert http.post("/v2/any/thing/blobs/uploads/", auth=("any", wrong)).status_code == 401
            ours = {"authorization": f"Bearer {place.key}"}
            assert http.post("/v2/any/thing/blobs/uploads/", headers=ours).status_code == 202


def test_a_browser_that_another_site_sends_here_is_refused(place):
    key = {"authorization": f"Bearer {place.key}"}
    with httpx.Client(base_url=place.repository_url, timeout=10, headers=key) as http:
        assert http.get("/v2/", headers={"host": "evil.example"}).status_code == 403
        assert http.get("/v2/", headers={"host": "127.0.0.1.evil.example:80"}).status_code == 403
        for origin in ("http://evil.example", "null"):
            assert http.post("/v2/any/thing/blobs/uploads/", headers={"origin": origin}).status_code == 403
        assert http.post("/v2/any/thing/blobs/uploads/", headers={"origin": place.repository_url}).status_code == 202


def test_private_names_need_a_key_even_where_all_else_is_open(make_network):
    net = make_network(edges={}, repository={"repository_private": ["secret/*"]})
    key = net.json("key", "new", "clients")["key"]
    with httpx.Client(base_url=net.repository_url, timeout=10) as http:
        ours = ("any", key)
        eventually(lambda: http.post("/v2/secret/a/blobs/uploads/", auth=ours).status_code == 202)
        data = b"not for everybody"
        at = {"params": {"digest": sha256(data)}, "content": data}
        assert http.post("/v2/secret/a/blobs/uploads/", auth=ours, **at).status_code == 201
        assert http.get(f"/v2/secret/a/blobs/{sha256(data)}").status_code == 401
        assert http.get("/mdn/v1/catalog").status_code == 401
        assert http.post("/v2/public/a/blobs/uploads/").status_code == 202
        # Nor can it be had by mounting it elsewhere.
        for source in ({}, {"from": "secret/a"}):
            mounted = http.post("/v2/public/a/blobs/uploads/", params={"mount": sha256(data), **source})
            assert mounted.status_code == 202
        assert http.post("/v2/public/a/blobs/uploads/", params={"mount": sha256(data)}, auth=ours).status_code == 201
