# SPDX-License-Identifier: Apache-2.0
"""A real model behind the API: the same bits whatever runs beside a request, and answers as a class says they are."""
import threading
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from conftest import shared_network
from network import ROOT

MODEL = ROOT / ".deps" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the tide?", "Name three rivers of Europe.", "Why is the sky blue?", "Write a line about snow.",
             "Count to ten.", "Who was Ada Lovelace? Answer in one short sentence, please, without a list."]

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the real model is not there: tools/setup fetches it")


@pytest.fixture(scope="module")
def real():
    with shared_network(edges={"edge-1": "north"}, edge={"deterministic": True, "slots": 8, "context": 512}) as net:
        net.push(MODEL, "smol", seconds=120)
        with net.edges[0].openai() as client:
            yield client


def ask(client, question, seed=7):
    """Text, and each token with its alternatives, exactly as the numbers came."""
    answer = client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": question}], max_tokens=16, temperature=0.9, seed=seed,
        logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    return choice.message.content, [(t.token, t.logprob, [(a.token, a.logprob) for a in t.top_logprobs])
                                    for t in choice.logprobs.content]


def test_the_same_request_gives_the_same_bits_alone_and_beside_six_others(real):
    alone = ask(real, QUESTIONS[0])
    beside, others = [], []
    started = threading.Barrier(len(QUESTIONS) + 1)

    def go(question, into, seed):
        started.wait()
        into.append(ask(real, question, seed))

    threads = [threading.Thread(target=go, args=(QUESTIONS[0], beside, 7))]
    threads += [threading.Thread(target=go, args=(q, others, i)) for i, q in enumerate(QUESTIONS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert alone[0] and len(alone[1]) == 16
    assert len(others) == 6 and len({text for text, _ in others}) > 1
    assert beside == [alone]


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    continent: Literal["Europe", "Asia", "Africa"]
    people: int = Field(ge=1000, le=40000000)
    coastal: bool


def test_parse_gives_an_object_of_the_class_that_was_asked_for(real):
    for seed in range(3):
        answer = real.chat.completions.parse(
            model="smol", messages=[{"role": "user", "content": "Describe the city of Rome as JSON."}],
            response_format=City, max_tokens=120, temperature=1.2, seed=seed)
        city = answer.choices[0].message.parsed
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(city, City) and 1000 <= city.people <= 40000000 and len(city.name) <= 20
