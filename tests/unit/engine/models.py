#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the models of the engine's tests: models.py STAMP; they lie beside it.

llama, qwen2, gemma3, llama-moe, mamba, lfm2: random weights. tools: with a template that has tool calls and reasoning;
tools-only: without the reasoning. broken-template,
raising-template: templates that cannot be parsed, cannot be rendered. bert, nomic-bert, qwen3-embedding: they embed;
bert-rank: it ranks. infill: it fills gaps; small-vocabulary: it cannot guess for the others. cut, text: files that are no whole model. adapter, merged: a LoRA adapter for llama, and llama with it.
"""
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "tools"))
import tiny_gguf  # noqa: E402


def main():
    stamp = sys.argv[1]
    folder = os.path.dirname(os.path.abspath(stamp))

    def path(name):
        return os.path.join(folder, name + ".gguf")

    for arch in ("llama", "qwen2", "gemma3", "llama-moe", "mamba", "lfm2"):
        tiny_gguf.make(path(arch), arch=arch)
    for arch, pooling in (("bert", "cls"), ("nomic-bert", "mean")):
        tiny_gguf.make(path(arch), arch=arch, pooling=pooling)
    tiny_gguf.make(path("bert-rank"), arch="bert", pooling="rank", seed=2)
    tiny_gguf.make(path("qwen3-embedding"), arch="qwen3", pooling="last")
    tiny_gguf.make(path("infill"), gap_marks=(5, 6, 7))
    tiny_gguf.make(path("small-vocabulary"), vocab=2000)
    with open(os.path.join(here, "tools.jinja"), encoding="utf-8") as f:
        tiny_gguf.make(path("tools"), chat_template=f.read())
    with open(os.path.join(here, "tools.jinja"), encoding="utf-8") as f:
        begin, rest = f.read().split("        {%- if message.reasoning_content %}")
        tiny_gguf.make(path("tools-only"), chat_template=begin.rstrip() + rest.split("{%- endif %}", 1)[1])
    tiny_gguf.make(path("broken-template"), chat_template="{% for m in messages %}{{ m.content }")
    tiny_gguf.make(path("raising-template"), chat_template="{{ raise_exception('never') }}")
    tiny_gguf.make_adapter(path("adapter"), path("merged"), seed=5)
    tiny_gguf.make_adapter(path("adapter-2"), path("merged-2"), seed=6)
    with open(path("llama"), "rb") as f:
        whole = f.read()
    with open(path("cut"), "wb") as f:
        f.write(whole[: len(whole) // 2])
    with open(path("text"), "wb") as f:
        f.write(b"this is not a model, but it is long enough to have a head\n")
    open(stamp, "w").close()


main()
