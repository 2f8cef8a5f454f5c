# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Responses API of an edge, through the `openai` client as published."""
import json

import openai
import pytest

WEATHER = {"type": "function", "name": "weather", "description": "Tells the weather.", "strict": True,
           "parameters": {"type": "object", "additionalProperties": False, "required": ["city"],
                          "properties": {"city": {"type": "string"}}}}
HELLO = "Say something about the sea."
FLAT = {"min_p": 0}


@pytest.fixture(scope="module")
def client(net):
    with net.edges[0].openai() as c:
        yield c


@pytest.fixture(scope="module")
def told(scripted_net):
    net, script = scripted_net
    with net.edges[0].openai() as c:
        yield c, script


def ask(client, input=HELLO, model="tiny", **more):
    more.setdefault("max_output_tokens", 12)
    return client.responses.create(model=model, input=input, extra_body=FLAT, **more)


def test_an_answer_is_a_response_of_items(client):
    answer = ask(client, temperature=0, instructions="Be brief.", metadata={"a": "b"})
    assert answer.object == "response" and answer.id.startswith("resp_") and answer.model == "tiny:latest"
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"
    assert [item.type for item in answer.output] == ["message"] and answer.output_text
    assert answer.usage.output_tokens == 12 and answer.usage.total_tokens == answer.usage.input_tokens + 12
    assert answer.instructions == "Be brief." and answer.metadata == {"a": "b"} and answer.store is False


def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = ask(client, temperature=0).output_text
    events = list(ask(client, temperature=0, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:4]] == ["response.created", "response.in_progress", "response.output_item.added",
                                            "response.content_part.added"]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole
    assert [e.type for e in events[-4:]] == ["response.output_text.done", "response.content_part.done",
                                             "response.output_item.done", "response.incomplete"]
    assert events[-1].response.output_text == whole and events[-1].response.usage.output_tokens == 12


def test_the_clients_own_stream_helper_reads_it(client):
    with client.responses.stream(model="tiny", input=HELLO, max_output_tokens=8, temperature=0) as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    assert text == ask(client, temperature=0, max_output_tokens=8).output_text


def test_log_probabilities_come_when_included(client):
    answer = ask(client, temperature=0, include=["message.output_text.logprobs"], top_logprobs=2)
    tokens = answer.output[0].content[0].logprobs
    assert len(tokens) == 12 and all(len(t.top_logprobs) == 2 for t in tokens)
    events = ask(client, temperature=0, include=["message.output_text.logprobs"], top_logprobs=2, stream=True)
    deltas = [t for e in events if e.type == "response.output_text.delta" for t in e.logprobs]
    assert [t.token for t in deltas] == [t.token for t in tokens]


def test_a_json_schema_holds_even_for_random_weights(client):
    schema = {"type": "object", "additionalProperties": False, "required": ["yes"], "properties": {"yes": {"type": "boolean"}}}
    answer = ask(client, max_output_tokens=100, text={"format": {"type": "json_schema", "name": "it", "schema": schema,
                                                                 "strict": True}})
    assert answer.status == "completed" and isinstance(json.loads(answer.output_text)["yes"], bool)


def test_reasoning_is_an_item_before_the_message(told):
    client, _ = told
    answer = ask(client, model="scripted")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "The sea, then." and answer.output_text == "It is wide."
    assert answer.status == "completed" and answer.usage.input_tokens_details.cached_tokens == 4
    *events, last = ask(client, model="scripted", stream=True)
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "The sea, then."
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["reasoning", "message"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_tools_are_called_and_answered(told, streamed):
    client, script = told

    def say(input):
        answer = ask(client, input, model="scripted", tools=[WEATHER], stream=streamed)
        return list(answer)[-1].response if streamed else answer
    question = [{"role": "user", "content": "How is it in Oslo?"}]
    first = say(question)
    assert [item.type for item in first.output] == ["message", "function_call"]
    call = first.output[1]
    assert call.name == "weather" and json.loads(call.arguments) == {"city": "Oslo"} and call.call_id == "call_abc"
    assert script.last["tools"][0]["function"]["name"] == "weather"
    answer = say(question + [item.model_dump(exclude_none=True) for item in first.output] +
                 [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}])
    assert answer.output_text == "It says rain."
    assert [m["role"] for m in script.last["messages"]] == ["user", "assistant", "tool"]
    assert script.last["messages"][1]["content"] == "Let me see."
    assert script.last["messages"][1]["tool_calls"][0]["id"] == "call_abc"


def test_what_needs_a_memory_is_refused(client):
    for more in ({"previous_response_id": "resp_1"}, {"background": True}, {"tools": [{"type": "web_search"}]}):
        with pytest.raises(openai.BadRequestError) as e:
            ask(client, **more)
        assert e.value.param.split("[")[0] in more
    assert ask(client, store=True).store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")


def test_errors_are_the_exceptions_a_client_expects(client):
    with pytest.raises(openai.NotFoundError) as e:
        ask(client, model="no-such")
    assert e.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, "word " * 5000)
    assert e.value.code == "context_length_exceeded" and e.value.param == "input"
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])
    assert "not supported by this model" in e.value.message
