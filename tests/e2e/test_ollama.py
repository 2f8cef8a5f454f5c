# SPDX-License-Identifier: Apache-2.0
"""The Ollama door, through Ollama's own pull and push code; its protocol's traps by hand; and one model at all doors."""
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import huggingface_hub as hub
import oras.client
import pytest

import artifact
import ollama_registry as ollama
from network import eventually, tiny_model

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "1M",
          "file_type": "F32", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    try:
        return ollama.build(tmp_path_factory.mktemp("ollama"))
    except ollama.Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
def user(client, folder):
    return ollama.Ollama(client, folder)


@pytest.fixture
def sent(models):
    """A model of this test's own, as bytes."""
    def make(seed, **shape):
        return Path(tiny_model(models, f"ollama-{seed}", seed=seed, **shape)).read_bytes()
    return make


def host(net):
    return net.repository.config["repository_listen"]


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest_of(net, name, tag="latest"):
    return httpx.get(f"{net.repository_url}/v2/{name}/manifests/{tag}", headers={"accept": DOCKER})


def layers_of(manifest):
    return [(item["mediaType"].removeprefix(ollama.LAYER), item["digest"]) for item in manifest["layers"]]


# ---- pull --------------------------------------------------------------------------------------------


def test_ollama_pulls_what_mdn_pushed(net, tiny, user):
    name = f"{net.repository_url}/library/tiny"
    manifest = user.pull(name)
    assert layers_of(manifest) == [("model", sha256(Path(tiny).read_bytes()))]
    assert user.blob(manifest["layers"][0]["digest"]) == Path(tiny).read_bytes()
    config = json.loads(user.blob(manifest["config"]["digest"]))
    assert config["model_format"] == "gguf" and config["model_family"] == "llama" and config["file_type"] == "F32"
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    again = manifest_of(net, "tiny")
    assert manifest_of(net, "library/tiny").content == again.content, "the same every time"
    url = f"{net.repository_url}/v2/tiny/blobs/{again.json()['config']['digest']}"
    whole, size = httpx.get(url), again.json()["config"]["size"]
    assert json.loads(whole.content) == config and int(httpx.head(url).headers["content-length"]) == size
    part = httpx.get(net.repository_url + whole.headers["location"], headers={"range": "bytes=2-9"})
    assert part.status_code == 206 and part.content == whole.content[2:10]
    assert part.headers["content-range"] == f"bytes 2-9/{size}"
    assert httpx.get(url, headers={"range": f"bytes={size}-"}).status_code == 416
    assert httpx.get(url.replace("/tiny/", "/team/")).status_code == 404


def test_template_system_params_and_licence_go_as_layers_and_nothing_is_invented(net, user, sent):
    files = {"small.gguf": sent(31), "template": b"{{ .Prompt }}", "system": b"Be brief.",
             "params": b'{"temperature":0.5}', "LICENSE": b"Apache License", "README.md": b"# Small\n"}
    artifact.push_files(host(net), "team/small:v1", files)
    manifest = user.pull(f"{net.repository_url}/team/small:v1")
    layers = dict(layers_of(manifest))
    assert layers == {"model": sha256(files["small.gguf"]), "template": sha256(b"{{ .Prompt }}"),
                      "system": sha256(b"Be brief."), "params": sha256(b'{"temperature":0.5}'),
                      "license": sha256(b"Apache License")}
    assert manifest["layers"][0]["mediaType"] == ollama.LAYER + "model"
    assert all(user.blob(digest) for digest in layers.values())


def test_a_tag_may_name_one_of_several_models(net, user, sent):
    files = {"m-q4_k_m.gguf": sent(32), "m-Q8_0.gguf": sent(33), "mmproj-m.gguf": sent(34)}
    artifact.push_files(host(net), "team/many:v1", files)
    for tag, name in (("Q4_K_M", "m-q4_k_m.gguf"), ("q8_0", "m-Q8_0.gguf")):
        layers = layers_of(user.pull(f"{net.repository_url}/team/many:{tag}"))
        assert layers == [("model", sha256(files[name])), ("projector", sha256(files["mmproj-m.gguf"]))]
    done = user.run("pull", f"{net.repository_url}/team/many:v1")
    assert done.returncode and "2 models" in done.stderr


def test_what_ollama_cannot_load_is_refused_in_words(net, user):
    artifact.push_files(host(net), "team/notgguf:v1", {"readme.md": b"# nothing", "weights.bin": b"x" * 100})
    done = user.run("pull", f"{net.repository_url}/team/notgguf:v1")
    assert done.returncode and "GGUF" in done.stderr
    assert "file does not exist" in user.run("pull", f"{net.repository_url}/team/absent:v1").stderr


def test_a_pull_goes_on_after_it_was_cut(net, user, sent):
    """Parts that Ollama noted down before are not asked for again."""
    data = sent(35, embedding=256, ff=512)
    artifact.push_files(host(net), "team/cut:v1", {"cut.gguf": data})
    digest = sha256(data)
    partial = user.models / "blobs" / (digest.replace(":", "-") + "-partial")
    partial.parent.mkdir(parents=True)
    half = len(data) // 2
    partial.write_bytes(data[:half] + bytes(len(data) - half))
    Path(f"{partial}-0").write_text(json.dumps({"N": 0, "Offset": 0, "Size": len(data), "Completed": half}))
    user.pull(f"{net.repository_url}/team/cut:v1")
    assert user.blob(digest) == data


# ---- the traps, by hand ------------------------------------------------------------------------------


def test_the_location_of_a_blob_gives_ranges_without_credentials(make_network, tiny):
    net = make_network(edges={}, repository={"repository_access": "key"})
    net.mdn("push", tiny, "tiny")
    key, data = net.json("key", "new", "reader")["key"], Path(tiny).read_bytes()
    url, login = f"/v2/library/tiny/blobs/{sha256(data)}", {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=net.repository_url, timeout=10) as http:
        assert http.get(url).status_code == 401
        head = eventually(lambda: (a := http.head(url, headers=login)).status_code == 200 and a)
        assert int(head.headers["content-length"]) == len(data) and "location" not in head.headers
        whole = http.get(url, headers=login)
        assert whole.status_code == 200 and whole.content == data
        part = http.get(url, headers=login | {"range": "bytes=0-9"})
        assert part.status_code == 206 and "location" not in part.headers
        at = whole.headers["location"]
        ranged = http.get(at, headers={"range": "bytes=1000-1999"})
        assert ranged.status_code == 206 and ranged.content == data[1000:2000]

        other = "sha256:" + "0" * 64
        for bad in (at.replace(sha256(data), other), at.replace("/tiny/", "/tinz/"), at[:-1] + "g",
                    at.replace("until=", "until=9"), at.split("&")[0], at.replace("signature=", "signature=&x=")):
            assert http.get(bad).status_code == 401, bad
        assert http.delete(at).status_code == 401 and http.get(at.replace("/blobs/", "/manifests/")).status_code == 401
        net.repository.stop()
        net.repository.start()
        assert eventually(lambda: http.get(at).status_code == 200), "the secret outlives a restart"
    secret = net.repository.folder / "repository.secret"
    assert secret.stat().st_mode & 0o777 == 0o600 and len(secret.read_bytes()) == 32


def signed_url(user, url):
    """Authorization for a GET of url, with OpenSSH and OpenSSL in place of Ollama."""
    pem = user.home / "key.pem"
    seed = openssh_seed(user.key.read_text())
    der = bytes.fromhex("302e020100300506032b657004220420") + seed
    frame = "-----%s PRIVATE KEY-----\n"
    pem.write_text(frame % "BEGIN" + base64.b64encode(der).decode() + "\n" + frame % "END")
    text = "GET," + url + "," + base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    (user.home / "text").write_text(text)
    signature = subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", pem, "-in", user.home / "text"],
                               check=True, capture_output=True).stdout
    return user.public_key.split()[1] + ":" + base64.b64encode(signature).decode()


def openssh_seed(text):
    raw = base64.b64decode("".join(text.split("\n")[1:-2]))
    at = raw.rindex(b"\x00\x00\x00\x40")
    return raw[at + 4:at + 36]


@pytest.mark.skipif(not (shutil.which("ssh-keygen") and shutil.which("openssl")), reason="no ssh-keygen or openssl")
def test_a_login_is_a_signature_of_now_by_a_known_key_for_this_address(make_network, tiny, folder):
    known, stranger = ollama.Ollama(None, folder / "a"), ollama.Ollama(None, folder / "b")
    net = make_network(edges={}, repository={"repository_access": "key", "ollama_keys": [known.public_key]})
    net.mdn("push", tiny, "tiny")
    at = f"{net.repository_url}/v2/library/tiny/manifests/latest"
    agent = {"user-agent": "ollama/0.17.4 (amd64 linux) Go/go1.26"}
    asked = httpx.get(at, headers=agent | {"accept": DOCKER})
    assert asked.status_code == 401
    challenge = asked.headers["www-authenticate"]
    realm = challenge.split('realm="')[1].split('"')[0]
    assert challenge.startswith("Bearer ") and realm.startswith(net.repository_url + "/")
    now = int(time.time())

    def login(user, ts=now, asked_as=None, **headers):
        url = f"{realm}?nonce=abc&scope=models&service=mdn&ts={ts}"
        return httpx.get(url, headers={"authorization": signed_url(user, asked_as or url)} | headers)
    for refused in (login(stranger), login(known, ts=now - 3600), login(known, asked_as=realm),
                    login(known, asked_as=f"http://evil.example/t?ts={now}"), httpx.get(realm + f"?ts={now}"),
                    login(known, authorization="AAAA:BBBB"), login(known, authorization="x" * 5000)):
        assert refused.status_code in (401, 403), refused.text
        assert "token" not in refused.json() and refused.json()["errors"][0]["message"]
    other_name = login(known, asked_as=f"http://evil.example/mdn/v1/ollama/token?nonce=abc&scope=models&service=mdn&"
                                       f"ts={now}", host="evil.example")
    assert other_name.status_code == 403, "a signature meant for another registry"

    token = login(known).json()["token"]
    good = {"authorization": f"Bearer {token}", "accept": DOCKER}
    assert httpx.get(at, headers=good).status_code == 200
    bad = token[:-1] + ("0" if token[-1] != "0" else "1")
    assert httpx.get(at, headers=good | {"authorization": f"Bearer {bad}"}).status_code == 401
    kind, tenant, until, mac = token.split("-")
    assert len(tenant) == 12
    later = f"{kind}-{tenant}-{int(until) + 9999}-{mac}"
    assert httpx.get(at, headers=good | {"authorization": f"Bearer {later}"}).status_code == 401
    net.repository.write_config(ollama_keys=[stranger.public_key])
    net.repository.signal(signal.SIGHUP)
    eventually(lambda: httpx.get(at, headers=good).status_code == 401, what="a key that is off the list")
    assert login(stranger).json()["token"]
    net.repository.write_config(ollama_keys=["ssh-rsa AAAA"])
    net.repository.signal(signal.SIGHUP)
    eventually(lambda: "ollama_keys, number 1" in net.repository.log(), what="a bad line is named")
    assert login(stranger).json()["token"], "and changes nothing"


def test_ollama_logs_in_by_itself(make_network, tiny, user, folder, client):
    net = make_network(edges={}, repository={"repository_access": "key", "ollama_keys": [user.public_key]})
    net.mdn("push", tiny, "tiny")
    name = f"{net.repository_url}/library/tiny"
    manifest = user.pull(name)
    assert user.blob(manifest["layers"][0]["digest"]) == Path(tiny).read_bytes()
    user.create(f"{net.repository_url}/me/mine", [("model", Path(tiny).read_bytes())], CONFIG)
    user.push(f"{net.repository_url}/me/mine")
    stranger = ollama.Ollama(client, folder / "stranger")
    done = stranger.run("pull", name)
    assert done.returncode and "ollama_keys" in done.stderr


# ---- push --------------------------------------------------------------------------------------------


def test_what_ollama_pushes_is_a_version_and_comes_back_byte_for_byte(net, user, sent, client, folder):
    data = sent(41)
    name = f"{net.repository_url}/me/assistant:v2"
    layers = [("model", data), ("template", b"{{ .System }} {{ .Prompt }}"), ("system", b"You help."),
              ("params", b'{"stop":["<|im_end|>"]}'), ("license", b"first"), ("license", b"second")]
    made = user.create(name, layers, CONFIG)
    user.push(name)
    user.push(name)  # again: all is there already

    version = [m for m in net.json("models")["models"] if m["name"] == "me/assistant"][0]
    assert version["architecture"] == "llama" and version["parameters"] > 0
    other = ollama.Ollama(client, folder / "other")
    assert other.pull(name) == made
    got = hub.snapshot_download("me/assistant", revision="v2", local_dir=folder / "hf", endpoint=net.repository_url,
                                token=False)
    files = {p.name: p.read_bytes() for p in Path(got).iterdir() if p.is_file()}
    assert files == {"model.gguf": data, "template": layers[1][1], "system": layers[2][1], "params": layers[3][1],
                     "LICENSE": b"first", "LICENSE-2": b"second"}


def test_an_upload_in_parts_as_ollama_sends_it(net):
    data = os.urandom(300_000)
    with httpx.Client(base_url=net.repository_url, timeout=10) as http:
        begun = http.post("/v2/library/parts/blobs/uploads/")
        at = begun.headers.get("docker-upload-location") or begun.headers["location"]
        for start in range(0, len(data), 100_000):
            sent = http.patch(at, content=data[start:start + 100_000],
                              headers={"content-range": f"{start}-{start + 99_999}", "x-redirect-uploads": "1"})
            assert sent.status_code == 202, "no redirect: the part is taken here"
            at = sent.headers.get("docker-upload-location") or sent.headers["location"]
        done = http.put(at, params={"digest": sha256(data), "etag": "0123456789abcdef-3"})
        assert done.status_code == 201
        mounted = http.post("/v2/me/parts/blobs/uploads/", params={"mount": sha256(data), "from": "library/parts"})
        assert mounted.status_code == 201 and http.get(f"/v2/me/parts/blobs/{sha256(data)}").content == data


# ---- one store behind all doors ----------------------------------------------------------------------


def test_a_model_pushed_by_any_door_appears_in_all_and_is_stored_once(make_network, client, sent, folder, monkeypatch):
    net = make_network(edges={})
    data, url = sent(51), net.repository_url
    (folder / "model.gguf").write_bytes(data)
    user = ollama.Ollama(client, folder / "user")
    monkeypatch.chdir(folder)

    net.mdn("push", folder / "model.gguf", "shared/by-mdn:v1", "--repository", url, "--quiet")
    oras.client.OrasClient(hostname=host(net), insecure=True).push(
        f"{host(net)}/shared/by-oras:v1", files=["model.gguf:application/octet-stream"], quiet=True)
    artifact.push_files(host(net), "shared/by-modelpack:v1", {"model.gguf": data})
    user.create(f"{url}/shared/by-ollama:v1", [("model", data)], CONFIG)
    user.push(f"{url}/shared/by-ollama:v1")

    names = [f"shared/by-{who}" for who in ("mdn", "oras", "modelpack", "ollama")]
    models = {m["name"]: m for m in net.json("models")["models"]}
    assert {m.id for m in hub.HfApi(endpoint=url, token=False).list_models(author="shared")} == set(names)
    reader = ollama.Ollama(client, folder / "reader")
    for number, name in enumerate(names):
        assert models[name]["files"][0]["digest"] == sha256(data)
        path = hub.hf_hub_download(name, "model.gguf", revision="v1", local_dir=folder / f"hf-{number}",
                                   endpoint=url, token=False)
        assert Path(path).read_bytes() == data
        assert dict(layers_of(reader.pull(f"{url}/{name}:v1")))["model"] == sha256(data)
        pulled = oras.client.OrasClient(hostname=host(net), insecure=True).pull(
            f"{host(net)}/{name}:v1", outdir=str(folder / f"oras-{number}"))
        assert name.endswith("ollama") or Path(pulled[0]).read_bytes() == data
        net.mdn("pull", f"{name}:v1", "-o", folder / f"mdn-{number}", "--repository", url)
        assert (folder / f"mdn-{number}").read_bytes() == data
    kept = artifact.blob_files(net.repository.folder / "blobs")
    assert sum(p.stat().st_size for p in kept.values()) < 1.5 * len(data), "the weights are there once"
