# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face door, through unmodified clients: huggingface_hub, its `hf` command, llama-server -hf."""
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import httpx
import huggingface_hub as hub
import pytest
from huggingface_hub import errors

import artifact
from network import eventually, free_port


def safetensors(seed, floats=2000):
    data = b"".join(struct.pack("<f", (i * seed) % 97 / 97) for i in range(floats))
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [floats // 10, 10],
                                                       "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


FILES = {
    "config.json": json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "model.safetensors": safetensors(3),
    "onnx/model.onnx": b"not really",
    "onnx/deep/extra file+é.txt": "spaces, plus and é".encode(),
}


@pytest.fixture(scope="module")
def repository(net):
    """team/words with two revisions, and tiny (GGUF), which `net` has."""
    host = net.repository.config["repository_listen"]
    artifact.push_files(host, "team/words:v1", FILES)
    artifact.push_files(host, "team/words:v2", FILES | {"model.safetensors": safetensors(5), "new.txt": b"new in v2"})
    return net.repository_url


@pytest.fixture
def api(repository):
    return hub.HfApi(endpoint=repository, token=False)


def read_tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*")
            if p.is_file() and ".cache" not in p.parts}


# ---- downloads ---------------------------------------------------------------------------------------


def test_snapshot_download_brings_every_file_of_a_revision(api, folder):
    got = hub.snapshot_download("team/words", revision="v1", cache_dir=folder, endpoint=api.endpoint)
    assert read_tree(got) == FILES
    sha = Path(got).name
    assert len(sha) == 40 and sha == api.model_info("team/words", revision="v1").sha
    names = {p.name for p in (folder / "models--team--words/blobs").iterdir()}
    assert names == {hashlib.sha256(data).hexdigest() for data in FILES.values()}


def test_main_is_the_newest_version_and_a_commit_stays_what_it_was(api, folder):
    newest = hub.snapshot_download("team/words", local_dir=folder / "main", endpoint=api.endpoint)
    assert (Path(newest) / "new.txt").read_bytes() == b"new in v2"
    sha = api.model_info("team/words", revision="v1").sha
    old = hub.snapshot_download("team/words", revision=sha, local_dir=folder / "old", endpoint=api.endpoint)
    assert read_tree(old) == FILES


def test_allow_patterns_and_names_in_upper_case(api, folder):
    got = hub.snapshot_download("Team/Words", revision="v1", local_dir=folder, endpoint=api.endpoint,
                                allow_patterns=["*.json", "onnx/*"], ignore_patterns="*.onnx")
    assert set(read_tree(got)) == {"config.json", "tokenizer.json", "onnx/deep/extra file+é.txt"}


def test_hf_hub_download_goes_on_from_ranges_and_knows_what_is_missing(api, folder):
    path = hub.hf_hub_download("team/words", "onnx/deep/extra file+é.txt", revision="v1", cache_dir=folder,
                               endpoint=api.endpoint)
    assert Path(path).read_bytes() == FILES["onnx/deep/extra file+é.txt"]
    assert api.file_exists("team/words", "config.json") and not api.file_exists("team/words", "absent.json")
    assert not api.repo_exists("team/absent") and not api.revision_exists("team/words", "v9")
    with pytest.raises(errors.EntryNotFoundError):
        hub.hf_hub_download("team/words", "absent.json", cache_dir=folder, endpoint=api.endpoint)
    with pytest.raises(errors.RevisionNotFoundError):
        hub.snapshot_download("team/words", revision="v9", cache_dir=folder, endpoint=api.endpoint)
    with pytest.raises(errors.RepositoryNotFoundError):
        hub.snapshot_download("team/absent", cache_dir=folder, endpoint=api.endpoint)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.dataset_info("team/words")


def test_the_command_hf_with_nothing_but_hf_endpoint(repository, tiny, folder):
    env = os.environ | {"HF_ENDPOINT": repository, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_UPDATE_CHECK": "1",
                        "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [Path(sys.executable).parent / "hf", "download"]
    for args, files in ((["team/words", "--revision", "v1", "--include", "*.json"], ["config.json", "tokenizer.json"]),
                        (["library/tiny"], ["tiny.gguf"])):
        out = folder / args[0].replace("/", "-")
        done = subprocess.run([*command, *args, "--local-dir", out], env=env, capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert sorted(read_tree(out)) == files
    assert (folder / "library-tiny/tiny.gguf").read_bytes() == Path(tiny).read_bytes()


def test_llama_server_takes_a_model_by_name(repository, llama_server, folder):
    port = free_port()
    env = os.environ | {"HF_ENDPOINT": repository, "HF_HOME": str(folder), "LLAMA_CACHE": str(folder / "cache")}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([llama_server, "-hf", "library/tiny", "--host", "127.0.0.1", "--port", str(port),
                                   "-c", "256", "--no-warmup"], env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(url + "/health").status_code == 200, 30, "llama-server is up")
        answer = httpx.post(url + "/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=20)
        assert answer.status_code == 200
    except AssertionError as error:
        raise AssertionError((folder / "log").read_text()[-3000:]) from error
    finally:
        server.kill()
        server.wait(10)


def test_safetensors_headers_are_read_by_range(api):
    metadata = api.get_safetensors_metadata("team/words", revision="v1")
    assert metadata.parameter_count == {"F32": 2000} and not metadata.sharded
    assert metadata.files_metadata["model.safetensors"].tensors["model.embed_tokens.weight"].shape == [200, 10]


# ---- what there is to know ---------------------------------------------------------------------------


def test_model_info_refs_commits_and_lists(api, tiny):
    info = api.model_info("team/words", files_metadata=True)
    assert info.id == "team/words" and info.author == "team" and "safetensors" in info.tags
    files = {s.rfilename: s for s in info.siblings}
    assert files["config.json"].lfs.sha256 == hashlib.sha256(FILES["config.json"]).hexdigest()
    assert files["config.json"].size == len(FILES["config.json"])
    gguf = api.model_info("tiny")
    assert gguf.gguf["architecture"] == "llama" and gguf.gguf["total"] > 0 and gguf.last_modified

    refs = api.list_repo_refs("team/words")
    assert [b.name for b in refs.branches] == ["main"] and [t.name for t in refs.tags] == ["v1", "v2"]
    assert refs.branches[0].target_commit == refs.tags[1].target_commit == info.sha
    assert [c.commit_id for c in api.list_repo_commits("team/words", revision="v1")] == [refs.tags[0].target_commit]

    assert {"tiny", "team/words"} <= {m.id for m in api.list_models()}
    assert [m.id for m in api.list_models(search="WORD")] == ["team/words"]
    assert "team/words" in [m.id for m in api.list_models(author="team")]


def test_the_list_in_pages(api, repository):
    pages, url = [], f"{repository}/api/models?limit=1"
    while url:
        page = httpx.get(url)
        assert len(page.json()) == 1
        pages += [m["id"] for m in page.json()]
        url = page.links.get("next", {}).get("url")
    assert pages == sorted(pages) == [m.id for m in api.list_models()]


def test_the_tree_by_folder_by_pages_and_by_paths(api, repository):
    def top(**more):
        return sorted(e.path for e in api.list_repo_tree("team/words", revision="v1", **more))
    assert top() == sorted({p.split("/")[0] for p in FILES})
    assert top(recursive=True) == sorted([*FILES, "onnx", "onnx/deep"])
    assert top(path_in_repo="onnx") == ["onnx/deep", "onnx/model.onnx"]
    with pytest.raises(errors.EntryNotFoundError):
        top(path_in_repo="absent")

    pages, url = [], f"{repository}/api/models/team/words/tree/v1?recursive=true&limit=3"
    while url:
        page = httpx.get(url)
        pages.append([e["path"] for e in page.json()])
        url = page.links.get("next", {}).get("url")
    assert [len(p) for p in pages] == [3, 3, 2]
    assert sorted(sum(pages, [])) == top(recursive=True)

    some = api.get_paths_info("team/words", ["onnx/deep/extra file+é.txt", "onnx", "absent"], revision="v1")
    assert sorted(e.path for e in some) == ["onnx", "onnx/deep/extra file+é.txt"]


def test_headers_are_those_of_plain_files(repository):
    data = FILES["model.safetensors"]
    url = f"{repository}/team/words/resolve/v1/model.safetensors"
    head = httpx.head(url, headers={"accept-encoding": "gzip, br"})
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    assert head.headers["etag"] == head.headers["x-linked-etag"] == etag
    assert int(head.headers["content-length"]) == int(head.headers["x-linked-size"]) == len(data)
    assert len(head.headers["x-repo-commit"]) == 40
    assert "content-encoding" not in head.headers and not [h for h in head.headers if "xet" in h.lower()]
    part = httpx.get(url, headers={"range": "bytes=100-"})
    assert part.status_code == 206 and part.content == data[100:] and part.headers["etag"] == etag
    assert httpx.get(url, headers={"range": f"bytes={len(data)}-"}).status_code == 416
    for path in ("/api/models/team/words", "/api/models/team/words/tree/main"):
        assert not [h for h in httpx.get(repository + path).headers if "xet" in h.lower()]


@pytest.mark.parametrize("path", [
    "/api/models/..%2F..%2Fetc", "/api/models/a/b/c/d", "/api/models/team/words/tree", "/team/words/resolve/v1",
    "/team/words/resolve/v1/..%2f..%2fcatalog.db", "/team/words/resolve/v1/%00", "/team/words/resolve/refs%2fpr%2f1/x",
    "/team/words/resolve/" + "a" * 40 + "/config.json", "/x/resolve/main/" + "a" * 4000, "/api/models/%ff%fe",
    "/api/models/team/words/tree/v1?recursive=true&limit=0&cursor=99999999999999999999999"])
def test_odd_paths_are_answered_in_words(repository, path):
    answer = httpx.get(repository + path)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code == 404:
        assert "error" in answer.json() or "errors" in answer.json()


# ---- who may ------------------------------------------------------------------------------------------


def test_private_models_need_a_key_of_the_network(make_network, tiny, folder):
    net = make_network(edges={}, repository={"repository_private": ["secret/*"]})
    net.mdn("push", tiny, "secret/model:v1")
    net.mdn("push", tiny, "open/model:v1")
    key = net.json("key", "new", "reader")["key"]
    url = net.repository_url
    assert hub.snapshot_download("open/model", endpoint=url, token=False, cache_dir=folder / "a")
    with pytest.raises(errors.RepositoryNotFoundError):
        hub.snapshot_download("secret/model", endpoint=url, token=False, cache_dir=folder / "b")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        hub.snapshot_download("secret/model", endpoint=url, token="hf_wrong", cache_dir=folder / "c")
    got = eventually(lambda: hub.snapshot_download("secret/model", endpoint=url, token=key, cache_dir=folder / "d"))
    assert read_tree(got) == {"tiny.gguf": Path(tiny).read_bytes()}
    anybody, known = hub.HfApi(endpoint=url, token=False), hub.HfApi(endpoint=url, token=key)
    assert [m.id for m in anybody.list_models()] == ["open/model"]
    assert [m.id for m in known.list_models()] == ["open/model", "secret/model"]
    assert known.whoami()["name"]
    for check in (lambda: anybody.list_repo_files("secret/model"), lambda: anybody.model_info("secret/absent")):
        with pytest.raises(errors.RepositoryNotFoundError):
            check()
