# SPDX-License-Identifier: Apache-2.0
"""Chat templates: what an edge makes of messages is what Python's jinja2 makes of them, set as `apply_chat_template` does.

The rendered prompt is compared where it counts, in tokens: the text from jinja2, sent to /v1/completions right after the
chat request, must be found in the KV cache up to its last token.
"""
import datetime
import json

import jinja2.ext
import jinja2.sandbox
import pytest

from network import ROOT, eventually, tiny_gguf, tiny_model
from test_openai import LIGHT, TOOL_TEMPLATE

CONVERSATIONS = {
    "one": [{"role": "user", "content": "What is a river?"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And a bridge?"}],
    "turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b, \u00e9\u4e2d \U0001f30a"},
              {"role": "user", "content": "  spaces \n\n and <|lines|> \"quoted\" & <b>  "}],
}


def render(template, messages, tools=None, **more):
    """As transformers' apply_chat_template sets it up."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[jinja2.ext.loopcontrols])
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def fail(message):
        raise jinja2.TemplateError(message)
    environment.globals["raise_exception"] = fail
    return environment.from_string(template).render(messages=messages, tools=tools, add_generation_prompt=True,
                                                    bos_token="<|im_start|>", eos_token="<|im_end|>", **more)


@pytest.fixture(scope="module")
def client(net, models):
    net.push(tiny_model(models, "template", seed=2, chat_template=TOOL_TEMPLATE), "template", on="node=edge-3")
    with net.edges[2].openai() as c:
        yield c
    net.mdn("place", "template", "--on", "node=edge-3", "--remove")
    eventually(lambda: "template:" not in net.edges[2].get("/v1/models").text, 10, "the model is gone")


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("model, tools", [("tiny", None), ("template", None), ("template", [LIGHT])],
                         ids=["bundled", "with-tools-unused", "with-tools"])
def test_prompts_are_what_jinja2_makes_of_them(client, model, messages, tools):
    bundled = tiny_gguf.read_tokenizer(tiny_gguf.default_source())["tokenizer.chat_template"][1].decode()
    more = {"tools": tools} if tools else {}
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=1, temperature=0, **more).usage
    text = render(bundled if model == "tiny" else TOOL_TEMPLATE, messages, tools)
    usage = client.completions.create(model=model, prompt=text, max_tokens=1, temperature=0).usage
    assert usage.prompt_tokens == chat.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens - 1


# Templates that others published with their models, as llama.cpp's sources carry them.
TEMPLATES = ROOT / ".deps/llama/src/models/templates"
FAMILIES = {
    "qwen2.5": ("Qwen-Qwen2.5-7B-Instruct", True),
    "qwen3": ("Qwen-Qwen3-0.6B", True),
    "gemma2": ("google-gemma-2-2b-it", False),
    "llama3.1": ("meta-llama-Llama-3.1-8B-Instruct", True),
    "mistral": ("mistralai-Mistral-Nemo-Instruct-2407", False),
    "deepseek-r1": ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", True),
    "granite": ("ibm-granite-granite-3.3-2B-Instruct", True),
    "phi3.5": ("microsoft-Phi-3.5-mini-instruct", True),
    "glm4.6": ("GLM-4.6", True),
    "kimi-k2": ("Kimi-K2-Instruct", True),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, net, models):
    """(client, model, template, knows system messages)"""
    file, system = FAMILIES[request.param]
    path = TEMPLATES / f"{file}.jinja"
    if not path.exists():
        pytest.skip(f"llama.cpp's sources have no {path.name}")
    template, name = path.read_text(), "family-" + request.param.replace(".", "-")
    net.push(tiny_model(models, name, seed=2, chat_template=template), name, on="node=edge-3")
    with net.edges[2].openai() as c:
        yield c, name, template, system
    net.mdn("place", name, "--on", "node=edge-3", "--remove")
    eventually(lambda: name not in net.edges[2].get("/v1/models").text, 10, "the model is gone")


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_templates_of_well_known_families_are_rendered_alike(family, kind):
    client, model, template, system = family
    messages = CONVERSATIONS[kind]
    if kind == "system" and not system:
        pytest.skip("the template has no place for a system message")
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=1, temperature=0).usage
    today = datetime.datetime.now().strftime("%d %b %Y")  # llama.cpp tells Llama 3.x the date, who else would
    text = render(template, messages, **({"date_string": today} if "date_string" in template else {}))
    usage = client.completions.create(model=model, prompt=text, max_tokens=1, temperature=0).usage
    assert usage.prompt_tokens == chat.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens - 1
