# SPDX-License-Identifier: Apache-2.0
"""Anthropic's Messages API of an edge, through the `anthropic` client as published."""
import json

import anthropic
import httpx
import pytest

HELLO = [{"role": "user", "content": "Say something about the sea."}]
WEATHER = {"name": "weather", "description": "Tells the weather.",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


def client_of(edge, key="any"):
    return anthropic.Anthropic(base_url=edge.api_url, api_key=key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def client(net):
    with client_of(net.edges[0]) as c:
        yield c


@pytest.fixture(scope="module")
def told(scripted_net):
    """A client whose answers are scripted, and the script."""
    net, script = scripted_net
    with client_of(net.edges[0]) as c:
        yield c, script


GREEDY = {"temperature": 0}  # this client has no word for it, the API has


def ask(client, messages=HELLO, model="tiny", **more):
    more.setdefault("max_tokens", 12)
    return client.messages.create(model=model, messages=messages, **more)


def test_an_answer_is_a_message_of_blocks(client):
    answer = ask(client, extra_body=GREEDY, system="Be brief.")
    assert answer.type == "message" and answer.role == "assistant" and answer.model == "tiny:latest"
    assert answer._request_id.startswith("req-")
    assert answer.id.startswith("msg_") and answer.stop_reason == "max_tokens"
    assert [b.type for b in answer.content] == ["text"] and answer.content[0].text
    assert answer.usage.output_tokens == 12 and answer.usage.input_tokens > 0


def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = ask(client, extra_body=GREEDY).content[0].text
    with client.messages.stream(model="tiny", max_tokens=12, messages=HELLO, extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == whole
        last = stream.get_final_message()
    assert last.content[0].text == whole and last.stop_reason == "max_tokens" and last.usage.output_tokens == 12
    kinds = [e.type for e in ask(client, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_cached_tokens_are_told_apart(client):
    long = [{"role": "user", "content": "Tell me of rivers and bridges once more. " * 20}]
    first, second = ask(client, long).usage, ask(client, long).usage
    whole = first.input_tokens + first.cache_read_input_tokens
    assert second.cache_read_input_tokens > 0 and second.input_tokens + second.cache_read_input_tokens == whole


def test_a_stop_sequence_is_named(client):
    text = ask(client, extra_body=GREEDY, max_tokens=24).content[0].text
    middle = len(text) // 2
    stop = text[middle:middle + 3]
    answer = ask(client, extra_body=GREEDY, max_tokens=24, stop_sequences=["\x01never", stop])
    assert answer.stop_reason == "stop_sequence" and answer.stop_sequence == stop
    assert answer.content[0].text == text[:text.index(stop)]


def test_tokens_are_counted_as_they_are_asked(client):
    counted = client.messages.count_tokens(model="tiny", messages=HELLO, system="Be brief.").input_tokens
    usage = ask(client, system="Be brief.").usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_thinking_comes_as_its_own_block(told):
    client, _ = told
    answer = ask(client, model="scripted")
    assert [b.type for b in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == "The sea, then." and answer.content[1].text == "It is wide."
    assert answer.stop_reason == "end_turn"
    with client.messages.stream(model="scripted", max_tokens=12, messages=HELLO) as stream:
        last = stream.get_final_message()
    assert [b.type for b in last.content] == ["thinking", "text"]
    assert last.content[0].thinking == "The sea, then." and last.content[1].text == "It is wide."


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_are_called_and_answered(told, streamed):
    client, script = told

    def say(messages):
        more = {"model": "scripted", "max_tokens": 50, "messages": messages, "tools": [WEATHER]}
        if not streamed:
            return client.messages.create(**more)
        with client.messages.stream(**more) as stream:
            return stream.get_final_message()
    question = [{"role": "user", "content": "How is it in Oslo?"}]
    call = say(question)
    assert call.stop_reason == "tool_use" and [b.type for b in call.content] == ["text", "tool_use"]
    use = call.content[1]
    assert use.name == "weather" and use.input == {"city": "Oslo"} and use.id == "call_abc"
    assert script.last["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]
    answer = say(question + [{"role": "assistant", "content": call.content}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "rain"}]}]}])
    assert answer.content[0].text == "It says rain." and answer.stop_reason == "end_turn"
    assert [m["role"] for m in script.last["messages"]] == ["user", "assistant", "tool"]
    sent = script.last["messages"][1]
    assert sent["content"] == "Let me see." and json.loads(sent["tool_calls"][0]["function"]["arguments"]) == use.input
    assert script.last["messages"][2]["tool_call_id"] == use.id


def test_a_stream_that_breaks_ends_with_an_error(told):
    client, _ = told
    with pytest.raises(anthropic.APIStatusError) as e:
        with client.messages.stream(model="scripted", max_tokens=9,
                                    messages=[{"role": "user", "content": "break"}]) as stream:
            stream.get_final_message()
    assert "cut the stream" in str(e.value), str(e.value)


def test_errors_are_the_exceptions_a_client_expects(client, net):
    with pytest.raises(anthropic.NotFoundError) as e:
        ask(client, model="no-such")
    assert e.value.body["type"] == "error" and e.value.body["error"]["type"] == "not_found_error"
    assert "tiny" in e.value.message
    with pytest.raises(anthropic.BadRequestError) as e:
        ask(client, [{"role": "user", "content": [{"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "AA=="}}]}])
    assert e.value.body["error"]["type"] == "invalid_request_error" and "not supported by this model" in e.value.message
    with pytest.raises(anthropic.BadRequestError) as e:
        ask(client, extra_body={"temperature": 9})
    assert "temperature" in e.value.message
    with pytest.raises(anthropic.BadRequestError):
        ask(client, [{"role": "user", "content": "word " * 5000}])
    answer = httpx.get(net.edges[0].api_url + "/v1/messages")
    assert answer.status_code == 405 and answer.json()["type"] == "error"


def test_keys_come_in_anthropics_header(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"open": False})
    key = net.json("key", "new", "team-a")["key"]
    net.api_headers = {"authorization": "Bearer " + key}
    net.push(tiny, "tiny")
    with client_of(net.edges[0], key) as c:
        assert ask(c).content
    with client_of(net.edges[0], "wrong") as c, pytest.raises(anthropic.AuthenticationError) as e:
        ask(c)
    assert e.value.body["error"]["type"] == "authentication_error"
