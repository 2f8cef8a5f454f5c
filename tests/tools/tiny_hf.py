#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a tiny random-weight Llama in Hugging Face's form, for servers that load nothing else: tiny_hf.py FOLDER.

Runs in the Python of such a server (it needs torch, transformers and tokenizers). The tokenizer has one token for each
byte, the template names roles in angle brackets. The same seed gives the same weights.
"""
import sys


def make(folder, seed=1, context=1024):
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
                          "{% if add_generation_prompt %}<assistant>{% endif %}")
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(words), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=context, bos_token_id=1,
        eos_token_id=2)).save_pretrained(folder)


if __name__ == "__main__":
    make(sys.argv[1])
