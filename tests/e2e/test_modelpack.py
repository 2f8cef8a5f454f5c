# SPDX-License-Identifier: Apache-2.0
"""ModelPack artefacts of others, in names of today and those before; and ours, as others would read them."""
import hashlib
import json
from pathlib import Path

import httpx
import huggingface_hub as hub
import pytest

import artifact
from network import tiny_model


def host(net):
    return net.repository.config["repository_listen"]


@pytest.fixture
def weights(models):
    return Path(tiny_model(models, "modelpack", seed=61)).read_bytes()


@pytest.mark.parametrize("prefix, path_key", [
    (artifact.MODELPACK, "org.cncf.model.filepath"),
    (artifact.CNAI, "org.cnai.model.filepath"),
    (artifact.MODELPACK, "org.opencontainers.image.title"),
])
def test_an_artefact_becomes_a_version_with_its_files(net, weights, folder, prefix, path_key):
    files = {"weights/model.gguf": weights, "config/generation.json": b"{}", "README.md": b"# A model\n"}
    name = "pack/" + prefix.split(".")[1] + path_key.replace(".", "-")
    artifact.push_files(host(net), f"{name}:v1", files, prefix=prefix, path_key=path_key)
    version = [m for m in net.json("models")["models"] if m["name"] == name][0]
    assert version["architecture"] == "llama" and version["license"] == "Apache-2.0"
    assert sorted(f["path"] for f in version["files"]) == sorted(files)
    got = hub.snapshot_download(name, revision="v1", local_dir=folder, endpoint=net.repository_url, token=False)
    assert {p: (Path(got) / p).read_bytes() for p in files} == files


@pytest.mark.parametrize("form", ["tar", "tar+gzip", "tar+zstd"])
def test_weights_in_an_archive_are_refused_in_words(net, weights, form):
    answer = artifact.push(host(net), "pack/tarred:v1", *artifact.modelpack({"model.gguf": weights}, form=form))
    assert answer.status_code == 400
    words = answer.json()["errors"][0]["message"]
    assert "model.gguf" in words and "--raw" in words
    assert not [m for m in net.json("models")["models"] if m["name"] == "pack/tarred"]


def test_other_archives_stay_one_file(net, weights, folder):
    manifest, blobs = artifact.modelpack({"model.gguf": weights})
    code = artifact.descriptor(artifact.MODELPACK + "code.v1.tar+gzip", b"not looked into",
                               **{"org.cncf.model.filepath": "src"})
    manifest["layers"].append(code)
    assert artifact.push(host(net), "pack/code:v1", manifest, blobs | {code["digest"]: b"not looked into"}).ok
    files = hub.HfApi(endpoint=net.repository_url, token=False).list_repo_files("pack/code")
    assert sorted(files) == ["model.gguf", "src.tar.gz"]


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../b.gguf", "a\\b", "x" * 300, ""])
def test_a_path_that_leads_elsewhere_is_refused(net, weights, path):
    answer = artifact.push(host(net), "pack/hostile:v1", *artifact.modelpack({path: weights}))
    assert answer.status_code == 400, answer.text
    assert not [m for m in net.json("models")["models"] if m["name"] == "pack/hostile"]


def test_what_mdn_pushes_is_modelpack(net, weights, folder):
    (folder / "own.gguf").write_bytes(weights)
    net.mdn("push", folder / "own.gguf", "pack/own:v1", "--license", "MIT", "--repository", net.repository_url, "--quiet")
    manifest = httpx.get(f"{net.repository_url}/v2/pack/own/manifests/v1").json()
    assert manifest["artifactType"] == artifact.MODELPACK + "manifest.v1+json"
    assert manifest["config"]["mediaType"] == artifact.MODELPACK + "config.v1+json"
    layer = manifest["layers"][0]
    assert layer["mediaType"] == artifact.MODELPACK + "weight.v1.raw"
    assert layer["annotations"]["org.cncf.model.filepath"] == "own.gguf"
    assert layer["digest"] == "sha256:" + hashlib.sha256(weights).hexdigest()
    config = json.loads(httpx.get(f"{net.repository_url}/v2/pack/own/blobs/{manifest['config']['digest']}").content)
    assert config["descriptor"]["name"] == "pack/own" and config["descriptor"]["licenses"] == ["MIT"]
    assert config["config"]["format"] == "gguf" and config["modelfs"]["diffIds"] == [layer["digest"]]
