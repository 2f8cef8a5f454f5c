# SPDX-License-Identifier: Apache-2.0
"""Bundles for places without a network: whole and split, interrupted and gone on with, signed, hostile, only what is new;
read and written by other people's tools."""
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import httpx
import pytest

from network import MDN, CommandFailed, eventually, run_mdn, tiny_model
from test_signing import flip, key

SKOPEO = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")


@pytest.fixture
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """The other side: a network of its own, without edges."""
    from conftest import discard, network_folder
    from network import Network
    where = network_folder()
    network = Network(where, edges={})
    try:
        yield network.up()
    finally:
        network.down()
        discard(where)


def repository(net):
    return "http://" + net.repository.config["repository_listen"]


def push(net, file, name):
    return json.loads(net.mdn("push", file, name, "--json"))["digest"]


def version(net, model):
    return next((m for m in net.json("models")["models"] if f"{m['name']}:{m['tag']}" == model), None)


def arrives(net, model, digest):
    found = eventually(lambda: version(net, model), 10, f"{model} is there")
    assert found["manifest"] == digest
    return found


def blob(net, name, digest):
    return httpx.get(f"{repository(net)}/v2/{name}/blobs/{digest}", timeout=30).content


def refused(net, *args):
    with pytest.raises(CommandFailed) as failed:
        net.mdn(*args)
    return failed.value.err


def names(bundle):
    with tarfile.open(bundle) as tar:
        return tar.getnames()


@pytest.mark.parametrize("split", [None, "1M"])
def test_models_and_their_signatures_cross_the_gap(net, far, models, in_folder, split):
    name = f"gap/whole{1 if split else 0}"
    one, two = (tiny_model(models, f"gap-{split}-{i}", seed=100 + i + 10 * bool(split)) for i in (1, 2))
    private, public = key()
    digests = {f"{name}:v1": push(net, one, f"{name}:v1"), f"{name}:v2": push(net, two, f"{name}:v2")}
    net.mdn("sign", f"{name}:v1", "--key", private)
    net.mdn("export", *digests, "-o", "b.tar", "--key", private, *(["--split", split] if split else []))
    if split:
        parts = sorted(Path().glob("b.tar.*"))
        assert len(parts) == 3 and all(p.stat().st_size == 1 << 20 for p in parts[:-1])
        Path("joined.tar").write_bytes(b"".join(p.read_bytes() for p in parts))
        assert "oci-layout" in names("joined.tar")
    _, other = key("other")
    assert "another key" in refused(far, "import", "b.tar", "--key", other)
    assert version(far, f"{name}:v1") is None
    far.mdn("import", "b.tar.001" if split else "b.tar", "--key", public)
    for model, digest in digests.items():
        found = arrives(far, model, digest)
        assert blob(far, name, found["files"][0]["digest"]) == Path(one if model.endswith("v1") else two).read_bytes()
    assert "as it was signed" in far.mdn("verify", f"{name}:v1", "--key", public)
    assert "has 2 models" in refused(far, "import", "b.tar", f"{name}-there:v9")
    if not split:
        net.mdn("export", f"{name}:v1", "-o", "one.tar")
        assert json.loads(far.mdn("import", "one.tar", f"{name}-there:v9", "--json")) == {"model": f"{name}-there:v9"}
        assert "as it was signed" in far.mdn("verify", f"{name}-there:v9", "--key", public)
    assert "nothing was overwritten" in refused(net, "export", f"{name}:v1", "-o", "b.tar",
                                                *(["--split", split] if split else []))
    # the same again does no harm and sends nothing
    far.mdn("import", "b.tar", "--key", public)


@SKOPEO
def test_skopeo_reads_ours_and_we_read_skopeos(net, far, models, in_folder):
    digest = push(net, tiny_model(models, "gap-skopeo", seed=121), "gap/skopeo:v1")
    net.mdn("export", "gap/skopeo:v1", "-o", "ours.tar")
    inspect = ["skopeo", "inspect", "--raw"]
    raw = subprocess.run([*inspect, "oci-archive:ours.tar:gap/skopeo:v1"], check=True, capture_output=True, timeout=60)
    assert json.loads(raw.stdout)["layers"]
    target = far.repository.config["repository_listen"]
    subprocess.run(["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", "oci-archive:ours.tar",
                    f"docker://{target}/by/skopeo:v1"], check=True, capture_output=True, timeout=60)
    arrives(far, "by/skopeo:v1", digest)
    subprocess.run(["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false",
                    f"docker://{net.repository.config['repository_listen']}/gap/skopeo:v1", "oci-archive:theirs.tar:v1"],
                   check=True, capture_output=True, timeout=60)
    assert "say it after the bundle's file" in refused(far, "import", "theirs.tar")
    far.mdn("import", "theirs.tar", "from/skopeo:v7")
    arrives(far, "from/skopeo:v7", digest)


def test_an_interrupted_export_goes_on_where_it_stopped(net, far, big, in_folder):
    digest = push(net, big, "gap/resumed:v1")
    private, public = key()
    command = ["export", "gap/resumed:v1", "--split", "5M", "--key", private, "-o"]
    net.mdn(*command, "whole.tar")
    whole = [p.read_bytes() for p in sorted(Path().glob("whole.tar.*"))]
    # as after kill -9 at every kind of place: in the head, in a blob, at the end of a part, in the padding
    for stop in (100, 3000, 7_000_000, 5 << 20, 10 << 20, sum(map(len, whole)) - 700, sum(map(len, whole)) - 1):
        for old in [*Path().glob("again.tar.*")]:
            old.unlink()
        left, part = stop, 0
        for part, content in enumerate(whole, 1):
            done = left >= len(content) and len(content) == 5 << 20
            Path(f"again.tar.{part:03}" + ("" if done else ".part")).write_bytes(content[:left])
            left -= len(content[:left])
            if not left:
                break
        # the signature of the first try lies beside it
        tar = tarfile.open(fileobj=io.BytesIO(b"".join(whole)))
        Path("again.tar.sig.part").write_bytes(tar.extractfile("mdn-bundle.sig").read())
        net.mdn(*command, "again.tar")
        assert [p.read_bytes() for p in sorted(Path().glob("again.tar.*"))] == whole, stop
    far.mdn("import", "again.tar", "--key", public)
    arrives(far, "gap/resumed:v1", digest)


def test_a_killed_export_and_a_killed_import_are_repeated(net, far, big, in_folder):
    digest = push(net, big, "gap/killed:v1")
    environment = os.environ | {"MDN_OPERATOR": str(net.operator)}
    for delay in (0.02, 0.05, 0.08, 0.12):
        process = subprocess.Popen([MDN, "export", "gap/killed:v1", "-o", "k.tar"], env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if Path("k.tar").exists():
            break  # it appears whole or not at all: the import judges
    if not Path("k.tar").exists():
        net.mdn("export", "gap/killed:v1", "-o", "k.tar")
    environment["MDN_OPERATOR"] = str(far.operator)
    for delay in (0.03, 0.06, 0.1, 0.15):
        process = subprocess.Popen([MDN, "import", "k.tar"], env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    far.mdn("import", "k.tar")
    found = arrives(far, "gap/killed:v1", digest)
    assert blob(far, "gap/killed", found["files"][0]["digest"]) == Path(big).read_bytes()


def test_a_delta_bundle_holds_only_what_the_other_side_lacks(net, far, big, in_folder):
    push(net, big, "gap/delta:v1")
    net.mdn("export", "gap/delta:v1", "-o", "one.tar")
    far.mdn("import", "one.tar")
    changed = in_folder / "changed.gguf"
    shutil.copy(big, changed)
    data = bytearray(changed.read_bytes())
    at = len(data) // 2
    data[at:at + 1000] = random.Random(1).randbytes(1000)
    changed.write_bytes(data)
    digest = push(net, changed, "gap/delta:v2")

    eventually(lambda: version(far, "gap/delta:v1"), 10)
    Path("have.json").write_text(far.mdn("export", "--have-list"))
    private, public = key()
    victim = in_folder / "victim"  # a bundle's folder may come from strangers, with links in it
    Path("two.tar.part").symlink_to(victim)
    assert "symbolic link" in refused(net, "export", "gap/delta:v2", "-o", "two.tar", "--against", "have.json")
    Path("two.tar.part").unlink()
    net.mdn("export", "gap/delta:v2", "-o", "two.tar", "--against", "have.json", "--key", private)
    victim.write_text("mine")
    Path(f"two.tar.{hashlib.sha256(data).hexdigest()[:16]}.part").symlink_to(victim)
    assert Path("two.tar").stat().st_size < Path(big).stat().st_size / 4
    far.mdn("import", "two.tar", "--key", public)
    found = arrives(far, "gap/delta:v2", digest)
    assert blob(far, "gap/delta", found["files"][0]["digest"]) == bytes(data)
    assert victim.read_text() == "mine"

    # on a side that lacks what it builds on, it is refused and says so
    nothing = {"mdn_have": 1, "blobs": [], "chunks": []}
    Path("nothing.json").write_text(json.dumps(nothing))
    net.mdn("export", "gap/delta:v2", "-o", "all.tar", "--against", "nothing.json")
    with tarfile.open("all.tar") as tar:
        assert any(n.startswith("mdn-packs/") for n in tar.getnames())
    lies = json.loads(Path("have.json").read_text())
    other = tiny_model(in_folder, "unknown-there", seed=141, embedding=256, layers=2)
    push(net, other, "gap/delta:v3")
    lies["chunks"] = json.loads(net.mdn("export", "--have-list"))["chunks"]
    Path("lies.json").write_text(json.dumps(lies))
    net.mdn("export", "gap/delta:v3", "-o", "lies.tar", "--against", "lies.json")
    assert "builds on what this repository does not have" in refused(far, "import", "lies.tar")
    assert version(far, "gap/delta:v3") is None


def rewrite(source, target, change):
    """The same tar, where change(name, content) gives other [(TarInfo, content)] of an entry."""
    with tarfile.open(source) as old, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as new:
        for member in old.getmembers():
            content = old.extractfile(member).read()
            for info, data in change(member, content):
                info.size = len(data) if info.isfile() else 0
                new.addfile(info, io.BytesIO(data) if info.isfile() else None)


def extra(name, **fields):
    def change(member, content):
        entries = [(member, content)]
        if member.name == "oci-layout":
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            entries.append((info, b"x"))
        return entries
    return change


@pytest.mark.parametrize("what, change, words", [
    ("absolute", extra("/etc/mdn-was-here"), "no file"),
    ("climbs", extra("../mdn-was-here"), "no file"),
    ("link", extra("index.json", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link or device"),
    ("hard link", extra("mdn-bundle.json", type=tarfile.LNKTYPE, linkname="oci-layout"), "link or device"),
    ("twice", extra("index.json"), "twice"),
    ("a blob that is another", lambda m, c: [(m, b"y" + c[1:] if m.size > 1_000_000 else c)], ""),
    ("a manifest that is another", lambda m, c: [(m, c.replace(b"schemaVersion", b"schemaversion")
                                                  if c.startswith(b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.m')
                                                  else c)], "is not that"),
    ("a blob that is missing", lambda m, c: [] if m.size > 1_000_000 else [(m, c)], "neither the bundle nor"),
    ("another index than was signed", lambda m, c: [(m, c.replace(b"hostile:v1", b"hostile:v2"))], "signature"),
    ("no signature", lambda m, c: [] if m.name == "mdn-bundle.sig" else [(m, c)], "not signed"),
])
def test_hostile_bundles_are_refused_and_nothing_of_them_is_seen(net, models, far, in_folder, what, change, words):
    if not version(net, "gap/hostile:v1"):
        push(net, tiny_model(models, "gap-hostile", seed=131), "gap/hostile:v1")
    private, public = key()
    net.mdn("export", "gap/hostile:v1", "-o", "good.tar", "--key", private)
    rewrite("good.tar", "bad.tar", change)
    assert words in refused(far, "import", "bad.tar", "--key", public)
    assert version(far, "gap/hostile:v1") is None and version(far, "gap/hostile:v2") is None
    assert not Path("/etc/mdn-was-here").exists() and not (in_folder.parent / "mdn-was-here").exists()


def test_a_part_that_is_missing_or_cut_is_told(net, far, big, in_folder):
    push(net, big, "gap/parts:v1")
    net.mdn("export", "gap/parts:v1", "-o", "p.tar", "--split", "10M")
    last = sorted(Path().glob("p.tar.*"))[-1]
    content = last.read_bytes()
    last.write_bytes(content[:-5000])
    assert "cut short" in refused(far, "import", "p.tar")
    last.unlink()
    assert "cut short" in refused(far, "import", "p.tar")
    assert version(far, "gap/parts:v1") is None
    assert "no bundle" in refused(far, "import", "nothing-here.tar")
    assert "mdn push" in refused(far, "import", big)
    assert "gap/never:v1: " in refused(net, "export", "gap/never:v1", "-o", "never.tar")
