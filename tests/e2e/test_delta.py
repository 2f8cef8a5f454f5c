# SPDX-License-Identifier: Apache-2.0
"""A new version moves what changed: bytes that the repository sends to an edge which holds the version before.

Everything the repository's process writes meanwhile counts, its reports and log lines too.
"""
import hashlib
import json
import os
import random
import struct

import httpx
import pytest

from network import eventually, tiny_gguf, tiny_model
from test_distribution import blob_of, is_whole, written

# 111 tensors, 130 MB: as many chunks as a file of that size has in earnest.
SHAPE = {"embedding": 512, "heads": 4, "ff": 1536, "layers": 12, "seed": 5}


@pytest.fixture(scope="module")
def first(models):
    return tiny_model(models, "first", **SHAPE)


@pytest.fixture
def net(make_network):
    return make_network(edges={"edge-1": "north"})


def moved(net, file, model):
    """Bytes the repository writes until the edge has it; the upload is over before."""
    net.push(file, model, on=None)
    before = written(net.repository.process)
    net.place(model)
    net.wait_model(model)
    digest = net.model(model)["files"][0]["digest"]
    assert is_whole(net.edges[0], digest)
    sent = written(net.repository.process) - before
    print(f"{model}: {sent} bytes of {os.path.getsize(file)}")
    return sent


def tensors(path):
    """{name: (offset in the file, bytes)} of a GGUF file of F32 tensors."""
    with open(path, "rb") as f:
        data = f.read(16 << 20)
    at = 24
    count, kvs = struct.unpack_from("<QQ", data, 8)
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def string():
        nonlocal at
        (size,) = struct.unpack_from("<Q", data, at)
        at += 8 + size
        return data[at - size:at]

    def value(kind):
        nonlocal at
        if kind == 8:
            string()
        elif kind == 9:
            item, n = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(n):
                value(item)
        else:
            at += sizes[kind]

    for _ in range(kvs):
        string()
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        value(kind)
    found = {}
    for _ in range(count):
        name = string().decode()
        (dims,) = struct.unpack_from("<I", data, at)
        shape = struct.unpack_from(f"<{dims}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * dims)
        at += 16 + 8 * dims
        assert kind == 0
        size = 4
        for d in shape:
            size *= d
        found[name] = (offset, size)
    start = at + -at % 32
    return {name: (start + offset, size) for name, (offset, size) in found.items()}


def test_a_metadata_edit_moves_kilobytes(net, first, models):
    size = os.path.getsize(first)
    assert moved(net, first, "delta:1") > size
    edited = tiny_gguf.make(str(models / "edited.gguf"), name="a new name, longer than the old one was", **SHAPE)
    sent = moved(net, edited, "delta:2")
    assert sent <= 200_000, f"{sent} bytes for a metadata edit of {size}"
    assert "were in other files here" in net.edges[0].log()


def test_a_fine_tune_moves_what_it_touched(net, first, models):
    moved(net, first, "delta:1")
    places = tensors(first)
    touched = [places[name] for name in ("blk.5.ffn_up.weight", "blk.5.attn_norm.weight")]
    changed = sum(size for _, size in touched)
    assert 0.01 < changed / os.path.getsize(first) < 0.03
    tuned = str(models / "tuned.gguf")
    with open(first, "rb") as f:
        data = bytearray(f.read())
    for offset, size in touched:
        for i in range(0, size, 4):
            (x,) = struct.unpack_from("<f", data, offset + i)
            struct.pack_into("<f", data, offset + i, x * 1.001 + 1e-4)
    with open(tuned, "wb") as f:
        f.write(data)
    sent = moved(net, tuned, "delta:2")
    assert sent <= changed * 1.1 + 60_000, f"{sent} bytes for {changed} changed"


def safetensors_file(path, changed=(), **metadata):
    """60 tensors of 1 MiB and 60 of 4 KiB; those in `changed` have other bytes."""
    header, offset, parts = {"__metadata__": {"format": "pt", **metadata}}, 0, []
    for i in range(120):
        size = 1 << 20 if i % 2 else 4096
        header[f"t{i}"] = {"dtype": "F16", "shape": [size // 2], "data_offsets": [offset, offset + size]}
        parts.append(random.Random(f"{i} {i in changed}").randbytes(size))
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(parts)
    return str(path)


def push_oci(net, file, name, tag):
    """As any registry client would: two blobs and a manifest. The digest of the file."""
    with httpx.Client(base_url=net.repository_url, timeout=60) as http:
        def blob(content):
            digest = "sha256:" + hashlib.sha256(content).hexdigest()
            at = http.post(f"/v2/{name}/blobs/uploads/").raise_for_status().headers["location"]
            http.put(at + ("&" if "?" in at else "?") + "digest=" + digest, content=content).raise_for_status()
            return {"digest": digest, "size": len(content)}
        with open(file, "rb") as f:
            layer = blob(f.read())
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": blob(b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"},
                    "layers": [layer | {"mediaType": "application/octet-stream", "annotations": {
                        "org.opencontainers.image.title": "model.safetensors"}}]}
        http.put(f"/v2/{name}/manifests/{tag}", json=manifest,
                 headers={"content-type": manifest["mediaType"]}).raise_for_status()
    return layer["digest"]


def moved_safetensors(net, file, tag):
    digest = push_oci(net, file, "tensors", tag)
    before = written(net.repository.process)
    net.place("tensors:" + tag)
    eventually(lambda: blob_of(net.edges[0], digest).exists(), 60, "the edge has the file")
    assert is_whole(net.edges[0], digest)
    sent = written(net.repository.process) - before
    print(f"tensors:{tag}: {sent} bytes of {os.path.getsize(file)}")
    return sent


def test_safetensors_move_what_changed(net, models):
    size, large = 60 << 20, 1 << 20
    assert moved_safetensors(net, safetensors_file(models / "a.safetensors"), "1") > size
    edited = moved_safetensors(net, safetensors_file(models / "b.safetensors", title="a note in the header"), "2")
    assert edited <= 200_000, f"{edited} bytes for a metadata edit of {size}"
    tuned = moved_safetensors(net, safetensors_file(models / "c.safetensors", {7, 40}), "3")
    assert large < tuned <= large * 1.1 + 60_000, f"{tuned} bytes for {large} changed"
