# SPDX-License-Identifier: Apache-2.0
"""What a repository knows about versions, as an operator uses it: folders, split models, channels, history, labels,
quotas, differences, quantizing."""
import hashlib
import json
import os
import signal
import struct
import subprocess
import threading
import time

import httpx
import pytest

from network import MDN, CommandFailed, eventually, tiny_model

from conftest import shared_network

ALIGNMENT = 32
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


# ---- model files ------------------------------------------------------------------------------------


class Gguf:
    """The parts of a file: raw keys by name, tensors with their bytes."""

    def __init__(self, path):
        self.raw = open(path, "rb").read()
        self.at = 24
        tensors, keys = struct.unpack_from("<QQ", self.raw, 8)
        self.keys = {}
        for _ in range(keys):
            start = self.at
            name = self.text()
            self.skip_value(self.u32())
            self.keys[name] = self.raw[start:self.at]
        infos = []
        for _ in range(tensors):
            name = self.text()
            dims = [self.number("<Q", 8) for _ in range(self.u32())]
            infos.append((name, dims, self.u32(), self.number("<Q", 8)))
        data = (self.at + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        ends = [i[3] for i in infos[1:]] + [len(self.raw) - data]
        self.tensors = [(n, d, t, self.raw[data + o:data + e]) for (n, d, t, o), e in zip(infos, ends)]

    def number(self, form, size):
        self.at += size
        return struct.unpack_from(form, self.raw, self.at - size)[0]

    def u32(self):
        return self.number("<I", 4)

    def text(self):
        size = self.number("<Q", 8)
        self.at += size
        return self.raw[self.at - size:self.at].decode()

    def skip_value(self, kind):
        if kind == 8:
            self.text()
        elif kind == 9:
            of, count = self.u32(), self.number("<Q", 8)
            for _ in range(count if of == 8 else 0):
                self.text()
            self.at += 0 if of == 8 else SCALARS[of] * count
        else:
            self.at += SCALARS[kind]


def key(name, kind, form, value):
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I" + form, kind, value)


def text_key(name, value):
    return (struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQ", 8, len(value)) + value.encode())


def write_gguf(path, keys, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys)
    offset = 0
    for name, dims, kind, data in tensors:
        out += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
        out += b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)
        offset += (len(data) + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    out += b"\0" * (-len(out) % ALIGNMENT)
    for _, _, _, data in tensors:
        out += data + b"\0" * (-len(data) % ALIGNMENT)
    path.write_bytes(out)


def split(file, folder, name="m", parts=3):
    """As llama-gguf-split does it: all keys in the first part."""
    g = Gguf(file)
    folder.mkdir()
    each = (len(g.tensors) + parts - 1) // parts
    for part in range(parts):
        keys = [key("split.no", 2, "H", part), key("split.count", 2, "H", parts),
                key("split.tensors.count", 5, "i", len(g.tensors))]
        if part == 0:
            keys = list(g.keys.values()) + keys
        write_gguf(folder / f"{name}-{part + 1:05d}-of-{parts:05d}.gguf", keys,
                   g.tensors[part * each:(part + 1) * each])
    return folder


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, content in tensors.items():
        header[name] = {"dtype": "BF16", "shape": [len(content) // 2], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def safetensors_model(folder, seed=1, context=2048):
    folder.mkdir()
    files = {f"model-0000{i}-of-00002.safetensors": {f"layer.{i}.a": os.urandom(64) if seed is None else bytes([seed + i]) * 64,
                                                     f"layer.{i}.b": bytes([i]) * 128} for i in (1, 2)}
    for name, tensors in files.items():
        write_safetensors(folder / name, tensors)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
                                                    "max_position_embeddings": context}))
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {t: name for name, tensors in files.items() for t in tensors}}))
    (folder / "tokenizer_config.json").write_text('{"chat_template":"{{ messages }}"}')
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: org/base\n---\n# A model\n")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "extra.json").write_text("{}")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("hidden")
    return folder


# ---- the network --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    import shutil

    with shared_network(edges={"edge-1": "north"}, repository={
            "immutable_tags": ["fixed*"], "repository_quotas": ["small=3M", "race=3M"]}) as network:
        yield network


def push(net, file, model, *more):
    net.mdn("push", file, model, "--repository", net.repository_url, "--quiet", *more)


def versions(net, *query):
    return {f"{m['name']}:{m['tag']}": m for m in net.json("models", *query)["models"]}


def fails(net, *args):
    with pytest.raises(CommandFailed) as failure:
        net.mdn(*args)
    return failure.value.err


def digest_of(net, model):
    name, tag = model.rsplit(":", 1)
    return httpx.head(f"{net.repository_url}/v2/{name}/manifests/{tag}").headers["docker-content-digest"]


# ---- sets of files --------------------------------------------------------------------------------------


def test_a_split_model_answers_from_an_edge(net, tiny, folder):
    parts = split(tiny, folder / "parts")
    push(net, parts, "split:v1")
    net.place("split:v1")
    net.wait_model("split:v1")
    whole = net.model("split:v1")
    assert [f["path"] for f in whole["files"]] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert whole["architecture"] == "llama" and whole["kind"] == "gguf"
    answer = net.edges[0].openai().chat.completions.create(
        model="split:v1", messages=[{"role": "user", "content": "hi"}], max_tokens=4)
    assert answer.choices[0].finish_reason in ("length", "stop")
    net.mdn("place", "split:v1", "--on", "role=edge", "--remove")
    eventually(lambda: not list((net.edges[0].folder / "models").glob("*")), what="its links are gone")


def test_a_missing_part_is_named(net, tiny, folder):
    parts = split(tiny, folder / "parts")
    (parts / "m-00002-of-00003.gguf").unlink()
    words = fails(net, "push", parts, "cut:v1", "--repository", net.repository_url, "--quiet")
    assert "m-00002-of-00003.gguf is missing" in words


def test_a_safetensors_folder_is_a_version_and_comes_back_whole(net, folder):
    source = safetensors_model(folder / "model")
    push(net, source, "team/st:v1", "--label", "stage=test")
    v = versions(net, "--search", "team/st")["team/st:v1"]
    assert (v["kind"], v["architecture"], v["quantization"], v["context_tokens"]) == ("safetensors", "llama", "BF16", 2048)
    assert v["parameters"] == 2 * (32 + 64) and v["chat_template"]
    assert (v["license"], v["base_model"], v["labels"]) == ("apache-2.0", "org/base", {"stage": "test"})
    net.mdn("pull", "team/st:v1", "--repository", net.repository_url, "-o", folder / "back")
    wanted = {p.relative_to(source): p.read_bytes() for p in source.rglob("*")
              if p.is_file() and ".git" not in p.parts}
    assert {p.relative_to(folder / "back"): p.read_bytes() for p in (folder / "back").rglob("*") if p.is_file()} == wanted
    # The same folder gives the same manifest.
    before = digest_of(net, "team/st:v1")
    push(net, source, "team/st:again", "--label", "stage=test")
    push(net, source, "team/st:v1", "--label", "stage=test")
    assert digest_of(net, "team/st:v1") == before
    (source / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in fails(net, "push", source, "team/st:v2", "--repository",
                                                       net.repository_url, "--quiet")


def test_links_in_a_folder_are_refused(net, tiny, folder):
    (folder / "m").mkdir()
    (folder / "m" / "model.gguf").symlink_to(tiny)
    assert "symbolic link" in fails(net, "push", folder / "m", "link:v1", "--repository", net.repository_url)


# ---- channels ---------------------------------------------------------------------------------------------


def assigned(net, model):
    return digest_of(net, model), {n["name"]: n["state"] for n in net.model(model)["nodes"]}


def test_edges_follow_a_channel_there_and_back(net, models):
    digests = {}
    for i in (1, 2):
        push(net, tiny_model(models, f"ch{i}", embedding=64, layers=2, context=4096, seed=10 + i), f"chan:v{i}")
        digests[i] = digest_of(net, f"chan:v{i}")
    net.mdn("promote", "chan:v1", "stable")
    net.place("chan:stable")
    net.wait_model("chan:stable")

    def serves(i):
        models_there = {m["name"]: m for m in net.node("edge-1")["models"]}
        m = models_there.get("chan:stable", {})
        return m.get("state") == "ready" and m.get("digest") == digests[i]

    eventually(lambda: serves(1), what="v1 is served")
    assert digests[2] in net.mdn("promote", "chan:v2", "stable")
    eventually(lambda: serves(2), 60, "v2 is served")
    net.mdn("rollback", "chan:stable")
    eventually(lambda: serves(1), 60, "v1 is served again")
    assert "named nothing before" in fails(net, "rollback", "chan:stable")
    moves = net.json("history", "chan:stable")["moves"]
    assert [m["what"] for m in moves] == ["rollback", "promote", "promote"]
    assert all(m["who"].startswith("operator/") for m in moves)
    assert moves[0]["to_tags"] == ["v1"] and moves[0]["from_tags"] == ["v2"]
    tags = {t["tag"]: t for t in net.json("channel", "chan")["tags"]}
    assert tags["stable"]["digest"] == tags["v1"]["digest"] == digests[1]
    assert "v1" in net.mdn("history", "chan:stable") and "stable" in net.mdn("channel", "chan")
    net.mdn("place", "chan:stable", "--on", "role=edge", "--remove")


def test_immutable_tags_and_retired_versions(net, tiny, models):
    other = tiny_model(models, "other", embedding=64, layers=2, context=4096, seed=9)
    push(net, tiny, "imm:fixed-1")
    push(net, tiny, "imm:fixed-1")
    assert "immutable" in fails(net, "push", other, "imm:fixed-1", "--repository", net.repository_url, "--quiet")
    push(net, other, "imm:other")
    text = httpx.get(f"{net.repository_url}/v2/imm/manifests/other")
    refused = httpx.put(f"{net.repository_url}/v2/imm/manifests/fixed-1", content=text.content,
                        headers={"content-type": text.headers["content-type"]})
    assert refused.status_code == 409 and refused.json()["errors"][0]["code"] == "DENIED"
    net.mdn("retire", "imm:fixed-1")
    assert "imm:fixed-1" not in versions(net, "--search", "imm")
    assert versions(net, "--search", "imm", "--retired")["imm:fixed-1"]["retired"]
    assert httpx.get(f"{net.repository_url}/v2/imm/tags/list").json()["tags"] == ["other"]
    assert httpx.head(f"{net.repository_url}/v2/imm/manifests/fixed-1").status_code == 200
    assert "retired" in fails(net, "promote", "imm:fixed-1", "stable")
    eventually(lambda: "retired" in fails(net, "place", "imm:fixed-1", "--on", "role=edge"), what="it cannot be placed")
    net.mdn("retire", "imm:fixed-1", "--undo")
    assert "imm:fixed-1" in versions(net, "--search", "imm")


def test_only_operators_over_the_node_port(net):
    assert httpx.post(f"{net.repository_url}/mdn/v1/repository/retire", json={"model": "a:b"}).status_code == 404
    url = net.repository.node_url + "/mdn/v1/repository/quota"
    assert net.http().get(url).status_code == 200
    import ssl
    context = ssl.create_default_context(cafile=net.operator / "ca.pem")
    context.check_hostname = False
    own = next(net.edges[0].folder.rglob("*.pem")).parent
    certs, keys = sorted(own.glob("*cert*.pem")), sorted(own.glob("*key*.pem"))
    if certs and keys:
        context.load_cert_chain(certs[0], keys[0])
        assert httpx.get(url, verify=context).status_code == 403


def test_odd_requests_are_answered_with_words(net, tiny):
    push(net, tiny, "odd:v1")
    base = net.repository.node_url + "/mdn/v1/repository/"
    http = net.http()

    def post(path, body):
        answer = http.post(base + path, content=body if isinstance(body, str) else json.dumps(body))
        return answer.status_code, answer.json()["error"]["message"]

    assert post("promote", "{")[0] == 400
    assert post("promote", "[]")[0] == 400
    assert post("promote", {})[0] == 400 and "model" in post("promote", {})[1]
    assert post("promote", {"model": "odd:v1", "channel": "-x"})[0] == 400
    assert post("promote", {"model": "odd:v1"})[0] == 400
    assert post("promote", {"model": "../odd:v1", "channel": "x"})[0] == 400
    assert post("label", {"model": "odd:v1", "set": {"a": 1}})[0] == 400
    assert post("label", {"model": "odd:v1", "set": {"a": "x\u0007"}})[0] == 400
    assert post("label", {"model": "odd:v1", "set": {f"k{i}": "v" for i in range(80)}})[0] == 413
    assert post("retire", {"model": "odd:none"})[0] == 404
    assert post("quantize", {"model": "odd:v1", "type": "q4_0", "to": "odd:v1"})[0] == 409
    assert post("label", "x" * 300000)[0] == 413
    assert http.get(base + "models", params={"limit": "x"}).status_code == 400
    assert http.get(base + "tags", params={"name": "NO"}).status_code == 400
    assert http.get(base + "promote").status_code == 405 and http.get(base + "nothing").status_code == 404
    assert http.get(base + "jobs/zz").status_code == 404
    many = http.post(base + "label", content=json.dumps({"model": "odd:v1", "remove": ["x"] * 2000}))
    assert many.status_code == 200


# ---- labels, search, differences ------------------------------------------------------------------------------


def test_labels_and_search(net, tiny):
    push(net, tiny, "lab:v1", "--license", "mit", "--base", "base:1")
    net.mdn("label", "lab:v1", "team=blue", "note=a b", "distilled-from=teacher:7")
    net.mdn("promote", "lab:v1", "stable")
    assert set(versions(net, "--label", "team=blue")) == {"lab:v1", "lab:stable"}
    assert set(versions(net, "--label", "team", "--license", "MIT", "--arch", "llama")) == {"lab:v1", "lab:stable"}
    assert versions(net, "--label", "team=red") == {}
    assert set(versions(net, "--search", "TEACHER")) == {"lab:v1", "lab:stable"}
    v = versions(net, "--search", "lab:v1")["lab:v1"]
    assert (v["base_model"], v["distilled_from"], v["license"]) == ("base:1", "teacher:7", "mit")
    words = eventually(lambda: (lambda t: t if "team=blue" in t else None)(net.mdn("models", "lab:v1")), what="the center knows")
    assert "License: mit" in words and "Distilled from: teacher:7" in words
    net.mdn("label", "lab:v1", "team-")
    assert versions(net, "--label", "team") == {}
    assert "neither" in fails(net, "label", "lab:v1", "plain")
    page = net.http().get(net.repository.node_url + "/mdn/v1/repository/models", params={"search": "lab", "limit": 1}).json()
    assert [m["tag"] for m in page["models"]] == ["stable"] and page["next"] == "lab:stable"


def test_what_changed_between_two_versions(net, big, folder):
    g = Gguf(big)
    keys = dict(g.keys)
    keys["general.name"] = text_key("general.name", "another name")
    keys["extra.key"] = key("extra.key", 4, "I", 7)
    tensors = [list(t) for t in g.tensors]
    changed = max(range(len(tensors)), key=lambda i: len(tensors[i][3]) if "blk.1" in tensors[i][0] else 0)
    data = bytearray(tensors[changed][3])
    data[len(data) // 2] ^= 1
    tensors[changed][3] = bytes(data)
    removed = tensors.pop(0) if tensors[0][0] == "rope_freqs.weight" else None
    write_gguf(folder / "new.gguf", list(keys.values()), tensors)
    push(net, big, "dif:a")
    push(net, folder / "new.gguf", "dif:b")
    d = net.json("diff", "dif:a", "dif:b")
    metadata = {m["key"]: m for m in d["metadata"]}
    assert metadata["general.name"]["to"] == "another name"
    assert metadata["extra.key"] == {"change": "added", "key": "extra.key", "to": "7"}
    assert [t["name"] for t in d["tensors"] if t["change"] == "changed"] == [tensors[changed][0]]
    assert d["tensors_removed"] == (removed is not None)
    assert d["tensors_same"] == len(tensors) - 1
    assert d["move_bytes"] <= len(data) + 2 * 2**20 < d["to_bytes"]
    words = net.mdn("diff", "dif:a", "dif:b")
    assert tensors[changed][0] in words and "a node with the first fetches" in words
    assert "no model" in fails(net, "diff", "dif:a", "dif:none")
    same = net.json("diff", "dif:a", "dif:a")
    assert not same["metadata"] and not same["tensors"] and same["move_bytes"] == 0


def test_what_changed_in_a_safetensors_model(net, folder):
    push(net, safetensors_model(folder / "a"), "sdif:a")
    push(net, safetensors_model(folder / "b", seed=3, context=4096), "sdif:b")
    d = net.json("diff", "sdif:a", "sdif:b")
    assert [t["name"] for t in d["tensors"]] == ["layer.1.a", "layer.2.a"]
    assert d["metadata"] == [{"change": "changed", "key": "config.json: max_position_embeddings",
                              "from": "2048", "to": "4096"}]
    assert d["tensors_same"] == 2


# ---- quotas ---------------------------------------------------------------------------------------------------


def blob_push(net, repo, content):
    url = f"{net.repository_url}/v2/{repo}/blobs/uploads/"
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return httpx.post(url, params={"digest": digest}, content=content, timeout=30)


def test_a_quota_is_kept_when_many_push_at_once(net):
    early = blob_push(net, "small/m", os.urandom(4 * 2**20))
    assert early.status_code == 403 and early.json()["errors"][0]["code"] == "DENIED"
    assert "0 are used" in early.json()["errors"][0]["message"]
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(blob_push(net, "race/m", os.urandom(2**20)).status_code))
               for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(answers) == [201] * 3 + [403] * 5
    spaces = {s["name"]: s for s in net.json("quota")["spaces"]}
    assert spaces["race"] == {"name": "race", "used": 3 * 2**20, "quota": 3 * 2**20}
    assert "race" in net.mdn("quota")


# ---- quantizing -------------------------------------------------------------------------------------------------


def works(net):
    return list((net.repository.folder / "work").glob("*"))


def jobs(net):
    return net.http().get(net.repository.node_url + "/mdn/v1/repository/jobs").json()["jobs"]


def test_quantizing_makes_a_version_linked_to_its_parent(net, models):
    source = tiny_model(models, "qsrc", embedding=256, ff=512, layers=2, context=2048, seed=5)
    push(net, source, "quant:f32", "--license", "mit", "--base", "base:9")
    out = net.json("quantize", "quant:f32", "q4_k_m")
    assert out["to"] == "quant:f32-q4_k_m" and out["state"] == "done" and out["done"] == out["total"] > 0
    v = versions(net, "--search", "quant:f32-q4_k_m")["quant:f32-q4_k_m"]
    assert (v["quantization"], v["quantized_from"], v["license"], v["base_model"]) == ("Q4_K_M", "quant:f32", "mit", "base:9")
    assert v["labels"]["quantized-from-digest"] == digest_of(net, "quant:f32")
    assert v["files"][0]["size"] < os.path.getsize(source) / 2 and not works(net)
    net.place("quant:f32-q4_k_m")
    net.wait_model("quant:f32-q4_k_m")
    net.mdn("place", "quant:f32-q4_k_m", "--on", "role=edge", "--remove")
    history = net.json("history", "quant:f32-q4_k_m")["moves"]
    assert history[0]["who"].startswith("operator/")


def test_what_cannot_be_quantized_says_why(net, models):
    source = tiny_model(models, "q8", embedding=256, ff=512, layers=2, quant="q8_0", context=2048)
    push(net, source, "quant:q8")
    assert "requantizing from type q8_0 is disabled" in fails(net, "quantize", "quant:q8", "q4_k_m")
    assert "there are: f32" in fails(net, "quantize", "quant:q8", "q9")
    assert "no model" in fails(net, "quantize", "quant:none", "q4_0")
    assert not works(net)


def test_a_split_model_is_quantized_from_its_parts(net, tiny, folder):
    push(net, split(tiny, folder / "parts"), "qsplit:f32")
    out = net.json("quantize", "qsplit:f32", "f16", "--to", "qsplit:v1")
    assert out["to"] == "qsplit:v1"
    v = versions(net, "--search", "qsplit:v1")["qsplit:v1"]
    assert [f["path"] for f in v["files"]] == ["qsplit-F16.gguf"] and v["quantization"] == "F16"
    d = net.json("diff", "qsplit:f32", "qsplit:v1")
    assert d["tensors_added"] == d["tensors_removed"] == 0 < d["tensors_changed"]


def test_encrypted_nodes_load_split_models_and_do_not_quantize(make_network, tiny, folder):
    (folder / "site.key").write_text(os.urandom(32).hex() + "\n")
    (folder / "site.key").chmod(0o600)
    sealed = {"encrypt_at_rest": True, "site_key": str(folder / "site.key")}
    network = make_network(edges={"edge-1": "north"}, edge=sealed, repository=sealed)
    push(network, split(tiny, folder / "parts"), "split:v1")
    network.place("split:v1")
    network.wait_model("split:v1")
    assert "in the clear" in fails(network, "quantize", "split:v1", "f16")


@pytest.fixture(scope="module")
def slow(net, models):
    """Takes some seconds to quantize."""
    push(net, tiny_model(models, "slow", embedding=1024, heads=8, ff=4096, layers=6, context=2048, seed=6), "slow:f32")
    return "slow:f32"


def quantize_in_background(net, *more):
    return subprocess.Popen([MDN, "quantize", *more], env=os.environ | {"MDN_OPERATOR": str(net.operator)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def child_of(pid):
    return [int(p) for p in open(f"/proc/{pid}/task/{pid}/children").read().split()]


def running(net):
    return eventually(lambda: [j for j in jobs(net) if j["state"] == "running"] and child_of(net.repository.process.pid),
                      what="it is being quantized")


def test_ctrl_c_cancels_and_a_gone_client_does_not(net, slow):
    client = quantize_in_background(net, slow, "q2_k")
    children = running(net)
    client.send_signal(signal.SIGINT)
    assert client.wait(20) == 130
    client.communicate()
    eventually(lambda: not works(net), what="nothing is left")
    assert jobs(net)[-1]["state"] == "canceled" and not any(os.path.exists(f"/proc/{p}/exe") for p in children)
    client = quantize_in_background(net, slow, "q4_0", "--to", "slow:gone")
    running(net)
    client.kill()
    client.communicate()
    eventually(lambda: "slow:gone" in versions(net, "--search", "slow"), 120, "the job went on")


def test_a_crash_of_the_child_is_contained(net, slow):
    client = quantize_in_background(net, slow, "q3_k_m")
    children = running(net)
    os.kill(children[0], signal.SIGSEGV)
    _, words = client.communicate(timeout=30)
    assert client.returncode != 0 and "signal 11" in words
    assert net.repository.runs and not works(net)
    assert "slow:f32-q3_k_m" not in versions(net, "--search", "slow")


def test_kill_minus_9_leaves_nothing_half_done(net, slow):
    client = quantize_in_background(net, slow, "q5_k_m")
    children = running(net)
    assert works(net)
    net.repository.kill()
    eventually(lambda: not os.path.exists(f"/proc/{children[0]}/exe"), 10, "the child went with it")
    client.communicate(timeout=30)
    assert client.returncode != 0
    net.repository.start()
    eventually(lambda: jobs(net) == [], what="it is back and knows no job")
    assert not works(net)
    assert "slow:f32-q5_k_m" not in versions(net, "--search", "slow")
    assert slow in versions(net, "--search", "slow")
