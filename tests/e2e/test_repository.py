# SPDX-License-Identifier: Apache-2.0
"""The repository, through OCI clients that others wrote (oras, skopeo) and by hand; and what kill -9 leaves."""
import hashlib
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import httpx
import oras.client
import pytest

from network import CommandFailed, eventually, tiny_model

GGUF_LAYER = "application/vnd.cncf.model.weight.v1.raw"


def oci(net):
    return net.repository.config["repository_listen"]


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_version(net, model):
    def there():
        return [m for m in net.json("models")["models"] if f"{m['name']}:{m['tag']}" == model]
    return eventually(there, 10, f"{model} is listed")[0]


# ---- clients of others -------------------------------------------------------------------------------


def test_oras_pushes_a_model_and_pulls_it(net, models, in_folder):
    shutil.copy(tiny_model(models, "by-oras", seed=11), "by-oras.gguf")
    client = oras.client.OrasClient(hostname=oci(net), insecure=True)
    target = f"{oci(net)}/from/oras:v1"
    assert client.push(target, files=[f"by-oras.gguf:{GGUF_LAYER}"], quiet=True).status_code == 201
    assert client.get_tags(target) == ["v1"]
    pulled = client.pull(target, outdir="back")
    assert Path(pulled[0]).read_bytes() == Path("by-oras.gguf").read_bytes()

    version = is_version(net, "from/oras:v1")
    assert version["architecture"] == "llama" and version["quantization"] == "F32"
    assert version["parameters"] > 0 and version["context_tokens"] == 4096 and version["chat_template"]
    assert version["files"][0]["path"] == "by-oras.gguf"


def test_oras_pushes_in_chunks(net, models, in_folder):
    shutil.copy(tiny_model(models, "chunked", seed=12), "chunked.gguf")
    client = oras.client.OrasClient(hostname=oci(net), insecure=True)
    target = f"{oci(net)}/from/chunks:v1"
    client.push(target, files=[f"chunked.gguf:{GGUF_LAYER}"], do_chunked=True, chunk_size=500_000, quiet=True)
    assert Path(client.pull(target, outdir="back")[0]).read_bytes() == Path("chunked.gguf").read_bytes()


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
def test_skopeo_copies_an_image_in_and_out(net, in_folder):
    layout = in_folder / "layout"
    write_layout(layout, {"hello.txt": b"hello from a registry\n" * 100})
    for source, target in ((f"oci:{layout}:v1", f"docker://{oci(net)}/from/skopeo:v1"),
                           (f"docker://{oci(net)}/from/skopeo:v1", f"oci:{in_folder}/back:v1")):
        subprocess.run(["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
                        source, target], check=True, capture_output=True, timeout=60)
    def blobs(folder):
        return {p.name: p.read_bytes() for p in (folder / "blobs/sha256").iterdir()}
    assert blobs(in_folder / "back") == blobs(layout)
    tags = subprocess.run(["skopeo", "list-tags", "--tls-verify=false", f"docker://{oci(net)}/from/skopeo"],
                          check=True, capture_output=True, timeout=60).stdout
    assert json.loads(tags)["Tags"] == ["v1"]


def write_layout(folder, files):
    """An OCI image layout with one layer a file."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data, media_type, **more):
        digest = sha256(data)
        (blobs / digest[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}
    manifest = put(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [
            sha256(data) for data in files.values()]}}).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [put(data, "application/vnd.oci.image.layer.v1.tar",
                       annotations={"org.opencontainers.image.title": name}) for name, data in files.items()],
    }).encode(), "application/vnd.oci.image.manifest.v1+json",
        annotations={"org.opencontainers.image.ref.name": "v1"})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


# ---- by hand -----------------------------------------------------------------------------------------


def test_a_chunked_upload_goes_on_where_it_stopped(net):
    data = os.urandom(700_000)
    with httpx.Client(base_url=net.repository_url, timeout=10) as http:
        at = http.post("/v2/by/hand/blobs/uploads/").headers["location"]
        first = http.patch(at, content=data[:300_000], headers={"content-range": "0-299999"})
        assert first.status_code == 202 and first.headers["range"] == "0-299999"
        wrong = http.patch(first.headers["location"], content=b"x", headers={"content-range": "5-5"})
        assert wrong.status_code == 416
        status = http.get(first.headers["location"])
        assert status.status_code == 204 and status.headers["range"] == "0-299999"
        second = http.patch(status.headers.get("location", at), content=data[300_000:],
                            headers={"content-range": f"300000-{len(data) - 1}"})
        done = http.put(second.headers["location"], params={"digest": sha256(data)})
        assert done.status_code == 201 and done.headers["docker-content-digest"] == sha256(data)
        assert http.get(f"/v2/by/hand/blobs/{sha256(data)}").content == data
        part = http.get(f"/v2/by/hand/blobs/{sha256(data)}", headers={"range": "bytes=1000-1999"})
        assert part.status_code == 206 and part.content == data[1000:2000]


def test_a_blob_that_is_not_what_it_says_is_not_kept(net):
    data, other = b"what it is", b"what it says"
    with httpx.Client(base_url=net.repository_url, timeout=10) as http:
        at = http.post("/v2/by/hand/blobs/uploads/").headers["location"]
        answer = http.put(at, params={"digest": sha256(other)}, content=data)
        assert answer.status_code == 400 and answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
        assert http.head(f"/v2/by/hand/blobs/{sha256(data)}").status_code == 404
        assert http.head(f"/v2/by/hand/blobs/{sha256(other)}").status_code == 404


def test_a_manifest_without_its_blobs_is_refused(net):
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                           "config": {"mediaType": "a/b", "size": 2, "digest": sha256(b"never")}, "layers": []})
    answer = httpx.put(net.repository_url + "/v2/by/hand/manifests/v1", content=manifest,
                       headers={"content-type": "application/vnd.oci.image.manifest.v1+json"})
    assert answer.status_code in (400, 404) and answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


def break_header(data):
    """A vocabulary that claims to be larger than any file."""
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    return data[:at] + (1 << 60).to_bytes(8, "little") + data[at + 8:]


@pytest.mark.parametrize("damage", [break_header, lambda data: data[:4000], lambda data: b"GGUF" + bytes(60)])
def test_a_bad_gguf_is_refused_in_words(net, tiny, folder, damage):
    bad = folder / "bad.gguf"
    bad.write_bytes(damage(Path(tiny).read_bytes()))
    with pytest.raises(CommandFailed) as e:
        net.mdn("push", bad, "bad:v1", "--repository", net.repository_url, "--quiet")
    assert "bad.gguf" in e.value.err and len(e.value.err) > 30
    assert not [m for m in net.json("models")["models"] if m["name"] == "bad"]


def test_mdn_pull_gives_back_what_mdn_push_took_and_goes_on_where_it_stopped(net, tiny, folder):
    out, data = folder / "out.gguf", Path(tiny).read_bytes()
    Path(str(out) + ".part").write_bytes(data[:400_000])
    net.mdn("pull", "tiny", "-o", out, "--repository", net.repository_url)
    assert out.read_bytes() == data and not Path(str(out) + ".part").exists()


def test_a_large_model_is_pushed_and_pulled_over_tls(net, big, folder):
    """To the node port, which the command finds by itself."""
    net.mdn("push", big, "by-tls", timeout=30)
    net.mdn("pull", "by-tls", "-o", folder / "back.gguf", timeout=30)
    assert (folder / "back.gguf").read_bytes() == Path(big).read_bytes()


# ---- kill -9 -----------------------------------------------------------------------------------------


def finished_blobs(net):
    root = net.repository.folder / "blobs/blobs/sha256"
    return {p.name: p for p in root.rglob("*") if p.is_file()} if root.exists() else {}


def test_kill_during_an_upload_leaves_no_half_blob_and_loses_no_finished_one(make_network, tiny, big):
    net = make_network(edges={})
    net.mdn("push", tiny, "tiny", "--repository", net.repository_url, "--quiet")
    whole, data = set(finished_blobs(net)), Path(big).read_bytes()
    for wanted in (0.1, 0.9, 0.5):
        began = []
        fail = threading.Thread(target=slow_upload, args=(net, data, began))
        fail.start()
        uploads = net.repository.folder / "blobs/uploads"
        eventually(lambda: [p for p in uploads.iterdir() if p.stat().st_size > wanted * len(data)], 20, every=0.002)
        net.repository.kill()
        fail.join(20)
        assert set(finished_blobs(net)) == whole
        net.repository.start()
        eventually(lambda: httpx.get(net.repository_url + "/v2/").status_code == 200)
        with httpx.Client(base_url=net.repository_url, timeout=20) as http:
            there = http.get(began[0])
            held = int(there.headers["range"].split("-")[1]) + 1
            assert there.status_code == 204 and wanted * len(data) < held < len(data), "it goes on where it was killed"
            if wanted == 0.5:
                assert http.put(began[0], params={"digest": sha256(data)}, content=data[held:], headers={
                    "content-range": f"{held}-{len(data) - 1}"}).status_code == 201
            else:
                assert http.delete(began[0]).status_code == 204
        assert not list(uploads.iterdir())
        for name, path in finished_blobs(net).items():
            assert sha256(path.read_bytes()) == "sha256:" + name
    assert sha256(data)[7:] in finished_blobs(net)
    net.mdn("push", big, "big", "--repository", net.repository_url, "--quiet")


def slow_upload(net, data, began):
    def pieces():
        for at in range(0, len(data), 1 << 18):
            yield data[at:at + (1 << 18)]
            threading.Event().wait(0.005)
    try:
        with httpx.Client(base_url=net.repository_url, timeout=20) as http:
            began.append(http.post("/v2/by/hand/blobs/uploads/").headers["location"])
            http.put(began[0], params={"digest": sha256(data)}, content=pieces())
    except httpx.HTTPError:
        pass
