# SPDX-License-Identifier: Apache-2.0
"""Keeping a store: garbage collected beside pushes and through kill -9, rot found and repaired from other nodes,
models encrypted at rest, disks that are full."""
import hashlib
import json
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from network import CommandFailed, eventually, run_mdn, tiny_model

SHORT = [{"role": "user", "content": "Hello"}]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ONE = {"edges": {"edge-1": "north"}}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob_files(node):
    return [p for p in (node.folder / "blobs/blobs/sha256").rglob("*") if p.is_file()]


def blob_path(node, name):
    hexes = name.removeprefix("sha256:")
    return node.folder / "blobs/blobs/sha256" / hexes[:2] / hexes


def stored_bytes(node):
    return sum(p.stat().st_size for p in blob_files(node))


class Registry:
    """A client of the OCI port that pushes as clients do: HEAD first, then what is not there, then the manifest."""

    def __init__(self, url):
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=30)

    def push_blob(self, repo, data):
        name = digest(data)
        if self.http.head(f"/v2/{repo}/blobs/{name}").status_code != 200:
            answer = self.http.post(f"/v2/{repo}/blobs/uploads/", params={"digest": name}, content=data,
                                    headers={"Content-Type": "application/octet-stream"})
            assert answer.status_code == 201, answer.text
        return {"mediaType": "application/octet-stream", "digest": name, "size": len(data)}

    def push(self, repo, tag, *layers):
        config = self.push_blob(repo, b"{}")
        body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                           "layers": [self.push_blob(repo, data) for data in layers]}).encode()
        answer = self.http.put(f"/v2/{repo}/manifests/{tag}", content=body, headers={"Content-Type": MANIFEST})
        assert answer.status_code == 201, answer.text
        return digest(body)

    def delete(self, repo, manifest):
        assert self.http.delete(f"/v2/{repo}/manifests/{manifest}").status_code == 202

    def whole(self, repo, tag):
        manifest = self.http.get(f"/v2/{repo}/manifests/{tag}")
        assert manifest.status_code == 200, manifest.text
        for item in [manifest.json()["config"], *manifest.json()["layers"]]:
            answer = self.http.get(f"/v2/{repo}/blobs/{item['digest']}")
            assert answer.status_code == 200, answer.text
            assert digest(answer.content) == item["digest"]


# ---- garbage ------------------------------------------------------------------------------------------

def test_deleted_models_free_the_disk_and_pushes_go_on(make_network):
    net = make_network(edges={}, repository={"gc_lease": "2s"})
    registry = Registry(net.repository_url)
    data = random.randbytes(1 << 20)
    gone = registry.push("old/model", "v1", data)
    registry.push("kept/model", "v1", b"kept" * 1000)
    registry.delete("old/model", gone)
    before = stored_bytes(net.repository)
    leased = net.json("gc")
    assert leased["freed"] == 0 and leased["leased_bytes"] >= len(data), leased
    time.sleep(2.2)
    dry = net.json("gc", "--dry-run")
    assert dry["freed_bytes"] >= len(data) and stored_bytes(net.repository) == before
    assert "would free" in net.mdn("gc", "--dry-run")

    # collecting again and again while others push what was garbage a moment ago
    stop, failed = threading.Event(), []

    def push_on(i):
        client = Registry(net.repository_url)
        try:
            while not stop.is_set():
                layer = b"layer %d" % random.randrange(3) * 1000
                client.delete(f"busy/{i}", client.push(f"busy/{i}", "v1", layer))
                client.push(f"busy/{i}", "v1", layer)
                client.whole(f"busy/{i}", "v1")
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=push_on, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    results = [net.json("gc") for _ in range(12)]
    time.sleep(2)
    results += [net.json("gc") for _ in range(12)]
    stop.set()
    for t in threads:
        t.join(30)
    assert not failed, failed
    assert sum(r["freed_bytes"] for r in results) >= len(data)
    registry.whole("kept/model", "v1")
    assert net.json("fsck")["faults"] == []


def test_only_an_operator_collects(make_network):
    net = make_network(**ONE)
    assert httpx.post(net.repository_url + "/mdn/v1/gc").status_code == 404  # not on the plain port
    answer = net.http().post(net.edges[0].node_url + "/mdn/v1/gc")
    assert answer.status_code == 422 and "only a repository" in answer.text
    identity = net.edges[0].folder / "identity"
    files = {p.name: p for p in identity.glob("*.pem")} if identity.is_dir() else {}
    if {"cert.pem", "key.pem"} <= set(files):
        context = net.operator_context()
        context.load_cert_chain(files["cert.pem"], files["key.pem"])
        with httpx.Client(verify=context, timeout=20) as edge:
            for path in ("/mdn/v1/gc", "/mdn/v1/fsck"):
                assert edge.post(net.repository.node_url + path).status_code == 403


def test_repository_collects_by_itself_and_survives_kill(make_network):
    net = make_network(edges={}, repository={"gc_lease": "1s", "gc_every": "300ms"})
    for i in range(4):
        registry = Registry(net.repository_url)
        keep = registry.push(f"kept/{i}", "v1", b"kept %d" % i * 1000)
        lost = registry.push(f"lost/{i}", "v1", random.randbytes(300_000))
        registry.delete(f"lost/{i}", lost)
        time.sleep(0.9 + random.random() / 2)
        net.repository.kill()
        net.repository.start()
        eventually(lambda: httpx.get(net.repository_url + "/v2/").status_code == 200)
        for k in range(i + 1):
            registry.whole(f"kept/{k}", "v1")
    eventually(lambda: stored_bytes(net.repository) < 100_000, 15, "all garbage is gone")
    net.wait_up()
    assert net.json("fsck")["faults"] == [], keep


# ---- rot ----------------------------------------------------------------------------------------------

def rot(path):
    path.chmod(0o600)
    with open(path, "r+b") as f:
        f.seek(path.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))


def test_rot_is_found_and_repaired_from_other_nodes(make_network, tiny):
    net = make_network(**ONE)
    net.push(tiny, "tiny")
    edge = net.edges[0]
    name = digest(Path(tiny).read_bytes())
    for node in (edge, net.repository):
        assert net.json("fsck", node.name)["faults"] == []
        rot(blob_path(node, name))
        found = json.loads(failing(net, "fsck", node.name))
        assert [f["fault"] for f in found["faults"]] == ["corrupt-blob"]
        assert found["faults"][0]["digest"] == name
        assert blob_path(node, name).exists(), "without --repair nothing is touched"
        repaired = json.loads(failing(net, "fsck", node.name, "--repair"))
        assert repaired["faults"][0]["done"] == "quarantined" and repaired["wanted"] == 1
        assert (node.folder / "blobs/quarantine" / name.removeprefix("sha256:")).exists()
        eventually(lambda: blob_path(node, name).exists(), 20, f"{node.name} has it again")
        assert digest(blob_path(node, name).read_bytes()) == name
        assert net.json("fsck", node.name)["faults"] == []
    assert edge.openai().chat.completions.create(model="tiny", messages=SHORT, max_tokens=3)


def failing(net, *args):
    with pytest.raises(CommandFailed) as failure:
        net.mdn(*args, "--json")
    assert failure.value.code == 1, failure.value
    return failure.value.out


def test_folder_is_checked_offline(make_network, tiny):
    net = make_network(edges={})
    net.push(tiny, "tiny", on=None)
    folder = net.repository.folder
    with pytest.raises(CommandFailed, match="used by another mdn"):
        run_mdn("fsck", "--data", folder)
    net.repository.stop()
    assert "all good" in run_mdn("fsck", "--data", folder)[0]
    rot(blob_path(net.repository, digest(Path(tiny).read_bytes())))
    with pytest.raises(CommandFailed, match="corrupt-blob"):
        run_mdn("fsck", "--data", folder)


# ---- encryption at rest -------------------------------------------------------------------------------

def key_file(folder, name="site.key"):
    path = folder / name
    path.write_text(random.randbytes(32).hex() + "\n")
    path.chmod(0o600)
    return str(path)


def found_on_disk(folder, marker):
    return [p for p in Path(folder).rglob("*") if p.is_file() and marker in p.read_bytes()]


def test_encrypted_network_answers_and_keeps_nothing_plain(make_network, folder, tiny):
    key = key_file(folder)
    sealed = {"encrypt_at_rest": True, "site_key": key}
    net = make_network(**ONE, edge=sealed, repository=sealed)
    content = Path(tiny).read_bytes()
    marker = content[-4096:]
    net.push(tiny, "tiny")
    edge = net.edges[0]
    assert edge.openai().chat.completions.create(model="tiny", messages=SHORT, max_tokens=5).choices
    for node in (edge, net.repository):
        assert blob_path(node, digest(content)).with_name(digest(content)[7:] + ".sealed").exists()
        assert not found_on_disk(node.folder, marker), "weights lie on the disk in plain"
        assert not found_on_disk(node.folder, content[64:128]), "the header lies on the disk in plain"
        check = net.json("fsck", node.name)
        assert check["faults"] == [] and check["sealed"] == check["blobs"] > 0
    net.mdn("pull", "tiny", "-o", folder / "back.gguf", "--repository", net.repository_url)
    assert (folder / "back.gguf").read_bytes() == content
    part = httpx.get(f"{net.repository_url}/v2/tiny/blobs/{digest(content)}", headers={"Range": "bytes=65000-140000"})
    assert part.status_code == 206 and part.content == content[65000:140001]

    # again after a restart
    edge.stop()
    edge.start()
    net.wait_model("tiny")
    assert edge.openai().chat.completions.create(model="tiny", messages=SHORT, max_tokens=5).choices

    # a changed segment is found, and repaired from the other one
    path = blob_path(edge, digest(content)).with_name(digest(content)[7:] + ".sealed")
    rot(path)
    assert json.loads(failing(net, "fsck", edge.name, "--repair"))["faults"][0]["fault"] == "corrupt-blob"
    eventually(path.exists, 20, "the edge has it again")
    assert net.json("fsck", edge.name)["faults"] == []

    # another key, or none
    edge.stop()
    for wrong in ({"site_key": key_file(folder, "wrong.key")}, {"site_key": "", "encrypt_at_rest": False}):
        edge.write_config(**wrong)
        edge.start()
        assert edge.process.wait(20) != 0
        assert "site_key" in edge.log().splitlines()[-1]

    # the key changes; nothing is written anew
    new = key_file(folder, "new.key")
    sealed_before = path.read_bytes()[128:]
    run_mdn("fsck", "--data", edge.folder, "--site-key", key, "--new-site-key", new)
    assert path.read_bytes()[128:] == sealed_before
    edge.write_config(site_key=new, encrypt_at_rest=True)
    edge.start()
    net.wait_model("tiny")
    assert edge.openai().chat.completions.create(model="tiny", messages=SHORT, max_tokens=5).choices


# ---- full disks ---------------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MB; root is needed to mount it."""
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", where], capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs")
    yield where
    for _ in range(50):
        if not subprocess.run(["umount", where], capture_output=True).returncode:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", where])


def fill(disk, leave):
    path = disk / "filler"
    left = os.statvfs(disk)
    size = left.f_bavail * left.f_frsize - leave
    with open(path, "ab") as f:
        f.write(b"x" * max(size, 0))
    return path


def test_full_disk_refuses_cleanly_and_goes_on_after(make_network, small_disk):
    net = make_network(up=False, edges={})
    net.repository.write_config(data=str(small_disk / "data"))
    net.repository.folder = small_disk / "data"
    net.up()
    registry = Registry(net.repository_url)
    registry.push("a", "v1", random.randbytes(1 << 20))
    client = registry.http

    # larger than the disk: refused by its length, before a byte is read
    big = client.post("/v2/a/blobs/uploads/", params={"digest": "sha256:" + "0" * 64}, content=bytes(40 << 20))
    assert big.status_code == 507 and "free" in big.text, big.text

    # without a length, it runs into the wall in the middle
    def endless():
        for _ in range(40):
            yield random.randbytes(1 << 20)
    at = client.post("/v2/a/blobs/uploads/").headers["location"]
    try:
        answer = client.patch(at, content=endless())
        assert answer.status_code == 507, answer.text
    except httpx.TransportError:
        pass  # answered while we still sent
    eventually(lambda: client.delete(at).status_code in (204, 404), 10)
    assert not any((small_disk / "data/blobs/uploads").iterdir())

    # hardly anything left: uploads and manifests are refused in words, and nothing half-written is seen
    filler = fill(small_disk, 100_000)
    upload = client.post("/v2/a/blobs/uploads/", params={"digest": digest(b"z" * 200_000)}, content=b"z" * 200_000)
    assert upload.status_code == 507, upload.text
    assert client.head(f"/v2/a/blobs/{digest(b'z' * 200_000)}").status_code == 404
    filler.unlink()
    config = registry.push_blob("a", b"{}")
    filler = fill(small_disk, 0)
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()
    statuses = set()
    for i in range(30):
        answer = client.put(f"/v2/a/manifests/full-{i}", content=body, headers={"Content-Type": MANIFEST})
        statuses.add(answer.status_code)
        assert answer.status_code in (201, 507), answer.text
        assert (client.head(f"/v2/a/manifests/full-{i}").status_code == 200) == (answer.status_code == 201)
    assert 507 in statuses
    registry.whole("a", "v1")
    filler.unlink()
    registry.push("a", "v2", b"there is room again")
    registry.whole("a", "v2")
    net.wait_up()
    assert net.json("fsck")["faults"] == []


def test_edge_with_a_full_disk_says_so_and_goes_on_after(make_network, small_disk, big):
    net = make_network(up=False, **ONE)
    edge = net.edges[0]
    edge.write_config(data=str(small_disk / "data"))
    edge.folder = small_disk / "data"
    net.up()
    filler = fill(small_disk, 3 << 20)
    net.push(big, "big", ready=False)
    eventually(lambda: "MiB" in " ".join(n["error"] or "" for n in net.model("big")["nodes"]), 20, "the edge says why")
    assert not blob_files(edge) or all(p.stat().st_size < 1 << 20 for p in blob_files(edge))
    assert edge.runs
    filler.unlink()
