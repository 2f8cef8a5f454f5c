# SPDX-License-Identifier: Apache-2.0
"""Signatures: we and the Python package model-signing agree on files and folders; nodes load only what their trust policy
allows; a channel's statement protects from an old version put back and from one that stays too long."""
import base64
import datetime
import json
import os
import shutil
import signal
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from network import CommandFailed, eventually, run_mdn, tiny_model

model_signing = pytest.importorskip("model_signing")

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(in_folder):
    """A folder as people have them: big and empty files, folders, a name that sorts oddly, Git's own."""
    folder = in_folder / "model"
    for name, content in {"model.safetensors": os.urandom(3_000_000), "model/part.bin": b"part", "empty": b"",
                          "a/b/c.txt": b"deep", "a.txt": b"flat", "naïve ☃.md": b"unicode", ".git/config": b"[core]",
                          ".gitattributes": b"* lfs"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def key(name="release", curve="p256"):
    run_mdn("keygen", name, "--curve", curve)
    return f"{name}.pem", f"{name}.pub.pem"


def statement(signature):
    return json.loads(base64.b64decode(json.loads(Path(signature).read_text())["dsseEnvelope"]["payload"]))


def refused(*args):
    with pytest.raises(CommandFailed) as failed:
        run_mdn(*args)
    return failed.value.err


def hashing(method):
    config = model_signing.hashing.Config()
    return config.use_shard_serialization(shard_size=1_000_000) if method == "shards" else config


def they_verify(model, signature, public, method="files"):
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).set_hashing_config(
        hashing(method)).verify(model, signature)


# ---- the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
@pytest.mark.parametrize("method", ["files", "shards"])
def test_ours_verifies_with_the_python_package_and_theirs_with_us(model, curve, method):
    private, public = key(curve=curve)
    shard = ["--shard-size", 1_000_000] if method == "shards" else []
    run_mdn("sign", model, "--key", private, "-o", "ours.sig", "--method", method, *shard)
    they_verify(model, "ours.sig", public, method)
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, "ours.sig")
    assert "as it was signed" in run_mdn("verify", model, "--signature", "ours.sig", "--key", public)[0]

    model_signing.signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(
        hashing(method)).sign(model, "theirs.sig")
    run_mdn("verify", model, "--signature", "theirs.sig", "--key", public)
    ours, theirs = statement("ours.sig"), statement("theirs.sig")
    assert ours["subject"] == theirs["subject"]  # the same files in the same order
    assert [r["name"] for r in ours["predicate"]["resources"]] == [r["name"] for r in theirs["predicate"]["resources"]]


def test_one_file_and_a_signature_inside_the_folder(model):
    private, public = key()
    run_mdn("sign", model / "a.txt", "--key", private, "-o", "one.sig")
    they_verify(model / "a.txt", "one.sig", public)
    run_mdn("sign", model, "--key", private, "-o", model / "model.sig")
    they_verify(model, model / "model.sig", public)
    run_mdn("verify", model, "--signature", model / "model.sig", "--key", public)
    model_signing.signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(
        model_signing.hashing.Config().set_ignored_paths(paths=["a", "model.sig"])).sign(model, "without.sig")
    (model / "a" / "b" / "c.txt").write_text("ignored, so it may change")
    run_mdn("verify", model, "--signature", "without.sig", "--key", public)


@pytest.mark.parametrize("method", ["files", "shards"])
@pytest.mark.parametrize("what, change, names", [
    ("changed", lambda m: (m / "a.txt").write_bytes(b"Flat"), "a.txt"),
    ("one bit of a large file", lambda m: flip(m / "model.safetensors", 2_000_001), "model.safetensors"),
    ("missing", lambda m: (m / "a/b/c.txt").unlink(), "a/b/c.txt"),
    ("extra", lambda m: (m / "run.py").write_bytes(b"import os"), "run.py"),
    ("renamed", lambda m: (m / "a.txt").rename(m / "b.txt"), "a.txt"),
    ("symlinked", lambda m: ((m / "a.txt").rename(m.parent / "a.txt"), (m / "a.txt").symlink_to("../a.txt")), "a.txt"),
    ("symlinked folder", lambda m: ((m / "a").rename(m.parent / "a"), (m / "a").symlink_to("../a")), "a is a symbolic"),
])
def test_what_is_not_as_signed_is_refused_and_named(model, method, what, change, names):
    private, public = key()
    run_mdn("sign", model, "--key", private, "-o", "model.sig", "--method", method)
    change(model)
    assert names in refused("verify", model, "--signature", "model.sig", "--key", public)
    with pytest.raises(ValueError):
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public).verify(model, "model.sig")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_signature_by_another_key_or_changed_is_refused(model):
    private, public = key()
    _, other = key("other")
    run_mdn("sign", model, "--key", private, "-o", "model.sig")
    assert "another key" in refused("verify", model, "-s", "model.sig", "--key", other)
    bundle = json.loads(Path("model.sig").read_text())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    Path("nameless.sig").write_text(json.dumps(bundle))
    assert "does not fit" in refused("verify", model, "-s", "nameless.sig", "--key", other)
    (model / "a.txt").write_text("new")
    forged = statement("model.sig")
    run_mdn("sign", model, "--key", "other.pem", "-o", "other.sig")
    forged = statement("other.sig")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(forged).encode()).decode()
    Path("forged.sig").write_text(json.dumps(bundle))
    assert "does not fit" in refused("verify", model, "-s", "forged.sig", "--key", public)
    assert "nothing was overwritten" in refused("keygen", "release")
    assert oct(os.stat("release.pem").st_mode)[-3:] == "600"


# ---- certificates ------------------------------------------------------------------------------------


def certificate(name, issuer=None, ca=False, sign=True, days=(0, 30), mail=None):
    """A key and certificate below `issuer` (its own, where there is none); written to NAME.key and NAME.crt."""
    private = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (x509.CertificateBuilder().subject_name(subject).public_key(private.public_key())
               .issuer_name(issuer[1].subject if issuer else subject).serial_number(x509.random_serial_number())
               .not_valid_before(now + datetime.timedelta(days=days[0]))
               .not_valid_after(now + datetime.timedelta(days=days[1]))
               .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
               .add_extension(x509.KeyUsage(digital_signature=sign and not ca, key_cert_sign=ca, crl_sign=ca,
                                            content_commitment=False, key_encipherment=False, data_encipherment=False,
                                            key_agreement=not sign and not ca, encipher_only=False,
                                            decipher_only=False), critical=True))
    if mail:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.RFC822Name(mail)]), critical=False)
    made = builder.sign(issuer[0] if issuer else private, hashes.SHA256())
    Path(f"{name}.key").write_bytes(private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    Path(f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return private, made


@pytest.fixture
def chain(model):
    root = certificate("root", ca=True, days=(-400, 400))
    middle = certificate("middle", root, ca=True, days=(-400, 400))
    certificate("stranger", ca=True)
    certificate("leaf", middle, mail="release@example.com")
    certificate("expired", middle, days=(-300, -200))
    certificate("no-signing", middle, sign=False)
    for name in ("leaf", "expired", "no-signing"):
        Path(f"{name}.chain").write_bytes(Path(f"{name}.crt").read_bytes() + Path("middle.crt").read_bytes())
    return model


def they_sign_with_certificate(model, name, signature):
    model_signing.signing.Config().use_certificate_signer(
        private_key=f"{name}.key", signing_certificate=f"{name}.crt", certificate_chain=["middle.crt"]).sign(
            model, signature)


def they_verify_certificate(model, signature, root="root.crt"):
    model_signing.verifying.Config().use_certificate_verifier(certificate_chain=[root]).verify(model, signature)


@pytest.mark.parametrize("name", ["leaf", "expired"])
def test_certificates_ours_with_theirs_and_theirs_with_us(chain, name):
    """A signature does not end with its certificate: both count it as of its first day."""
    run_mdn("sign", chain, "--key", f"{name}.key", "--cert", f"{name}.chain", "-o", "ours.sig")
    they_verify_certificate(chain, "ours.sig")
    run_mdn("verify", chain, "-s", "ours.sig", "--root", "root.crt")
    they_sign_with_certificate(chain, name, "theirs.sig")
    run_mdn("verify", chain, "-s", "theirs.sig", "--root", "root.crt")


def test_certificates_that_do_not_count_are_refused(chain):
    they_sign_with_certificate(chain, "leaf", "leaf.sig")
    assert "release@example.com" in run_mdn("verify", chain, "-s", "leaf.sig", "--root", "root.crt", "--subject",
                                            "*@example.com")[0]
    assert "no name that fits" in refused("verify", chain, "-s", "leaf.sig", "--root", "root.crt", "--subject",
                                          "*@example.org")
    assert "trusted root" in refused("verify", chain, "-s", "leaf.sig", "--root", "stranger.crt")
    they_sign_with_certificate(chain, "no-signing", "no-signing.sig")
    assert "not for signing" in refused("verify", chain, "-s", "no-signing.sig", "--root", "root.crt")
    assert "not for signing" in refused("sign", chain, "--key", "no-signing.key", "--cert", "no-signing.chain")
    assert "not the private key's" in refused("sign", chain, "--key", "leaf.key", "--cert", "expired.chain")
    alone = json.loads(Path("leaf.sig").read_text())
    alone["verificationMaterial"]["x509CertificateChain"]["certificates"].pop()
    Path("alone.sig").write_text(json.dumps(alone))
    assert "trusted root" in refused("verify", chain, "-s", "alone.sig", "--root", "root.crt")


# ---- a network with a policy -------------------------------------------------------------------------


def policy(folder, statements="optional", key="release.pub.pem", name="policy.yaml"):
    text = f"""version: 1
signers:
  - name: release
    key: {key}
rules:
  - models: ["free/*"]
    require: false
  - models: ["*"]
    nodes: role=edge,site=north
    signers: [release]
    statements: {statements}
"""
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def guarded(in_folder, make_network):
    key()
    key("other")
    net = make_network(edges={"edge-1": "north"}, edge={"trust_policy": str(policy(in_folder))})
    return net


def state_of(net, model):
    nodes = [n for n in net.json("models", model)["nodes"] if n["name"] == "edge-1"]
    return (nodes[0]["state"], nodes[0].get("error", "")) if nodes else ("", "")


def becomes(net, model, state, words=""):
    def there():
        now, error = state_of(net, model)
        return now == state and words in error
    eventually(there, 30, f"{model} is {state} ({words}); it is {state_of(net, model)}")


def push(net, file, name, *args):
    return json.loads(net.mdn("push", file, name, "--json", *args).splitlines()[0])["digest"]


def sign(net, *args):
    return net.mdn("sign", *args, "--repository", f"http://{net.repository.config['repository_listen']}")


def answers(net, model):
    net.edges[0].openai().completions.create(model=model, prompt="a", max_tokens=1)
    return True


def test_a_node_loads_only_what_its_policy_allows(guarded, tiny, in_folder):
    net, edge = guarded, guarded.edges[0]
    digest = push(net, tiny, "corp/tiny:v1", "--on", "role=edge")
    push(net, tiny, "free/tiny:v1", "--on", "role=edge")
    becomes(net, "free/tiny:v1", "ready")
    becomes(net, "corp/tiny:v1", "failed", "there is no signature on this version")
    assert "trust policy" in net.mdn("models", "corp/tiny:v1")

    sign(net, "corp/tiny:v1", "--key", "other.pem")
    becomes(net, "corp/tiny:v1", "failed", "another key")
    sign(net, "corp/tiny:v1", "--key", "release.pem")
    becomes(net, "corp/tiny:v1", "ready")
    assert eventually(lambda: answers(net, "corp/tiny:v1"), 10)

    repository = "http://" + net.repository.config["repository_listen"]
    assert "as it was signed" in net.mdn("verify", "corp/tiny:v1", "--key", "release.pub.pem", "--repository", repository)
    found = httpx.get(f"{repository}/v2/corp/tiny/referrers/{digest}").json()["manifests"]
    assert [m["artifactType"] for m in found] == [BUNDLE, BUNDLE]

    # what others find there is the standard's: the Python package accepts one of them for the file
    Path("as-signed").mkdir()
    shutil.copy(tiny, "as-signed")
    good = 0
    for referrer in found:
        manifest = httpx.get(f"{repository}/v2/corp/tiny/manifests/{referrer['digest']}").json()
        assert manifest["subject"]["digest"] == digest
        bundle = httpx.get(f"{repository}/v2/corp/tiny/blobs/{manifest['layers'][0]['digest']}").content
        Path("from-referrer.sig").write_bytes(bundle)
        try:
            they_verify(Path("as-signed"), "from-referrer.sig", "release.pub.pem")
            good += 1
        except ValueError:
            pass
    assert good == 1

    # a policy that trusts somebody else now, live: what runs is stopped; and back again
    policy(in_folder, key="../" + in_folder.name + "/other.pub.pem")
    becomes_after_reload(net, edge, "corp/tiny:v1", "ready")  # signed by both
    policy(in_folder, key="missing.pem")
    edge.signal(signal.SIGHUP)
    eventually(lambda: "not reloaded" in edge.log(), 5)
    assert state_of(net, "corp/tiny:v1")[0] == "ready"
    key("third")
    policy(in_folder, key="third.pub.pem")
    becomes_after_reload(net, edge, "corp/tiny:v1", "failed", "another key")
    eventually(lambda: edge.get("/v1/models").json()["data"][0]["id"] == "free/tiny:v1", 10)
    policy(in_folder)
    becomes_after_reload(net, edge, "corp/tiny:v1", "ready")

    # the content was read once, and is not again
    read = edge.log().count("corp/tiny:v1 is signed by")
    edge.stop()
    edge.start()
    becomes(net, "corp/tiny:v1", "ready")
    assert edge.log().count("corp/tiny:v1 is signed by") == read


def becomes_after_reload(net, edge, model, state, words=""):
    edge.signal(signal.SIGHUP)
    becomes(net, model, state, words)


def test_what_was_changed_on_the_disk_is_not_loaded(guarded, models, in_folder):
    """The digests are as signed, the bytes are not: found by reading them once before the first load."""
    net, edge = guarded, guarded.edges[0]
    file = tiny_model(models, "on-disk", seed=77)
    push(net, file, "corp/disk:v1", "--on", "role=edge")
    becomes(net, "corp/disk:v1", "failed", "no signature")
    edge.stop()
    blob = max((p for p in (edge.folder / "blobs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.chmod(blob, 0o644)
    flip(blob, blob.stat().st_size - 100)
    edge.start()
    sign(net, "corp/disk:v1", "--key", "release.pem")
    becomes(net, "corp/disk:v1", "failed", "not what was signed")


def test_a_channel_does_not_go_back_and_does_not_stay_for_ever(guarded, models, in_folder):
    net, edge = guarded, guarded.edges[0]
    policy(in_folder, statements="required")
    edge.signal(signal.SIGHUP)
    one, two = (tiny_model(models, f"channel-{i}", seed=80 + i) for i in (1, 2))
    push(net, one, "corp/c:stable", "--on", "role=edge")
    sign(net, "corp/c:stable", "--key", "release.pem")
    becomes(net, "corp/c:stable", "failed", "wants a statement on this channel")
    sign(net, "--channel", "corp/c:stable", "--key", "release.pem", "--counter", "1")
    becomes(net, "corp/c:stable", "ready")

    push(net, two, "corp/c:stable")
    sign(net, "--channel", "corp/c:stable", "--key", "release.pem", "--counter", "2", "--expires", "12s")
    stated = time.monotonic()
    digest = next(m for m in net.json("models")["models"] if m["name"] == "corp/c")["manifest"]
    def serves_two():
        lines = [l for l in net.node("edge-1")["models"] if l["name"] == "corp/c:stable"]
        return [l["digest"] for l in lines if l["state"] == "ready"] == [digest] and len(lines) == 1
    eventually(serves_two, 20)

    # who holds the repository puts the old version back, with its old, good signatures
    push(net, one, "corp/c:stable")
    becomes_line(net, "an old version was put back")
    assert answers(net, "corp/c:stable")
    push(net, two, "corp/c:stable")
    eventually(serves_two, 20)

    # the statement runs out: what serves goes on serving, a node that starts anew does not begin
    time.sleep(max(0, 13 - (time.monotonic() - stated)))
    edge.signal(signal.SIGHUP)
    time.sleep(1)
    assert answers(net, "corp/c:stable")
    edge.stop()
    edge.start()
    becomes(net, "corp/c:stable", "failed", "expired")
    sign(net, "--channel", "corp/c:stable", "--key", "release.pem", "--counter", "3", "--expires", "1h")
    becomes(net, "corp/c:stable", "ready")


def becomes_line(net, words):
    eventually(lambda: any(words in l.get("error", "") for l in net.node("edge-1")["models"]), 20, words)


def test_a_version_that_still_answers_is_judged_too(guarded, models, in_folder):
    """Its tag names another version now, which is refused, so it goes on answering; a policy that does not believe its signer
    any more ends that."""
    net, edge = guarded, guarded.edges[0]
    one, two = (tiny_model(models, f"lingers-{i}", seed=90 + i) for i in (1, 2))
    push(net, one, "corp/l:stable", "--on", "role=edge")
    sign(net, "corp/l:stable", "--key", "release.pem")
    becomes(net, "corp/l:stable", "ready")
    push(net, two, "corp/l:stable")
    becomes_line(net, "no signature on this version")
    assert answers(net, "corp/l:stable")

    policy(in_folder, key="other.pub.pem")
    edge.signal(signal.SIGHUP)
    eventually(lambda: edge.get("/v1/models").json()["data"] == [], 15, "the old version is not served any more")
    policy(in_folder)
    sign(net, "corp/l:stable", "--key", "release.pem")
    edge.signal(signal.SIGHUP)
    eventually(lambda: answers(net, "corp/l:stable"), 15)
