# SPDX-License-Identifier: Apache-2.0
"""vLLM behind an edge: the real one, on this CPU, with a tiny random model. VLLM names the Python it is installed for
(`tools/setup vllm` makes one); without it these tests are skipped."""
import os
import signal
import subprocess
import threading
import time

import httpx
import openai
import pytest

from network import ROOT, eventually, free_port

HELLO = [{"role": "user", "content": "Say something about the sea."}]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
               "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    if os.environ.get("VLLM_URL"):  # one that runs already, with this model
        yield os.environ["VLLM_URL"]
        return
    python = os.environ.get("VLLM")
    if not python:
        pytest.skip("VLLM is not set: `tools/setup vllm` installs vLLM for CPUs; then VLLM=.deps/vllm/bin/python")
    folder = tmp_path_factory.mktemp("vllm")
    subprocess.run([python, ROOT / "tests/tools/tiny_hf.py", folder / "model"], check=True, timeout=120,
                   capture_output=True)
    port = free_port()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder / "model", "--served-model-name",
             "tiny", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--max-num-seqs", "4",
             "--enforce-eager", "--dtype", "float32"],
            stdout=log, stderr=log, env=os.environ | ENVIRONMENT, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: process.poll() is not None or httpx.get(url + "/health").status_code == 200, 400, every=0.5)
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it has an engine process of its own
        process.wait(10)


@pytest.fixture(scope="module")
def edge(vllm, tiny, tmp_path_factory):
    """The network knows the model's name and its file; the edge asks vLLM instead of loading it."""
    from conftest import discard, network_folder
    from network import Network
    folder = network_folder()
    network = Network(folder, edges={"edge-1": "north"}, edge={"engine": "remote", "remote_url": vllm})
    try:
        network.up()
        network.push(tiny, "tiny")
        yield network.edges[0]
    finally:
        network.down()
        discard(folder)


def running(vllm):
    metrics = httpx.get(vllm + "/metrics", timeout=10).text
    return sum(float(line.split()[-1]) for line in metrics.splitlines()
               if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_waiting{")))


def test_vllm_answers_behind_an_edge(edge, vllm):
    ask = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    theirs = httpx.post(vllm + "/v1/chat/completions", json=ask, timeout=60).json()
    with edge.openai(timeout=60) as client:
        whole = client.chat.completions.create(**ask)
        assert whole.choices[0].message.content == theirs["choices"][0]["message"]["content"]
        assert whole.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]
        assert whole.usage.completion_tokens == 12 and whole.choices[0].finish_reason == "length"
        *chunks, last = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
        assert last.usage.completion_tokens == 12
        text = client.completions.create(model="tiny", prompt="Once upon", max_tokens=5, temperature=0, logprobs=2)
        assert len(text.choices[0].logprobs.tokens) == 5
        listed = client.completions.create(model="tiny", prompt=[70, 71, 72], max_tokens=2, temperature=0)
        assert listed.usage.prompt_tokens == 3


def test_the_server_is_known(edge):
    listed = eventually(lambda: next(m for m in edge.get("/v1/models").json()["data"] if m["id"] == "tiny:latest"))
    assert listed["mdn"]["server"].startswith("vllm 0.") and listed["mdn"]["task"] == "generate"
    assert listed["max_model_len"] == 1024


def test_tokens_are_those_of_vllm(edge, vllm):
    for body in ({"model": "tiny", "prompt": "Grüße, 世界!", "return_token_strs": True},
                 {"model": "tiny", "messages": HELLO}, {"model": "tiny", "messages": HELLO,
                                                       "add_generation_prompt": False}):
        ours, theirs = (httpx.post(url + "/tokenize", json=body, timeout=30).json() for url in (edge.api_url, vllm))
        assert ours == theirs
    ours, theirs = (httpx.post(url + "/v1/chat/completions/render", json={"model": "tiny", "messages": HELLO}, timeout=30).json()
                    for url in (edge.api_url, vllm))
    assert ours["token_ids"] == theirs["token_ids"]
    back = httpx.post(edge.api_url + "/detokenize", json={"model": "tiny", "tokens": [70, 71]}, timeout=30).json()
    assert back == httpx.post(vllm + "/detokenize", json={"model": "tiny", "tokens": [70, 71]}, timeout=30).json()


def test_what_vllm_refuses_is_told(edge):
    with edge.openai(timeout=60) as client:
        with pytest.raises(openai.BadRequestError, match="maximum context length") as refused:
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 2000}])
        assert refused.value.code == "context_length_exceeded"
        with pytest.raises(openai.APIStatusError, match="has no /v1/embeddings") as refused:
            client.embeddings.create(model="tiny", input="x")
        assert refused.value.status_code in (400, 422, 501)


def test_load_is_told_and_clients_that_leave_end_it(edge, vllm):
    """vLLM's own numbers are seen at the edge; closing our streams frees its slots long before answers would end."""
    eventually(lambda: running(vllm) == 0, 30, "nothing runs")
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 900, "stream": True, "temperature": 1,
            "logit_bias": {"2": -100}}
    stop = threading.Event()

    def read():
        while not stop.is_set():
            with httpx.stream("POST", edge.api_url + "/v1/chat/completions", json=body, timeout=60) as answer:
                for _ in answer.iter_lines():
                    if stop.is_set():
                        return

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: running(vllm) >= 4, 20, "as many run as vLLM has places for")
        eventually(lambda: edge.metric("vllm:num_requests_running") >= 4, 10, "and we know")
        eventually(lambda: edge.metric("vllm:kv_cache_usage_perc") > 0, 10, "how full its cache is, too")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    begun = time.monotonic()
    eventually(lambda: running(vllm) == 0, 10, "it has stopped")
    assert time.monotonic() - begun < 5
