# SPDX-License-Identifier: Apache-2.0
"""Ollama's API of an edge, through the `ollama` client as published."""
import json

import httpx
import ollama
import pytest

HELLO = [{"role": "user", "content": "Say something about the sea."}]
GREEDY = {"temperature": 0, "num_predict": 12, "repeat_penalty": 1.0}


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: where
    """
    return "rain"


@pytest.fixture(scope="module")
def client(net):
    return ollama.Client(host=net.edges[0].api_url)


@pytest.fixture(scope="module")
def told(scripted_net):
    net, script = scripted_net
    return ollama.Client(host=net.edges[0].api_url), script


def test_a_chat_streams_what_it_says_whole(client):
    whole = client.chat("tiny", HELLO, options=GREEDY)
    assert whole.model == "tiny:latest" and whole.done and whole.done_reason == "length" and whole.message.content
    assert whole.eval_count == 12 and whole.prompt_eval_count > 0 and whole.total_duration >= whole.eval_duration > 0
    *parts, last = client.chat("tiny", HELLO, options=GREEDY, stream=True)
    assert "".join(p.message.content for p in parts) == whole.message.content
    assert not any(p.done for p in parts) and last.done and last.eval_count == 12


def test_generate_is_a_chat_of_one_turn_unless_raw(client):
    whole = client.generate("tiny", HELLO[0]["content"], options=GREEDY)
    assert whole.response == client.chat("tiny", HELLO, options=GREEDY).message.content
    with_system = client.generate("tiny", "x", system="Be brief.", options=GREEDY)
    assert with_system.prompt_eval_count != client.generate("tiny", "x", options=GREEDY).prompt_eval_count
    raw = client.generate("tiny", "Once upon a time", raw=True, options=GREEDY)
    assert raw.response and raw.prompt_eval_count < whole.prompt_eval_count
    parts = client.generate("tiny", "Once upon a time", raw=True, options=GREEDY, stream=True)
    assert "".join(p.response for p in parts) == raw.response


def test_a_format_holds_even_for_random_weights(client):
    schema = {"type": "object", "required": ["yes"], "properties": {"yes": {"type": "boolean"}}, "additionalProperties": False}
    answer = client.chat("tiny", HELLO, format=schema, options={"num_predict": 100})
    assert isinstance(json.loads(answer.message.content)["yes"], bool)


def test_nothing_asked_is_a_model_loaded(client):
    answer = client.generate("tiny", keep_alive="5m")
    assert answer.done and answer.done_reason == "load" and answer.response == ""
    assert client.chat("tiny", []).done_reason == "load"


def test_thinking_is_told_apart(told):
    client, _ = told
    answer = client.chat("scripted", HELLO, think=True)
    assert answer.message.thinking == "The sea, then." and answer.message.content == "It is wide."
    parts = list(client.chat("scripted", HELLO, think=True, stream=True))
    assert "".join(p.message.thinking or "" for p in parts) == "The sea, then."
    assert "".join(p.message.content or "" for p in parts) == "It is wide."
    assert client.generate("scripted", "x").thinking == "The sea, then."


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_are_called_and_answered(told, streamed):
    client, script = told
    first = client.chat("scripted", HELLO, tools=[weather], stream=streamed)
    messages = [p.message for p in first] if streamed else [first.message]
    calls = [c for m in messages for c in m.tool_calls or []]
    assert len(calls) == 1 and calls[0].function.name == "weather" and calls[0].function.arguments == {"city": "Oslo"}
    assert script.last["tools"][0]["function"]["parameters"]["required"] == ["city"]
    text = "".join(m.content or "" for m in messages)
    answer = client.chat("scripted", HELLO + [
        {"role": "assistant", "content": text, "tool_calls": calls},
        {"role": "tool", "tool_name": "weather", "content": weather(**calls[0].function.arguments)}], tools=[weather])
    assert answer.message.content == "It says rain."
    assert [m["role"] for m in script.last["messages"]] == ["user", "assistant", "tool"]


def test_models_are_listed_shown_and_running(client, net):
    listed = client.list().models
    assert [m.model for m in listed] == ["tiny:latest"] and listed[0].size > 0 and listed[0].digest
    shown = client.show("tiny")
    assert shown.details.format == "gguf" and "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"] == shown.details.family
    count = shown.modelinfo["general.parameter_count"]
    assert shown.details.parameter_size == f"{count // 1000}K" and shown.details.quantization_level == "F32"
    assert listed[0].details.parameter_size == shown.details.parameter_size
    running = client.ps().models
    assert [m.model for m in running] == ["tiny:latest"] and running[0].size > 0
    version = httpx.get(net.edges[0].api_url + "/api/version").json()
    assert version["version"].count(".") == 2


def test_errors_are_the_exceptions_a_client_expects(client):
    with pytest.raises(ollama.ResponseError) as e:
        client.chat("no-such", HELLO)
    assert e.value.status_code == 404 and "no-such" in e.value.error
    with pytest.raises(ollama.ResponseError) as e:
        client.show("no-such")
    assert e.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as e:
        client.chat("tiny", HELLO, options={"top_p": 7})
    assert e.value.status_code == 400 and "top_p" in e.value.error
    with pytest.raises(ollama.ResponseError) as e:
        client.generate("tiny", "x", images=[b"x"])
    assert "not supported by this model" in e.value.error
    with pytest.raises(ollama.ResponseError) as e:
        client.chat("tiny", [{"role": "user", "content": "word " * 5000}])
    assert e.value.status_code == 400
