# SPDX-License-Identifier: Apache-2.0
"""Embeddings, ranks and tokens: what llama-server computes from the same files, through the real client, here and over
another node."""
import base64
import math
import struct
import subprocess

import httpx
import openai
import pytest

from network import eventually, free_port, tiny_model

TEXTS = ["the sea", "A ship sails in the light of the moon, slowly and without a sound.", "x",
         "42 words that nobody has said: zebra, quartz, jumping!"]
EMBEDDERS = {"bert": "cls", "nomic-bert": "mean", "qwen3": "last"}
QUERY, DOCUMENTS = "what is on the sea", ["a ship and the moon", "some words about nothing at all", "the sea is hot"]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def post(edge, path, json):
    return httpx.post(edge.api_url + path, json=json, timeout=30)


@pytest.fixture(scope="module")
def files(models):
    made = {arch: tiny_model(models, "e2e-" + arch, arch=arch, pooling=how) for arch, how in EMBEDDERS.items()}
    return made | {"rank": tiny_model(models, "e2e-rank", arch="bert", pooling="rank", seed=2)}


@pytest.fixture(scope="module")
def placed(net, files):
    """On one edge only, so that the others must pass requests on."""
    for name, path in files.items():
        net.push(path, name, on="node=edge-3")
    yield net
    for name in files:
        net.mdn("place", name, "--on", "node=edge-3", "--remove")


@pytest.fixture
def server(llama_server, files, folder):
    """server(model) is the address of a llama-server that embeds or ranks with it."""
    started = []

    def start(model):
        port = free_port()
        how = "--reranking" if model == "rank" else "--embedding"
        with open(folder / f"llama-{model}.log", "wb") as log:
            started.append(subprocess.Popen([llama_server, "--model", files[model], "--port", str(port), "--threads",
                                             "1", how], stdout=log, stderr=log))
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: httpx.get(url + "/health").status_code == 200, 30, "llama-server is up")
        return url

    yield start
    for process in started:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("model", EMBEDDERS)
def test_vectors_are_those_of_llama_server(placed, server, model):
    theirs = httpx.post(server(model) + "/v1/embeddings", json={"input": TEXTS}, timeout=30).json()
    for edge in (2, 0):  # at home, and from another node
        with placed.edges[edge].openai() as client:
            ours = client.embeddings.create(model=model, input=TEXTS)
            assert ours.usage.prompt_tokens == ours.usage.total_tokens == theirs["usage"]["prompt_tokens"]
            assert [d.index for d in ours.data] == list(range(len(TEXTS)))
            for a, b in zip(ours.data, theirs["data"]):
                assert cosine(a.embedding, b["embedding"]) > 0.9999
                assert abs(math.hypot(*a.embedding) - 1) < 1e-5


def test_ranks_are_those_of_llama_server(placed, server):
    body = {"model": "rank", "query": QUERY, "documents": DOCUMENTS}
    theirs = httpx.post(server("rank") + "/v1/rerank", json=body, timeout=30).json()
    for edge in (placed.edges[2], placed.edges[1]):
        ours = httpx.post(edge.api_url + "/v1/rerank", json=body, timeout=30).json()
        assert [r["index"] for r in ours["results"]] == [r["index"] for r in theirs["results"]]
        for a, b in zip(ours["results"], theirs["results"]):
            assert a["relevance_score"] == pytest.approx(b["relevance_score"], rel=1e-4, abs=1e-4)
            assert a["document"]["text"] == DOCUMENTS[a["index"]]
        assert ours["usage"]["total_tokens"] == theirs["usage"]["total_tokens"]
    best = httpx.post(edge.api_url + "/rerank", json={**body, "top_n": 1, "return_documents": False}).json()
    assert best["results"] == [{k: ours["results"][0][k] for k in ("index", "relevance_score")}]


def test_numbers_base64_tokens_and_dimensions_say_the_same(placed):
    edge = placed.edges[2]
    with edge.openai() as client:
        decoded = client.embeddings.create(model="bert", input="the sea").data[0].embedding  # base64, by the client
        numbers = client.embeddings.create(model="bert", input="the sea", encoding_format="float").data[0].embedding
        assert numbers == pytest.approx(decoded, rel=1e-7)
        assert [struct.unpack("f", struct.pack("f", n))[0] for n in numbers] == decoded  # not a bit lost
        raw = client.embeddings.with_raw_response.create(model="bert", input="the sea", encoding_format="base64")
        packed = raw.http_response.json()["data"][0]["embedding"]
        assert list(struct.unpack("<64f", base64.b64decode(packed))) == decoded
        tokens = post(edge, "/tokenize", json={"model": "bert", "prompt": "the sea"}).json()["tokens"]
        for given in (tokens, [tokens, tokens]):
            answer = client.embeddings.create(model="bert", input=given)
            assert answer.data[-1].embedding == pytest.approx(decoded, abs=1e-6)
        short = client.embeddings.create(model="bert", input="the sea", dimensions=8).data[0].embedding
        assert len(short) == 8 and abs(math.hypot(*short) - 1) < 1e-6
        assert cosine(short, decoded[:8]) > 0.999999


def test_two_thousand_texts_at_once(placed):
    texts = [f"number {i} of the sea" for i in range(2048)]
    with placed.edges[0].openai() as client:
        answer = client.embeddings.create(model="bert", input=texts, timeout=120)
        assert len(answer.data) == 2048
        alone = client.embeddings.create(model="bert", input=texts[1234])
        assert cosine(answer.data[1234].embedding, alone.data[0].embedding) > 0.9999


def test_tokens_there_and_back(placed, tiny):
    for edge in placed.edges[:2]:
        text = "Grüße, 世界! two  spaces"
        there = post(edge, "/tokenize", json={"model": "tiny", "prompt": text, "return_token_strs": True}).json()
        assert there["count"] == len(there["tokens"]) == len(there["token_strs"]) and there["max_model_len"] > 0
        back = post(edge, "/detokenize", json={"model": "tiny", "tokens": there["tokens"]}).json()
        assert back == {"prompt": text}
        messages = [{"role": "user", "content": "Hi"}]
        whole = post(edge, "/tokenize", json={"model": "tiny", "messages": messages}).json()
        bare = post(edge, "/tokenize", json={"model": "tiny", "messages": messages,
                                             "add_generation_prompt": False}).json()
        assert whole["token_strs"] is None and whole["count"] > bare["count"]
        with edge.openai() as client:
            asked = client.chat.completions.create(model="tiny", messages=messages, max_tokens=1)
            assert asked.usage.prompt_tokens == whole["count"]


def test_models_are_listed_with_what_they_are_for(placed):
    here, elsewhere = ({m["id"]: m["mdn"] for m in edge.get("/v1/models").json()["data"]} for edge in
                       (placed.edges[2], placed.edges[0]))
    assert here["bert:latest"] == {"nodes": 1, "here": True, "task": "embed", "dimensions": 64}
    assert here["rank:latest"]["task"] == "rerank" and here["tiny:latest"]["task"] == "generate"
    assert elsewhere["bert:latest"] == {"nodes": 1, "here": False}


def test_what_cannot_be_is_said_in_openais_words(placed):
    for edge in (placed.edges[2], placed.edges[0]):
        with edge.openai() as client:
            for call, words in (
                    (lambda: client.embeddings.create(model="tiny", input="x"), "does not embed"),
                    (lambda: client.embeddings.create(model="rank", input="x"), "/v1/rerank"),
                    (lambda: client.embeddings.create(model="bert", input="sea " * 600), "shorten"),
                    (lambda: client.embeddings.create(model="bert", input=["ok", ""]), "input"),
                    (lambda: client.embeddings.create(model="bert", input="x", dimensions=65), "64"),
                    (lambda: client.embeddings.create(model="bert", input=[[1, 2], [100000]]), "no token"),
                    (lambda: client.chat.completions.create(
                        model="bert", messages=[{"role": "user", "content": "Hi"}]), "/v1/embeddings")):
                with pytest.raises(openai.BadRequestError, match=words):
                    call()
            with pytest.raises(openai.NotFoundError):
                client.embeddings.create(model="nobody", input="x")
        for path, body, param in (("/v1/rerank", {"model": "rank", "documents": ["x"]}, "query"),
                                  ("/v1/rerank", {"model": "rank", "query": "x", "documents": [1]}, "documents[0]"),
                                  ("/v1/embeddings", {"model": "bert", "input": [1, "x"]}, "input"),
                                  ("/v1/embeddings", {"model": "bert"}, "input"),
                                  ("/tokenize", {"model": "tiny"}, "prompt"),
                                  ("/detokenize", {"model": "tiny", "tokens": [-1]}, "tokens[0]")):
            refused = post(edge, path, json=body)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == param, (path, refused.text)


def test_a_generating_model_embeds_where_the_operator_says_how(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"pooling": "mean"})
    net.push(tiny, "tiny")
    with net.edges[0].openai() as client:
        a, b = client.embeddings.create(model="tiny", input=["the sea", "the moon"]).data
        assert 0 < cosine(a.embedding, b.embedding) < 0.99999
