# SPDX-License-Identifier: Apache-2.0
"""Files and batches of an edge, through the `openai` client as published."""
import io
import json
import time

import httpx
import openai
import pytest

from conftest import shared_network
from network import eventually

URL = "/v1/chat/completions"
OVER = {"completed", "failed", "expired", "cancelled"}


def line(number, url=URL, words=8, model="tiny", **more):
    body = {"model": model, "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": words}
    if url.endswith("embeddings"):
        body = {"model": model, "input": f"text {number}"}
    elif not url.endswith("chat/completions"):
        body = {"model": model, "prompt": f"text {number}", "max_tokens": words}
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body, **more}


def jsonl(*lines):
    return io.BytesIO("".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in lines).encode())


def upload(client, *lines, **more):
    return client.files.create(file=("input.jsonl", jsonl(*lines)), purpose="batch", **more)


def begin(client, *lines, endpoint=URL, **more):
    return client.batches.create(input_file_id=upload(client, *lines).id, endpoint=endpoint, completion_window="24h", **more)


def wait(client, batch, seconds=30):
    return eventually(lambda: (b := client.batches.retrieve(batch.id)).status in OVER and b, seconds, f"{batch.id} is over")


def answers(client, file):
    return {a["custom_id"]: a for a in map(json.loads, client.files.content(file).text.splitlines())}


@pytest.fixture(scope="module")
def keys(tiny):
    """(network, client of team-a, client of team-b): two edges with keys, whose engines take 11 ms a token. Batches go to
    the first, which has `tiny`; the second has `far`."""
    with shared_network(edges={"edge-1": "north", "edge-2": "north"},
                        edge={"engine": "synthetic", "open": False, "slots": 4, "files_max": "400M"}) as net:
        made = [net.json("key", "new", name)["key"] for name in ("team-a", "team-b")]
        net.api_headers = {"authorization": "Bearer " + made[0]}
        net.push(tiny, "tiny", on="node=edge-1")
        net.push(tiny, "far", on="node=edge-2")
        edge = net.edges[0]
        eventually(lambda: edge.openai(made[1]).models.list(), what="the edge knows the keys")
        yield net, edge.openai(made[0]), edge.openai(made[1])


# ---- files ---------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was_sent(keys):
    _, client, _ = keys
    sent = "".join(json.dumps(line(i, note="\r\n--x ü")) + "\n" for i in range(5000)).encode()
    file = client.files.create(file=("many lines.jsonl", sent), purpose="batch",
                               expires_after={"anchor": "created_at", "seconds": 3600})
    assert (file.filename, file.bytes, file.purpose, file.object) == ("many lines.jsonl", len(sent), "batch", "file")
    assert file.expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert client.files.content(file.id).content == sent
    assert client.files.retrieve(file.id) == file
    assert file.id in [f.id for f in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    assert file.id not in [f.id for f in client.files.list()]


def test_files_are_listed_by_pages(keys):
    _, client, _ = keys
    made = [upload(client, line(i)).id for i in range(5)]
    assert [f.id for f in client.files.list(limit=2)][:5] == made[::-1], "newest first, all pages"
    page = client.files.list(limit=2, order="asc", after=made[0])
    assert [f.id for f in page.data] == made[1:3] and page.has_more
    for file in made:
        client.files.delete(file)


@pytest.mark.parametrize("form, param", [
    ({"files": {"file": ("a.jsonl", b"{}")}}, "purpose"),
    ({"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}}, "purpose"),
    ({"files": {"purpose": (None, "batch")}}, "file"),
    ({"files": {"file": ("a.jsonl", b"")}, "data": {"purpose": "batch"}}, "file"),
    ({"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "batch", "expires_after[seconds]": "5"}}, "expires_after.seconds"),
    ({"content": b"{}", "headers": {"content-type": "application/json"}}, None),
    ({"content": b"--x\r\nnothing", "headers": {"content-type": "multipart/form-data; boundary=x"}}, None),
], ids=["no purpose", "another purpose", "no file", "empty", "too short a life", "no form", "a broken form"])
def test_a_wrong_upload_is_told_and_leaves_nothing(keys, form, param):
    net, client, _ = keys
    form = {**form, "headers": {**form.get("headers", {}), "authorization": f"Bearer {client.api_key}"}}
    answer = httpx.post(net.edges[0].api_url + "/v1/files", **form)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    assert client.files.list().data == [] or all(f.filename != "a.jsonl" for f in client.files.list())
    assert not list((net.edges[0].folder / "batches").glob("*.tmp"))


# ---- batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", [URL, "/v1/completions", "/v1/embeddings"])
def test_a_batch_answers_every_line_once(keys, endpoint):
    _, client, _ = keys
    batch = begin(client, *(line(i, endpoint) for i in range(20)), endpoint=endpoint, metadata={"for": "tests"})
    assert batch.status in ("validating", "in_progress") and batch.metadata == {"for": "tests"}
    done = wait(client, batch)
    assert done.status == "completed" and done.error_file_id is None and done.completed_at >= done.in_progress_at
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (20, 20, 0)
    raw = client.files.content(done.output_file_id).text.splitlines()
    found = answers(client, done.output_file_id)
    assert len(raw) == 20 and set(found) == {f"line-{i}" for i in range(20)}
    for answer in found.values():
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        assert answer["response"]["body"]["model"] == "tiny:latest" and answer["response"]["body"]["usage"]["prompt_tokens"] > 0
    file = client.files.retrieve(done.output_file_id)
    assert file.purpose == "batch_output" and file.bytes == len("\n".join(raw)) + 1 and file.expires_at


def test_a_request_that_is_wrong_is_answered_so(keys):
    _, client, _ = keys
    bad = line(1)
    bad["body"]["temperature"] = 9
    done = wait(client, begin(client, line(0), bad, line(2, model="nobody")))
    assert done.status == "completed" and (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    assert set(answers(client, done.output_file_id)) == {"line-0"}
    errors = answers(client, done.error_file_id)
    assert errors["line-1"]["response"]["status_code"] == 400
    assert errors["line-1"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["line-2"]["response"]["status_code"] == 404
    assert errors["line-2"]["response"]["body"]["error"]["code"] == "model_not_found"


def test_what_is_wrong_with_a_file_is_told_by_line(keys):
    _, client, _ = keys
    done = wait(client, begin(client, line(0), "not json\n", "\n", line(0), line(1, url="/v1/embeddings"), line(2, method="GET"),
                              {"custom_id": "x", "method": "POST", "url": URL}, {**line(3), "custom_id": 7}))
    assert done.status == "failed" and done.output_file_id is None and done.failed_at
    told = [(e.line, e.code, e.param) for e in done.errors.data]
    assert told == [(2, "invalid_json_line", None), (4, "duplicate_custom_id", "custom_id"), (5, "mismatched_url", "url"),
                    (6, "invalid_method", "method"), (7, "missing_required_parameter", "body"),
                    (8, "missing_required_parameter", "custom_id")]
    assert "line 1" in done.errors.data[1].message


def test_a_batch_is_not_made_of_nonsense(keys):
    _, client, other = keys
    file, others = upload(client, line(0)), upload(other, line(0))
    for wrong, param in (({"input_file_id": "file-none"}, "input_file_id"), ({"endpoint": "/v1/rerank"}, "endpoint"),
                         ({"completion_window": "1h"}, "completion_window"), ({"input_file_id": others.id}, "input_file_id"),
                         ({"metadata": {"a": "x" * 513}}, "metadata")):
        with pytest.raises(openai.BadRequestError) as e:
            client.batches.create(**{"input_file_id": file.id, "endpoint": URL, "completion_window": "24h", **wrong})
        assert e.value.param == param


def test_another_tenant_sees_nothing_of_it(keys):
    _, client, other = keys
    batch = begin(client, line(0))
    done = wait(client, batch)
    assert other.batches.list().data == [] and batch.id in [b.id for b in client.batches.list()]
    assert done.output_file_id not in [f.id for f in other.files.list()]
    for sees in (lambda: other.batches.retrieve(batch.id), lambda: other.batches.cancel(batch.id),
                 lambda: other.files.retrieve(batch.input_file_id), lambda: other.files.content(done.output_file_id),
                 lambda: other.files.delete(done.output_file_id)):
        with pytest.raises(openai.NotFoundError):
            sees()
    assert client.files.content(done.output_file_id).text


def test_a_canceled_batch_keeps_what_it_has(keys):
    net, client, _ = keys
    batch = begin(client, *(line(i, words=20) for i in range(400)))
    eventually(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 4, what="some are answered")
    with pytest.raises(openai.ConflictError):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = wait(client, batch, 5)
    assert done.status == "cancelled" and done.cancelled_at and 4 <= done.request_counts.completed < 400
    assert len(answers(client, done.output_file_id)) == done.request_counts.completed
    eventually(lambda: net.edges[0].metric("mdn_ledger_open") == 0, what="nothing of it runs any more")
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    assert client.files.delete(batch.input_file_id).deleted


def test_others_go_first(keys):
    _, client, other = keys
    ask = lambda: other.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "now"}], max_tokens=8)  # noqa: E731
    def seconds():
        begun = time.monotonic()
        ask()
        return time.monotonic() - begun
    alone = min(seconds() for _ in range(3))
    batch = begin(client, *(line(i, words=100) for i in range(100)))
    eventually(lambda: client.batches.retrieve(batch.id).request_counts.completed >= 1, what="it is being worked on")
    beside = min(seconds() for _ in range(5))
    client.batches.cancel(batch.id)
    assert beside < alone + 0.6, "does not wait for a line of the batch, which takes over a second"
    wait(client, batch)


def test_a_kill_in_the_middle_loses_and_repeats_nothing(keys, recovery):
    net, client, _ = keys
    edge, count = net.edges[0], 200
    batch = begin(client, *(line(i, words=10) for i in range(count)))
    answered = lambda: client.batches.retrieve(batch.id).request_counts.completed  # noqa: E731
    for least in (40, 100):
        before = eventually(lambda: (n := answered()) >= least and n, what="some are answered")
        edge.kill()
        begun = time.monotonic()
        edge.start()
        assert eventually(lambda: client.batches.retrieve(batch.id), what="the edge is back").status == "in_progress"
        eventually(lambda: answered() > before, what="it goes on")
        recovery("a batch goes on after kill -9 of its node", time.monotonic() - begun)
    done = wait(client, batch, 60)
    assert done.status == "completed" and done.request_counts.completed == count and done.request_counts.failed == 0
    raw = [json.loads(a)["custom_id"] for a in client.files.content(done.output_file_id).text.splitlines()]
    assert sorted(raw) == sorted(f"line-{i}" for i in range(count))


def test_lines_may_be_answered_by_another_node(keys):
    net, client, _ = keys
    before = net.edges[1].metric("mdn_hops_total")
    done = wait(client, begin(client, *(line(i, words=4, model="far") for i in range(8))))
    assert done.status == "completed" and done.request_counts.completed == 8
    assert {a["response"]["body"]["model"] for a in answers(client, done.output_file_id).values()} == {"far:latest"}
    assert net.edges[1].metric("mdn_hops_total") >= before + 8
