# SPDX-License-Identifier: Apache-2.0
"""The OpenAI API of an edge, through the `openai` client as published."""
import json
import threading
import time

import httpx
import openai
import pytest

from network import eventually, tiny_model

TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call functions. They are:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
For each call say <tool_call>
{"name": NAME, "arguments": ARGUMENTS}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
HELLO = [{"role": "user", "content": "Say something about the sea."}]


@pytest.fixture(scope="module")
def client(net):
    with net.edges[0].openai() as c:
        yield c


# The weights are random: with its tail cut, a distribution ends many an answer early.
FLAT = {"min_p": 0}
NO_END = {"0": -100, "2": -100}


def chat(client, messages=HELLO, **more):
    more.setdefault("max_tokens", 12)
    more.setdefault("extra_body", FLAT)
    return client.chat.completions.create(model="tiny", messages=messages, **more)


def stream_text(stream):
    return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


# ---- models ------------------------------------------------------------------------------------------


def test_models_are_listed_and_retrieved_under_both_names(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["tiny:latest"]
    assert listed[0].object == "model"
    assert client.models.retrieve("tiny:latest").id == "tiny:latest"
    assert client.models.retrieve("tiny").id == "tiny:latest"


# ---- answers -----------------------------------------------------------------------------------------


def test_a_chat_answer_is_whole(client):
    answer = chat(client, temperature=0)
    assert answer.object == "chat.completion" and answer.model == "tiny:latest" and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = chat(client, temperature=0).choices[0].message.content
    chunks = list(chat(client, temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) > 3 and len({c.id for c in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "length" and all(c.usage is None for c in chunks)
    assert stream_text(chunks) == whole


def test_usage_comes_last_when_asked_for(client):
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks)


def test_completions_continue_a_text(client):
    whole = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=8, temperature=0)
    assert whole.object == "text_completion" and whole.choices[0].text and whole.usage.completion_tokens == 8
    stream = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=8, temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in stream if c.choices) == whole.choices[0].text
    several = client.completions.create(model="tiny", prompt=["one", "two"], max_tokens=4)
    assert [c.index for c in several.choices] == [0, 1]


def test_stop_ends_the_answer_and_is_not_part_of_it(client):
    text = chat(client, temperature=0, max_tokens=24).choices[0].message.content
    middle = len(text) // 2
    stop = text[middle:middle + 3]
    choice = chat(client, temperature=0, max_tokens=24, stop=[stop]).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.message.content == text[:text.index(stop)]


def test_n_gives_that_many_answers_and_counts_the_prompt_once(client):
    one, three = chat(client, seed=1), chat(client, seed=1, n=3)
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert three.usage.prompt_tokens == one.usage.prompt_tokens and three.usage.completion_tokens == 36
    assert {c.choices[0].index for c in chat(client, n=2, stream=True) if c.choices} == {0, 1}


def test_a_seed_repeats_and_another_does_not(client):
    texts = [chat(client, seed=seed, temperature=1).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_max_completion_tokens_wins_over_max_tokens(client):
    assert chat(client, max_tokens=9, max_completion_tokens=3).usage.completion_tokens == 3


def test_logprobs_come_with_each_token(client):
    tokens = chat(client, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(tokens) == 12
    for t in tokens:
        assert len(t.top_logprobs) == 3 and t.logprob <= 0
        assert t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob >= t.top_logprobs[2].logprob
        assert t.logprob == pytest.approx(t.top_logprobs[0].logprob)
    choice = client.completions.create(model="tiny", prompt="abc", max_tokens=4, logprobs=2, temperature=0).choices[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 4


def test_a_json_schema_holds_even_for_random_weights(client):
    schema = {"type": "object", "additionalProperties": False, "required": ["yes", "count"],
              "properties": {"yes": {"type": "boolean"}, "count": {"type": "integer", "minimum": 0, "maximum": 99}}}
    answer = chat(client, max_tokens=200, seed=5, response_format={
        "type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}})
    said = json.loads(answer.choices[0].message.content)
    assert set(said) == {"yes", "count"} and isinstance(said["yes"], bool) and 0 <= said["count"] <= 99


def test_a_prompt_may_be_token_ids(client, net):
    told = httpx.post(net.edges[0].api_url + "/tokenize", json={"model": "tiny", "prompt": "Once upon a time"}).json()
    ask = {"model": "tiny", "max_tokens": 8, "temperature": 0, "extra_body": FLAT}
    text = client.completions.create(prompt="Once upon a time", **ask)
    ids = client.completions.create(prompt=told["tokens"], **ask)
    assert ids.choices[0].text == text.choices[0].text and ids.usage.prompt_tokens == text.usage.prompt_tokens
    two = client.completions.create(prompt=[told["tokens"], told["tokens"][:2]], **ask)
    assert [c.index for c in two.choices] == [0, 1] and two.choices[0].text == text.choices[0].text


def test_a_chat_is_rendered_as_it_is_computed(client, net):
    """Routers that choose by tokens, such as vllm-router, ask with a chat's own body."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Once"}], "max_tokens": 1, "stream": False}
    url = net.edges[0].api_url
    rendered = httpx.post(url + "/v1/chat/completions/render", json=body).json()["token_ids"]
    assert rendered == httpx.post(url + "/tokenize", json={"model": "tiny", "messages": body["messages"]}).json()["tokens"]
    assert len(rendered) == client.chat.completions.create(**body).usage.prompt_tokens


def test_the_best_of_several_is_given(client):
    ask = {"model": "tiny", "prompt": "The sea", "max_tokens": 6, "seed": 3, "temperature": 1, "logprobs": 0,
           "extra_body": FLAT}

    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)
    every = sorted(client.completions.create(n=4, **ask).choices, key=mean, reverse=True)
    best = client.completions.create(n=2, best_of=4, **ask)
    assert [c.text for c in best.choices] == [c.text for c in every[:2]] and best.usage.completion_tokens == 24


def test_an_echo_has_log_probabilities_too(client):
    choice = client.completions.create(model="tiny", prompt="Once upon a time", max_tokens=3, echo=True, logprobs=1,
                                       temperature=0).choices[0]
    assert choice.text.startswith("Once upon a time") and "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None and all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset[0] == 0 and choice.logprobs.text_offset[-1] < len(choice.text)


def test_urgency_is_a_class_a_number_or_a_tier(client):
    for more in ({"priority": "bulk"}, {"priority": -5}, {"service_tier": "flex"}, {"cache_salt": "x"}):
        assert chat(client, extra_body=FLAT | more).choices
    for wrong in ("system", "soon"):
        with pytest.raises(openai.BadRequestError) as e:
            chat(client, extra_body={"priority": wrong})
        assert e.value.param == "priority"


LIGHT = {"type": "function", "function": {"name": "set_light", "description": "Switches the light.", "parameters": {
    "type": "object", "additionalProperties": False, "required": ["on"], "properties": {"on": {"type": "boolean"}}}}}


def test_tools_reach_the_prompt_of_a_template_that_knows_them(net, models):
    """Random weights call nothing, but what they were asked is longer with a tool than without."""
    net.push(tiny_model(models, "tools", seed=2, chat_template=TOOL_TEMPLATE), "tools", on="node=edge-1")
    try:
        with net.edges[0].openai() as c:
            def ask(**more):
                return c.chat.completions.create(model="tools", messages=HELLO, max_tokens=8, temperature=0, **more)
            without, choice_none = ask(), ask(tools=[LIGHT], tool_choice="none")
            auto, required = ask(tools=[LIGHT]), ask(tools=[LIGHT], tool_choice="required")
            assert auto.usage.prompt_tokens > without.usage.prompt_tokens + 20
            assert required.usage.prompt_tokens >= auto.usage.prompt_tokens
            assert choice_none.choices[0].message.tool_calls is None
    finally:
        net.mdn("place", "tools", "--on", "node=edge-1", "--remove")
    eventually(lambda: "tools:latest" not in net.edges[0].get("/v1/models").text, 10, "the model is gone")


def test_required_tools_are_refused_where_the_template_has_none(client):
    """Rather than answered with something that is no call."""
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, tools=[LIGHT], tool_choice="required")
    assert "tool" in e.value.message


# ---- errors ------------------------------------------------------------------------------------------


def test_errors_are_the_exceptions_a_client_expects(client):
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="no-such", messages=HELLO)
    assert e.value.code == "model_not_found" and "tiny" in e.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such")
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, temperature=9)
    assert e.value.param == "temperature" and e.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
    assert e.value.param.startswith("messages[0].content[0]")
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert e.value.code == "context_length_exceeded"


def test_what_is_not_http_or_not_json_is_refused(net):
    url = net.edges[0].api_url + "/v1/chat/completions"
    assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    answer = httpx.get(url)
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]
    assert httpx.post(url, json={"model": "tiny", "messages": HELLO}, headers={"x-mdn-hop": "1"}).status_code == 400
    assert httpx.get(net.edges[0].api_url + "/nothing").status_code == 404


# ---- keys --------------------------------------------------------------------------------------------


def test_keys_open_what_is_not_open(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"open": False})
    made = net.json("key", "new", "team-a")
    net.api_headers = {"authorization": "Bearer " + made["key"]}
    net.push(tiny, "tiny")
    edge = net.edges[0]
    assert chat(edge.openai(made["key"])).choices
    for wrong in ("nonsense", made["key"][:-1] + ("0" if made["key"][-1] != "0" else "1")):
        with pytest.raises(openai.AuthenticationError) as e:
            chat(edge.openai(wrong))
        assert e.value.code == "invalid_api_key"
    assert httpx.get(edge.api_url + "/v1/models").status_code == 401
    assert httpx.get(edge.api_url + "/health").status_code == 200
    assert made["id"] in net.mdn("key", "list") and made["key"] not in net.mdn("key", "list", "--json")

    net.mdn("key", "revoke", made["id"])

    def revoked():
        return httpx.get(edge.api_url + "/v1/models", headers=net.api_headers).status_code == 401
    eventually(revoked, 5, "a revoked key is refused")
    # Only a hash is kept, anywhere.
    for path in net.folder.rglob("*"):
        if path.is_file():
            assert made["key"].encode() not in path.read_bytes(), path


# ---- the engine behind it ----------------------------------------------------------------------------


def test_a_client_that_leaves_frees_its_slot(net):
    def total(metric):
        return sum(edge.metric(metric) for edge in net.edges)  # whichever of them answers

    with net.edges[2].openai() as client:
        stream = chat(client, stream=True, max_tokens=3500, logit_bias=NO_END)
        next(iter(stream))
        eventually(lambda: total("vllm:num_requests_running") >= 1, 3, "its engine has told that it runs")
        stream.close()
    eventually(lambda: total("vllm:num_requests_running") == 0, 3, "the slot is free")
    eventually(lambda: total("mdn_ledger_open") == 0, 3, "the books are closed")


def test_a_second_turn_finds_the_first_in_the_cache(net):
    client = net.edges[2].openai(default_headers={"x-request-id": "two-turns"})
    first = [{"role": "user", "content": "Tell me of rivers and bridges. " * 30}]
    answer = chat(client, first)
    second = first + [{"role": "assistant", "content": answer.choices[0].message.content},
                      {"role": "user", "content": "And of mountains?"}]
    usage = chat(client, second).usage
    assert usage.prompt_tokens_details.cached_tokens > 100
    assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_a_long_prompt_does_not_stop_the_others(net):
    """Chunked prefill: while a prompt of some thousand characters is computed, a stream's tokens still come."""
    edge, stamps = net.edges[2], []
    with edge.openai() as one, edge.openai() as two:
        stream = chat(one, stream=True, max_tokens=400, logit_bias=NO_END)
        asked = threading.Thread(target=lambda: chat(two, [{"role": "user", "content": "hill and dale " * 350}],
                                                     max_tokens=1))
        for i, _ in enumerate(stream):
            stamps.append(time.monotonic())
            if i == 20:
                asked.start()
        asked.join(30)
    gaps = sorted(b - a for a, b in zip(stamps, stamps[1:]))
    assert len(stamps) > 100 and gaps[-1] < 2.0


def test_more_requests_than_slots_wait_and_are_all_answered(net):
    edge, answers = net.edges[0], []

    def ask(i):
        with edge.openai(timeout=60) as client:
            answers.append(chat(client, seed=i, max_tokens=20).usage.completion_tokens)
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(answers) == 16 and all(1 <= n <= 20 for n in answers)


def test_traces_and_request_ids_travel(net):
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = httpx.post(net.edges[0].api_url + "/v1/chat/completions", timeout=30, headers={
        "x-request-id": "find-me-again", "traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        json={"model": "tiny", "messages": HELLO, "max_tokens": 2})
    assert answer.headers["x-request-id"] == "find-me-again" and answer.headers["x-mdn-node"]
    line = eventually(lambda: next((x for x in net.edges[0].log_lines() if x.get("request_id") == "find-me-again"), None))
    assert line["event"] == "access" and line["trace_id"] == trace and line["status"] == 200
    assert line["completion_tokens"] == 2 and line["route"] in ("local", "forward")
