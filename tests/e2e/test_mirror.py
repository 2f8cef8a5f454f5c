# SPDX-License-Identifier: Apache-2.0
"""Models taken from elsewhere: by order (import) and because a client asks for them (mirrors of all three doors).

The world outside is another repository of ours on loopback, behind a server that counts, is slow, or is gone.
"""
import hashlib
import json
import os
import signal
import threading
from pathlib import Path

import huggingface_hub as hub
import httpx
import pytest

import artifact
from middle import Middle
from network import CommandFailed, eventually, run_mdn

FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
    "README.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
    "deep/notes.txt": b"notes",
}
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def weights(big):
    return Path(big).read_bytes()


@pytest.fixture
def world(net, weights):
    """The place that models come from, seen through a counting server."""
    host = net.repository.config["repository_listen"]
    artifact.push_files(host, "team/words:v1", FILES | {"words.gguf": weights})
    middle = Middle(host)
    yield middle
    middle.close()


@pytest.fixture
def mirror(make_network, world):
    """A network of a repository alone, that may ask the world, and asks it for what its own clients want."""
    return make_network(edges={}, repository={
        "outside_hosts": world.host, "mirror_hf": world.url, "mirror_ollama": world.url, "mirror_oci": world.url,
        "mirror_fresh": "1s"})


def ask_import(network, **body):
    """The events of an import."""
    events = []
    url = network.repository.node_url + "/mdn/v1/repository/import"
    with network.http().stream("POST", url, json=body, timeout=60) as answer:
        if answer.status_code != 200:
            return answer.status_code, json.loads(answer.read())
        event = None
        for line in answer.iter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: "):
                events.append((event, json.loads(line[6:])))
    return events[-1]


# ---- by order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source,name", [
    ("hf:team/words@v1", "team/words:v1"),
    ("oci:%s/team/words:v1", "team/words:v1"),
    ("ollama:%s/team/words:v1", "team/words:v1"),
])
def test_an_import_brings_a_whole_version(make_network, world, weights, source, name):
    network = make_network(edges={}, repository={"outside_hosts": world.host, "mirror_hf": world.url})
    source = source % world.url if "%s" in source else source
    event, result = ask_import(network, **{"from": source})
    assert event == "result", result
    assert f"{result['name']}:{result['tag']}" == name
    version = eventually(lambda: network.model(name), 10)
    assert version["architecture"] == "llama" and version["parameters"] > 0
    gguf = next(f for f in version["files"] if f["path"].endswith(".gguf"))
    assert gguf["digest"] == sha256(weights)
    assert len(world.paths("words.gguf") + world.paths(sha256(weights))) <= 2  # whole or in two runs, once
    assert world.body_bytes < 1.2 * len(weights)
    world.reset()
    event, result = ask_import(network, **{"from": source, "to": "again:v1"})  # what is here is not fetched again
    assert event == "result", result
    assert world.body_bytes < len(weights) / 10


def test_an_import_takes_what_is_chosen(make_network, world):
    network = make_network(edges={}, repository={"outside_hosts": world.host, "mirror_hf": world.url})
    event, result = ask_import(network, **{"from": "hf:team/words@v1", "to": "chosen:x", "include": "*.gguf, README*"})
    assert event == "result", result
    assert {f["path"] for f in eventually(lambda: network.model("chosen:x"), 10)["files"]} == {"words.gguf", "README.md"}


def test_mdn_import_shows_its_way_and_takes_files_by_url(make_network, world, weights):
    network = make_network(edges={}, repository={"outside_hosts": world.host, "mirror_hf": world.url})
    assert "words:v2 is in the repository" in network.mdn("import", "hf:team/words@v1", "words:v2")
    url = world.url + "/team/words/resolve/v1/words.gguf"
    got = network.json("import", url, "alone:x", "--sha256", sha256(weights)[7:])
    assert got == {"model": "alone:x"}
    assert eventually(lambda: network.model("alone:x"), 10)["files"][0]["path"] == "words.gguf"


def test_what_cannot_be_imported_is_refused_in_words(mirror, world):
    code, answer = ask_import(mirror, **{"from": "oci:http://169.254.169.254/latest/meta-data:x"})
    assert code == 403 and "not on the list" in answer["error"]["message"]
    code, answer = ask_import(mirror, **{"from": "ftp:thing"})
    assert code == 400
    event, answer = ask_import(mirror, **{"from": "hf:team/missing"})
    assert event == "error" and answer["code"] == "not_found"
    event, answer = ask_import(mirror, **{"from": f"oci:{world.url}/team/words:v9"})
    assert event == "error" and answer["code"] == "not_found"


def test_an_import_goes_on_after_kill_9_and_after_the_line_broke(make_network, net, weights):
    big = os.urandom(1 << 20) * 40  # ten pieces
    host = net.repository.config["repository_listen"]
    artifact.push_files(host, "team/heavy:v1", {"config.json": FILES["config.json"], "heavy.bin": big})
    world = Middle(host)
    world.bytes_per_s = 5 << 20
    network = make_network(edges={}, repository={"outside_hosts": world.host, "mirror_hf": world.url})

    def run():
        try:
            outcome.append(ask_import(network, **{"from": "hf:team/heavy@v1"}))
        except httpx.HTTPError as error:
            outcome.append(error)

    outcome = []
    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: world.body_bytes > 26 << 20, 30)
    network.repository.kill()
    thread.join(10)
    network.repository.start()
    eventually(lambda: network.http().get(network.repository.node_url + "/mdn/v1/repository/quota"), 20)
    world.reset()
    world.bytes_per_s = 0
    world.away = True
    threading.Timer(1, lambda: setattr(world, "away", False)).start()
    event, result = ask_import(network, **{"from": "oci:%s/team/heavy:v1" % world.url, "to": "team/heavy:v1"})
    if event == "error":  # the manifest was asked for while the world was away
        eventually(lambda: not world.away, 5)
        event, result = ask_import(network, **{"from": "hf:team/heavy@v1"})
    assert event == "result", result
    assert world.body_bytes < len(big) * 0.8  # what was there before the kill was not fetched again
    world.close()


# ---- because a client asks ------------------------------------------------------------------------------------


def test_hugging_face_clients_get_what_is_not_here(mirror, world, weights, folder):
    got = hub.snapshot_download("team/words", revision="v1", local_dir=folder / "a", endpoint=mirror.repository_url,
                                token=False)
    assert (Path(got) / "words.gguf").read_bytes() == weights
    assert (Path(got) / "deep/notes.txt").read_bytes() == b"notes"
    assert world.body_bytes < 1.2 * len(weights)
    assert eventually(lambda: mirror.model("team/words:v1"), 10)["architecture"] == "llama"  # it can be placed now
    leaked = [h for _, _, headers in world.requests for h in headers.values() if "hf_hub" in h or "python" in h]
    assert not leaked  # nobody out there learns who asks in here
    world.reset()
    world.away = True  # and now without the world
    got = hub.snapshot_download("team/words", revision="v1", local_dir=folder / "b", endpoint=mirror.repository_url,
                                token=False)
    assert (Path(got) / "words.gguf").read_bytes() == weights


def test_oci_and_ollama_clients_get_what_is_not_here(mirror, world, weights):
    base = mirror.repository_url
    answer = httpx.get(base + "/v2/team/words/manifests/v1",
                       headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    there = httpx.get(world.url + "/v2/team/words/manifests/v1",
                      headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    assert answer.status_code == 200 and answer.content == there.content
    answer = httpx.get(f"{base}/v2/team/words/blobs/{sha256(weights)}", timeout=30)
    assert answer.content == weights
    answer = httpx.get(base + "/v2/library/tiny/manifests/latest", headers={"Accept": DOCKER})
    assert answer.status_code == 200, answer.text
    layer = next(x for x in answer.json()["layers"] if x["mediaType"].endswith("image.model"))
    blob = httpx.get(f"{base}/v2/library/tiny/blobs/{layer['digest']}", timeout=30)
    assert sha256(blob.content) == layer["digest"]
    assert httpx.get(base + "/v2/team/nothing/manifests/v1").status_code == 404


def test_many_who_ask_at_once_are_one_request_outside(mirror, world, weights):
    world.bytes_per_s = 50 << 20
    url = f"{mirror.repository_url}/team/words/resolve/v1/words.gguf"
    ranges = [None, (0, 99), (len(weights) - 100, len(weights) - 1), (5_000_000, 6_000_000)] * 3
    results = [None] * len(ranges)

    def get(i):
        part = ranges[i]
        headers = {"Range": f"bytes={part[0]}-{part[1]}"} if part else {}
        results[i] = httpx.get(url, headers=headers, timeout=60)

    threads = [threading.Thread(target=get, args=(i,)) for i in range(len(ranges))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for part, answer in zip(ranges, results):
        want = weights[part[0]:part[1] + 1] if part else weights
        assert answer.status_code == (206 if part else 200) and answer.content == want
    assert world.body_bytes < 1.2 * len(weights)
    version = eventually(lambda: httpx.get(mirror.repository_url + "/api/models/team/words").json(), 10)
    assert version["sha"]


def test_a_place_without_ranges_and_one_that_wants_a_token(mirror, world, weights):
    world.ranges = False
    world.token = "secret"
    answer = httpx.get(f"{mirror.repository_url}/v2/team/words/manifests/v1")
    assert answer.status_code == 200
    answer = httpx.get(f"{mirror.repository_url}/v2/team/words/blobs/{sha256(weights)}", timeout=60)
    assert answer.content == weights
    assert len(world.paths("/token")) <= 2


def test_a_tag_that_moved_there_moves_here_and_wrong_bytes_never_count(mirror, net, world, weights, folder):
    base = mirror.repository_url
    host = net.repository.config["repository_listen"]
    artifact.push_files(host, "team/moves:v1", FILES | {"a.txt": b"old"})
    get = lambda: httpx.get(base + "/team/moves/resolve/v1/a.txt", timeout=20)
    assert get().content == b"old"
    artifact.push_files(host, "team/moves:v1", FILES | {"a.txt": b"new"})
    eventually(lambda: get().content == b"new", 10)
    artifact.push_files(host, "team/moves:v2", FILES | {"big.bin": os.urandom(9 << 20)})
    world.spoil = "big.bin"
    big = lambda: httpx.get(base + "/team/moves/resolve/v2/big.bin", timeout=20)
    with pytest.raises(httpx.RemoteProtocolError):  # never as long as it should be: some clients check only that
        big()
    world.spoil = None
    answer = eventually(big, 10)
    assert answer.status_code == 200 and len(answer.content) == 9 << 20
    mirror.repository.signal(signal.SIGTERM)  # ends cleanly with all of this open
    assert mirror.repository.stop() in (0, None)


def test_models_of_the_same_blobs_are_versions_all(mirror, net, world, weights):
    base = mirror.repository_url
    host = net.repository.config["repository_listen"]
    for name in [*FILES, "words.gguf"]:
        assert httpx.get(f"{base}/team/words/resolve/v1/{name}", timeout=60).status_code == 200
    eventually(lambda: mirror.model("team/words:v1"), 10)
    artifact.push_files(host, "team/twin:v1", FILES | {"words.gguf": weights})
    world.reset()
    assert httpx.get(f"{base}/api/models/team/twin/revision/v1").status_code == 200  # all of its blobs are here already
    assert eventually(lambda: mirror.model("team/twin:v1"), 10)["architecture"] == "llama"
    assert world.body_bytes < len(weights) / 10


def test_a_name_of_our_own_is_not_asked_for_elsewhere(mirror, net, world):
    host = net.repository.config["repository_listen"]
    artifact.push_files(mirror.repository.config["repository_listen"], "team/own:v1", FILES)
    artifact.push_files(host, "team/own:v2", FILES)
    assert httpx.get(f"{mirror.repository_url}/v2/team/own/manifests/v2").status_code == 404
    assert httpx.get(f"{mirror.repository_url}/team/own/resolve/main/config.json").status_code == 200
    assert not world.requests


def test_what_is_mirrored_counts_towards_the_quota(make_network, world, weights):
    size = len(weights) + 100_000
    network = make_network(edges={}, repository={"outside_hosts": world.host, "mirror_oci": world.url,
                                                 "mirror_hf": world.url, "repository_quotas": [f"team={size}"]})
    base = network.repository_url
    assert httpx.get(f"{base}/v2/team/words/manifests/v1").status_code == 200
    assert httpx.get(f"{base}/v2/team/words/blobs/{sha256(weights)}", timeout=60).content == weights
    used = lambda: next(s["used"] for s in network.json("quota")["spaces"] if s["name"] == "team")
    eventually(lambda: used() >= len(weights), 10)
    event, answer = ask_import(network, **{"from": "hf:team/words@v1", "to": "team/more:x"})
    assert event == "result", answer  # the same bytes count once
    artifact.push_files(world.target, "team/other:v1", FILES | {"other.bin": os.urandom(1 << 20)})
    event, answer = ask_import(network, **{"from": "hf:team/other@v1"})
    assert event == "error" and "quota" in answer["message"], answer


def test_blobs_that_nobody_asked_for_yet_are_no_fault(mirror, world, weights):
    assert httpx.get(f"{mirror.repository_url}/v2/team/words/manifests/v1").status_code == 200
    mirror.mdn("gc")
    found = mirror.json("fsck")
    assert found["faults"] == [] and found["elsewhere"] >= 1
    answer = httpx.get(f"{mirror.repository_url}/v2/team/words/blobs/{sha256(weights)}", timeout=60)
    assert answer.content == weights


def test_an_error_has_the_shape_of_the_door(mirror, world):
    world.away = True
    answer = httpx.get(f"{mirror.repository_url}/api/models/team/words/revision/v1", timeout=60)
    assert answer.status_code >= 500 and isinstance(answer.json()["error"], str)
    answer = httpx.get(f"{mirror.repository_url}/v2/team/words/manifests/v1", timeout=60)
    assert answer.status_code >= 500 and answer.json()["errors"][0]["message"]


# ---- signatures ------------------------------------------------------------------------------------------


@pytest.fixture
def signed(net, world, tiny, folder, monkeypatch):
    """team/signed:v1 out there, signed with release.pem; the digest of its manifest."""
    monkeypatch.chdir(folder)
    run_mdn("keygen", "release")
    artifact.push_files(world.target, "team/signed:v1", {"tiny.gguf": Path(tiny).read_bytes(), "README.md": os.urandom(9)})
    net.mdn("sign", "team/signed:v1", "--key", "release.pem", "--repository", net.repository_url)
    answer = httpx.head(f"{net.repository_url}/v2/team/signed/manifests/v1")
    return answer.headers["Docker-Content-Digest"]


def verify(network, model):
    return "as it was signed" in network.mdn("verify", model, "--key", "release.pub.pem", "--repository",
                                             network.repository_url)


@pytest.mark.parametrize("by_tag", [False, True])
def test_signatures_come_along_and_a_node_with_a_policy_loads_it(make_network, net, world, signed, folder, by_tag):
    world.referrers_by_tag = by_tag
    (folder / "policy.yaml").write_text("version: 1\nsigners:\n  - name: release\n    key: release.pub.pem\n"
                                        "rules:\n  - models: ['*']\n    signers: [release]\n")
    network = make_network(edges={"edge-1": "north"}, edge={"trust_policy": str(folder / "policy.yaml")},
                           repository={"outside_hosts": world.host})
    event, result = ask_import(network, **{"from": f"oci:{world.url}/team/signed:v1"})
    assert event == "result", result
    assert len(eventually(lambda: network.model("team/signed:v1"), 10)["signatures"]) == 1
    assert verify(network, "team/signed:v1")
    network.place("team/signed:v1")
    network.wait_model("team/signed:v1")
    found = httpx.get(f"{network.repository_url}/v2/team/signed/referrers/{signed}").json()["manifests"]
    there = httpx.get(f"{net.repository_url}/v2/team/signed/referrers/{signed}").json()["manifests"]
    assert found == there
    assert network.json("fsck")["faults"] == []


def test_a_mirror_has_signatures_too_and_later_ones(mirror, net, world, signed):
    base = mirror.repository_url
    manifest = httpx.get(f"{base}/v2/team/signed/manifests/v1").json()
    for blob in [manifest["config"], *manifest["layers"]]:
        assert httpx.get(f"{base}/v2/team/signed/blobs/{blob['digest']}", timeout=30).status_code == 200
    assert len(eventually(lambda: mirror.model("team/signed:v1"), 10)["signatures"]) == 1
    assert verify(mirror, "team/signed:v1")
    net.mdn("sign", "team/signed:v1", "--key", "release.pem", "--repository", net.repository_url)
    world.reset()

    def two():
        assert httpx.get(f"{base}/v2/team/signed/manifests/v1").status_code == 200
        return len(mirror.model("team/signed:v1")["signatures"]) == 2
    eventually(two, 15, every=0.5)
    assert len([p for p in world.paths("/manifests/sha256:")]) == 1  # the one that was here was not fetched again


def test_a_signature_with_wrong_bytes_is_left_out(make_network, world, signed):
    referrer = httpx.get(f"{world.url}/v2/team/signed/referrers/{signed}").json()["manifests"][0]["digest"]
    bundle = httpx.get(f"{world.url}/v2/team/signed/manifests/{referrer}").json()["layers"][0]["digest"]
    network = make_network(edges={}, repository={"outside_hosts": world.host})
    for what in (referrer, bundle):
        world.spoil = what
        event, result = ask_import(network, **{"from": f"oci:{world.url}/team/signed:v1"})
        assert event == "result", result
        assert not eventually(lambda: network.model("team/signed:v1"), 10).get("signatures")
    with pytest.raises(CommandFailed):
        verify(network, "team/signed:v1")


# ---- who may read what ---------------------------------------------------------------------------------------


def test_a_manifest_from_elsewhere_opens_no_private_blob(make_network, net, world, weights, big):
    """What only a private repository holds is given under another name once its own origin sent it."""
    network = make_network(edges={}, repository={
        "outside_hosts": world.host, "mirror_oci": world.url, "mirror_fresh": "1s", "repository_private": ["secret/*"]})
    network.mdn("push", big, "secret/words:v1")
    base, digest = network.repository_url, sha256(weights)
    artifact.push_files(world.target, "team/thief:v1", FILES | {"words.gguf": weights})
    there = f"{net.repository_url}/v2/team/thief/blobs/{digest}"
    assert httpx.delete(there).status_code == 202  # named there, not had
    assert httpx.get(f"{base}/v2/team/thief/manifests/v1").status_code == 200

    def stolen(url, **headers):
        try:
            answer = httpx.get(base + url, headers=headers, timeout=30)
        except httpx.HTTPError:
            return b""
        return answer.content if answer.status_code in (200, 206) else b""

    urls = [f"/v2/team/thief/blobs/{digest}", "/team/thief/resolve/v1/words.gguf"]
    for url in urls:
        assert not stolen(url) and not stolen(url, Range="bytes=0-99")
    answer = httpx.post(f"{base}/v2/team/more/blobs/uploads/?mount={digest}&from=team/thief")
    assert answer.status_code == 202  # not mounted
    event, answer = ask_import(network, **{"from": f"oci:{world.url}/team/thief:v1"})
    assert event == "error", answer
    with pytest.raises(CommandFailed):
        network.model("team/thief:v1")
    artifact.push_files(world.target, "team/thief:v1", FILES | {"words.gguf": weights})  # now it has it
    assert httpx.get(there).status_code == 200
    world.reset()
    for url in urls:
        assert eventually(lambda: stolen(url), 20) == weights
    assert len(weights) <= world.body_bytes < 1.2 * len(weights)  # whole, and once
    eventually(lambda: network.model("team/thief:v1"), 10)
    world.reset()
    artifact.push_files(world.target, "team/twin2:v1", FILES | {"words.gguf": weights})  # anybody may read it by now
    event, answer = ask_import(network, **{"from": f"oci:{world.url}/team/twin2:v1"})
    assert event == "result" and world.body_bytes < len(weights) / 10
