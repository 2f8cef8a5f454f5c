# SPDX-License-Identifier: Apache-2.0
"""Artefacts as other tools make them, pushed by oras: ModelPack (github.com/modelpack/model-spec)."""
import hashlib
import json
import tempfile
from pathlib import Path

import oras.client
import oras.container

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MODELPACK = "application/vnd.cncf.model."
CNAI = "application/vnd.cnai.model."


def descriptor(media_type, data, **annotations):
    made = {"mediaType": media_type, "digest": "sha256:" + hashlib.sha256(data).hexdigest(), "size": len(data)}
    return made | ({"annotations": annotations} if annotations else {})


def kind(path):
    if path.endswith((".gguf", ".safetensors")):
        return "weight"
    return "doc" if path.endswith(".md") else "weight.config"


def modelpack(files, prefix=MODELPACK, form="raw", path_key="org.cncf.model.filepath", **config):
    """(manifest, {digest: bytes}) of a model whose layers are single files."""
    layers = [descriptor(f"{prefix}{kind(path)}.v1.{form}", data, **{path_key: path}) for path, data in files.items()]
    about = json.dumps({
        "descriptor": {"createdAt": "2026-01-01T00:00:00Z", "name": "a-model", "licenses": ["Apache-2.0"]},
        "config": {"format": "gguf", **config},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }).encode()
    top = descriptor(prefix + "config.v1+json", about)
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": prefix + "manifest.v1+json", "config": top,
                "layers": layers}
    return manifest, {top["digest"]: about} | {d["digest"]: data for d, data in zip(layers, files.values())}


def push(host, name, manifest, blobs):
    """Pushes with oras; the answer to the manifest."""
    client = oras.client.OrasClient(hostname=host, insecure=True)
    container = oras.container.Container(f"{host}/{name}")
    for item in [manifest["config"], *manifest["layers"]]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(blobs[item["digest"]])
            file.flush()
            answer = client.upload_blob(file.name, container, item)
            assert answer.status_code in (200, 201), answer.text
    return client.upload_manifest(manifest, container)


def push_files(host, name, files, **more):
    answer = push(host, name, *modelpack(files, **more))
    assert answer.status_code == 201, answer.text


def blob_files(root):
    """Digest -> path of all that a repository's store holds."""
    return {p.name.removesuffix(".sealed"): p for p in Path(root).rglob("*") if p.is_file()}
