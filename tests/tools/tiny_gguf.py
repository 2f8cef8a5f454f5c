#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tiny random-weight GGUF models with a real tokenizer, for tests that need a model but not its wits.

The tokenizer (vocabulary, merges, special tokens, chat template) comes from an existing GGUF file; the vocabulary is
cut to its first tokens and the merges that stay inside it, which leaves a byte-level BPE whole. Weights are rows cut
from one seeded pool of random numbers: the same arguments always give the same bytes, in a fraction of a second.

    tiny_gguf.py --arch llama --out tiny.gguf            (llama, qwen2, gemma2, gemma3, llama-moe, qwen3moe, mamba, lfm2)
    tiny_gguf.py --all DIR                               (one of each)
    tiny_gguf.py --arch bert --pooling mean --out e.gguf (bert, nomic-bert, qwen3: models that embed, or rank: --pooling rank)

BERTs have a little WordPiece vocabulary of their own: letters, digits, marks and some words.

As a module: tiny_gguf.make(path, arch="llama", seed=1, tokenizer_from=None, ...) -> path. Only the standard library.
"""
import argparse
import glob
import os
import random
import struct
import sys

ARCHS = ("llama", "qwen2", "gemma2", "gemma3", "llama-moe", "qwen3moe", "mamba", "lfm2")
EMBEDDERS = ("bert", "nomic-bert", "qwen3")  # with pooling
BERTS = ("bert", "nomic-bert")
POOLINGS = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPE_F32, TYPE_Q8_0 = 0, 8
ALIGNMENT = 32


def default_source():
    here = os.path.dirname(os.path.abspath(__file__))
    found = sorted(glob.glob(os.path.join(here, "..", "..", ".deps", "models", "*.gguf")))
    if not found:
        raise SystemExit("tiny_gguf: no model in .deps/models; run tools/setup, or name one with --tokenizer-from")
    return found[0]


# ---- reading the tokenizer -----------------------------------------------------------------------

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self):
        size = self.take("Q")
        self.at += size
        if self.at > len(self.data):
            raise struct.error("short")
        return self.data[self.at - size:self.at]

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.take(SCALARS[kind])
        item, count = self.take("I"), self.take("Q")
        if item == STRING:
            return item, [self.string() for _ in range(count)]
        values = struct.unpack_from("<%d%s" % (count, SCALARS[item]), self.data, self.at)
        self.at += struct.calcsize("<%d%s" % (count, SCALARS[item]))
        return item, list(values)


def read_tokenizer(path):
    """The tokenizer.* pairs of a GGUF file as {key: (type, value)}."""
    for size in (1 << 24, 1 << 28):  # enough for any vocabulary
        with open(path, "rb") as f:
            r = Reader(f.read(size))
        try:
            if r.data[:4] != b"GGUF":
                raise SystemExit("tiny_gguf: %s is not a GGUF file" % path)
            r.at = 16
            kvs = {}
            for _ in range(r.take("Q")):
                key, kind = r.string().decode(), r.take("I")
                value = r.value(kind)
                if key.startswith("tokenizer."):
                    kvs[key] = (kind, value)
            return kvs
        except struct.error:
            continue
    raise SystemExit("tiny_gguf: %s ends inside its header" % path)


def cut_vocabulary(kvs, size):
    """Keeps the first tokens, and the merges whose parts and result are among them."""
    tokens = kvs["tokenizer.ggml.tokens"][1][1]
    special = [v[1] for k, v in kvs.items() if k.endswith("_token_id")]
    size = max([size, 512] + [s + 1 for s in special]) if size else len(tokens)
    if size >= len(tokens):
        return kvs, len(tokens)
    out, kept = dict(kvs), set(tokens[:size])
    for key in ("tokens", "scores", "token_type"):
        key = "tokenizer.ggml." + key
        if key in out:
            kind, (item, values) = out[key]
            out[key] = (kind, (item, values[:size]))
    if "tokenizer.ggml.merges" in out:
        kind, (item, merges) = out["tokenizer.ggml.merges"]
        good = [m for m in merges if all(p in kept for p in m.split(b" ", 1)) and m.replace(b" ", b"", 1) in kept]
        out["tokenizer.ggml.merges"] = (kind, (item, good))
    return out, size


def wordpiece():
    """The tokenizer of a BERT: pieces that begin a word carry U+2581, as llama.cpp keeps them."""
    words = ("the of and to in is it you that he was for on are with as his they at be this from or by but what some "
             "we can out other were all your when up use how said an each she sea ship moon")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    marks = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + list("äöüéèñçß")
    tokens = special + ["\u2581" + w for w in words.split() if len(w) > 1] + ["\u2581" + m for m in marks] + marks
    tokens += ["ing", "ed", "er", "tion", "ly", "ness"]
    kvs = {"model": (STRING, "bert"), "tokens": (ARRAY, (STRING, tokens)),
           "token_type": (ARRAY, (I32, [3] * len(special) + [1] * (len(tokens) - len(special)))),
           "token_type_count": (U32, 2), "bos_token_id": (U32, 2), "eos_token_id": (U32, 3),
           "unknown_token_id": (U32, 1), "seperator_token_id": (U32, 3), "padding_token_id": (U32, 0),
           "cls_token_id": (U32, 2), "mask_token_id": (U32, 4)}
    return {"tokenizer.ggml." + k: v for k, v in kvs.items()}, len(tokens)


# ---- writing -------------------------------------------------------------------------------------

def pack_string(text):
    if isinstance(text, str):
        text = text.encode()
    return struct.pack("<Q", len(text)) + text


def pack_value(kind, value):
    if kind == STRING:
        return pack_string(value)
    if kind != ARRAY:
        return struct.pack("<" + SCALARS[kind], value)
    item, values = value
    head = struct.pack("<IQ", item, len(values))
    if item == STRING:
        return head + b"".join(map(pack_string, values))
    return head + struct.pack("<%d%s" % (len(values), SCALARS[item]), *values)


class Weights:
    """Rows of random numbers, cut from a pool at random places."""

    POOL = 1 << 14

    def __init__(self, seed):
        self.rng = random.Random(seed)
        raw = self.rng.randbytes(self.POOL * 4)
        numbers = [u / 2**31 - 1 for u in struct.unpack("<%dI" % self.POOL, raw)]
        self.f32 = {}  # by scale
        self.numbers = numbers
        self.int8 = bytes(int(n * 127) & 0xff for n in numbers)

    def row_f32(self, width, scale):
        if scale not in self.f32:
            self.f32[scale] = struct.pack("<%df" % self.POOL, *[n * scale for n in self.numbers])
        at = self.rng.randrange(self.POOL - width + 1) * 4
        return self.f32[scale][at:at + 4 * width]

    def row_q8_0(self, width, scale):
        head, parts = struct.pack("<e", scale / 127), []
        at = self.rng.randrange(self.POOL - width + 1)
        for block in range(at, at + width, 32):
            parts += (head, self.int8[block:block + 32])
        return b"".join(parts)

    def tensor(self, dims, kind, scale):
        rows = 1
        for d in dims[1:]:
            rows *= d
        row = self.row_q8_0 if kind == TYPE_Q8_0 else self.row_f32
        return b"".join(row(dims[0], scale) for _ in range(rows))


class Shape:
    def __init__(self, **given):
        self.layers, self.embedding, self.heads, self.heads_kv, self.head = 2, 64, 2, 1, 32
        self.ff, self.experts, self.experts_used, self.context, self.pooling = 128, 4, 2, 4096, "none"
        self.__dict__.update({k: v for k, v in given.items() if v is not None})


def arch_kvs(arch, s, vocab):
    name = "llama" if arch == "llama-moe" else arch
    kvs = {
        "block_count": (U32, s.layers), "context_length": (U32, s.context), "embedding_length": (U32, s.embedding),
        "feed_forward_length": (U32, s.ff), "attention.head_count": (U32, s.heads),
        "attention.head_count_kv": (U32, s.heads_kv), "attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "attention.key_length": (U32, s.head), "attention.value_length": (U32, s.head),
        "rope.freq_base": (F32, 10000.0), "vocab_size": (U32, vocab),
    }
    if name == "llama":
        kvs["rope.dimension_count"] = (U32, s.head)
    if name in BERTS:
        kvs["attention.layer_norm_epsilon"], kvs["attention.causal"] = (F32, 1e-12), (BOOL, False)
    if name in EMBEDDERS:
        kvs["pooling_type"] = (U32, POOLINGS[s.pooling])
    if arch.endswith("moe"):
        kvs["expert_count"], kvs["expert_used_count"] = (U32, s.experts), (U32, s.experts_used)
    if arch == "qwen3moe":
        kvs["expert_feed_forward_length"] = (U32, s.ff)
    if name.startswith("gemma"):
        kvs["attention.sliding_window"] = (U32, 512)
    if name == "gemma2":
        kvs["attn_logit_softcapping"], kvs["final_logit_softcapping"] = (F32, 50.0), (F32, 30.0)
    if name == "mamba":
        kvs.update({"ssm.conv_kernel": (U32, 4), "ssm.inner_size": (U32, 2 * s.embedding), "ssm.state_size": (U32, 16),
                    "ssm.time_step_rank": (U32, 4)})
    if name == "lfm2":  # every other layer has attention
        kvs["shortconv.l_cache"] = (U32, 3)
        kvs["attention.head_count_kv"] = (ARRAY, (I32, [s.heads_kv * (i % 2) for i in range(s.layers)]))
    return name, {name + "." + k: v for k, v in kvs.items()}


def mamba_layer_tensors(s):
    e, inner, state, rank = s.embedding, 2 * s.embedding, 16, 4
    yield "attn_norm.weight", [e], "norm"
    yield "ssm_in.weight", [e, 2 * inner], "matrix"
    yield "ssm_conv1d.weight", [4, inner], "router"
    yield "ssm_conv1d.bias", [inner], "bias"
    yield "ssm_x.weight", [inner, rank + 2 * state], "matrix"
    yield "ssm_dt.weight", [rank, inner], "router"
    yield "ssm_dt.bias", [inner], "bias"
    yield "ssm_a", [state, inner], "decay"
    yield "ssm_d", [inner], "bias"
    yield "ssm_out.weight", [inner, e], "matrix"


def shortconv_tensors(s):
    yield "shortconv.conv.weight", [3, s.embedding], "router"
    yield "shortconv.in_proj.weight", [s.embedding, 3 * s.embedding], "matrix"
    yield "shortconv.out_proj.weight", [s.embedding, s.embedding], "matrix"


def bert_layer_tensors(arch, s):
    e = s.embedding
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield name + ".weight", [e, e], "matrix"
        if arch == "bert":
            yield name + ".bias", [e], "bias"
    for name in ("attn_output_norm", "layer_output_norm"):
        yield name + ".weight", [e], "norm"
        yield name + ".bias", [e], "bias"
    for name, dims in (("ffn_up", [e, s.ff]), ("ffn_gate", [e, s.ff]), ("ffn_down", [s.ff, e])):
        if arch == "bert" and name == "ffn_gate":
            continue
        yield name + ".weight", dims, "matrix"
        if arch == "bert":
            yield name + ".bias", dims[1:], "bias"


def attention_tensors(arch, s):
    e, q, kv = s.embedding, s.heads * s.head, s.heads_kv * s.head
    for name, width in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
        yield name + ".weight", [e, width], "matrix"
        if arch == "qwen2":
            yield name + ".bias", [width], "bias"
    yield "attn_output.weight", [q, e], "matrix"
    if arch in ("gemma3", "qwen3", "qwen3moe", "lfm2"):
        yield "attn_q_norm.weight", [s.head], "norm"
        yield "attn_k_norm.weight", [s.head], "norm"


def layer_tensors(arch, s, i):
    """(name, dims, is a norm or bias) of the i-th block."""
    if arch in BERTS:
        yield from bert_layer_tensors(arch, s)
        return
    if arch == "mamba":
        yield from mamba_layer_tensors(s)
        return
    e = s.embedding
    yield "attn_norm.weight", [e], "norm"
    yield from shortconv_tensors(s) if arch == "lfm2" and i % 2 == 0 else attention_tensors(arch, s)
    if arch.startswith("gemma"):
        yield "post_attention_norm.weight", [e], "norm"
        yield "post_ffw_norm.weight", [e], "norm"
    yield "ffn_norm.weight", [e], "norm"
    if arch.endswith("moe"):
        yield "ffn_gate_inp.weight", [e, s.experts], "router"
        yield "ffn_gate_exps.weight", [e, s.ff, s.experts], "matrix"
        yield "ffn_up_exps.weight", [e, s.ff, s.experts], "matrix"
        yield "ffn_down_exps.weight", [s.ff, e, s.experts], "matrix"
    else:
        yield "ffn_gate.weight", [e, s.ff], "matrix"
        yield "ffn_up.weight", [e, s.ff], "matrix"
        yield "ffn_down.weight", [s.ff, e], "matrix"


def all_tensors(arch, s, vocab):
    yield "token_embd.weight", [s.embedding, vocab], "embedding"
    if arch in BERTS:
        yield "token_types.weight", [s.embedding, 2], "embedding"
        if arch == "bert":
            yield "position_embd.weight", [s.embedding, s.context], "embedding"
        yield "token_embd_norm.weight", [s.embedding], "norm"
        yield "token_embd_norm.bias", [s.embedding], "bias"
    else:
        yield "%s.weight" % ("token_embd_norm" if arch == "lfm2" else "output_norm"), [s.embedding], "norm"
    if s.pooling == "rank":  # a dense layer and one number
        yield "cls.weight", [s.embedding, s.embedding], "matrix"
        yield "cls.bias", [s.embedding], "bias"
        yield "cls.output.weight", [s.embedding, 1], "matrix"
        yield "cls.output.bias", [1], "bias"
    for i in range(s.layers):
        for name, dims, role in layer_tensors(arch, s, i):
            yield "blk.%d.%s" % (i, name), dims, role


def tensor_bytes(weights, dims, role, kind):
    if role == "norm":
        return TYPE_F32, struct.pack("<f", 1.0) * dims[0]
    if role == "decay":
        rows = [-1.0 / (1 + i) for i in range(dims[0])]
        return TYPE_F32, struct.pack("<%df" % dims[0], *rows) * dims[1]
    if role == "bias":
        return TYPE_F32, weights.tensor(dims, TYPE_F32, 0.02)
    if role == "router":
        return TYPE_F32, weights.tensor(dims, TYPE_F32, 0.2)
    # Input and output share the embedding: were it large beside the blocks, each token would only repeat itself.
    return kind, weights.tensor(dims, kind, 0.01 if role == "embedding" else 0.25)


def write(path, kvs, tensors):
    """tensors: (name, dims, type, bytes) each."""
    infos, data, offset = [], [], 0
    for tensor, dims, stored, content in tensors:
        infos.append(pack_string(tensor) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, stored, offset))
        content += bytes(-len(content) % ALIGNMENT)
        data.append(content)
        offset += len(content)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(kvs))
    head += b"".join(pack_string(k) + struct.pack("<I", t) + pack_value(t, v) for k, (t, v) in kvs.items())
    head += b"".join(infos)
    head += bytes(-len(head) % ALIGNMENT)
    with open(path + ".part", "wb") as f:
        f.write(head)
        f.writelines(data)
    os.replace(path + ".part", path)
    return path


def make_adapter(path, merged, arch="llama", seed=1, rank=4, **model):
    """A random LoRA adapter for the model that make() with the same keywords writes, and at `merged` that model with
    the adapter's products added to its weights."""
    s, rng, parts = Shape(**{k: v for k, v in model.items() if k not in ("model_seed", "vocab")}), random.Random(seed), []
    deltas = {}
    for i in range(s.layers):
        for name, dims, role in layer_tensors(arch, s, i):
            if role != "matrix" or len(dims) != 2 or not name.startswith(("attn_", "ffn_")):
                continue
            tensor = "blk.%d.%s" % (i, name)
            a = [[rng.uniform(-0.2, 0.2) for _ in range(dims[0])] for _ in range(rank)]
            b = [[rng.uniform(-0.2, 0.2) for _ in range(rank)] for _ in range(dims[1])]
            parts.append((tensor + ".lora_a", [dims[0], rank], TYPE_F32, b"".join(struct.pack("<%df" % dims[0], *r) for r in a)))
            parts.append((tensor + ".lora_b", [rank, dims[1]], TYPE_F32, b"".join(struct.pack("<%df" % rank, *r) for r in b)))
            deltas[tensor] = [x for r in b for x in [sum(r[k] * a[k][j] for k in range(rank)) for j in range(dims[0])]]
    kvs = {"general.architecture": (STRING, arch), "general.type": (STRING, "adapter"),
           "general.name": (STRING, "tiny random adapter"), "adapter.type": (STRING, "lora"),
           "adapter.lora.alpha": (F32, float(rank))}

    def add(tensor, content):
        if tensor not in deltas:
            return content
        count = len(content) // 4
        return struct.pack("<%df" % count, *[x + d for x, d in zip(struct.unpack("<%df" % count, content), deltas[tensor])])

    model = {k: v for k, v in model.items() if k != "model_seed"} | {"seed": model.get("model_seed", 1)}
    make(merged, arch=arch, change=add, **model)
    return write(path, kvs, parts)


def make(path, arch="llama", seed=1, tokenizer_from=None, vocab=4096, quant="f32", name=None, chat_template=None,
         gap_marks=None, change=None, **shape):
    """Writes one model; vocab 0 keeps the whole vocabulary, a chat_template replaces the tokenizer's. Further keywords:
    layers, embedding, heads, heads_kv, head, ff, experts, experts_used, context, pooling. gap_marks: the tokens that
    stand before, behind and in a gap to be filled."""
    if arch not in ARCHS + EMBEDDERS:
        raise SystemExit("tiny_gguf: unknown architecture %s; one of %s" % (arch, ", ".join(ARCHS + EMBEDDERS)))
    if arch in BERTS:
        shape = {"context": 512, "heads_kv": 2, **{k: v for k, v in shape.items() if v is not None}}
    s = Shape(**shape)
    if arch == "qwen2" and s.heads * s.head != s.embedding:
        raise SystemExit("tiny_gguf: qwen2 wants heads x head = embedding")
    if max(s.embedding, s.ff, s.heads * s.head) > Weights.POOL:
        raise SystemExit("tiny_gguf: rows are at most %d wide; this is for tiny models" % Weights.POOL)
    kind = {"f32": TYPE_F32, "q8_0": TYPE_Q8_0}[quant.lower()]
    if arch in BERTS:
        tokenizer, tokens = wordpiece()
    else:
        tokenizer, tokens = cut_vocabulary(read_tokenizer(tokenizer_from or default_source()), vocab)
    arch_name, params = arch_kvs(arch, s, tokens)
    kvs = {"general.architecture": (STRING, arch_name), "general.type": (STRING, "model"),
           "general.name": (STRING, name or "tiny random %s" % arch), "general.license": (STRING, "apache-2.0"),
           "general.file_type": (U32, 7 if kind == TYPE_Q8_0 else 0), "general.quantization_version": (U32, 2)}
    kvs.update(params)
    kvs.update(tokenizer)
    if chat_template is not None:
        kvs["tokenizer.chat_template"] = (STRING, chat_template)
    for key, token in zip(("pre", "suf", "mid"), gap_marks or ()):
        kvs["tokenizer.ggml.fim_%s_token_id" % key] = (U32, token)
    weights, tensors = Weights(seed), []
    for tensor, dims, role in all_tensors(arch, s, tokens):
        stored, content = tensor_bytes(weights, dims, role, kind)
        tensors.append((tensor, dims, stored, change(tensor, content) if change else content))
    return write(path, kvs, tensors)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--arch", choices=ARCHS + EMBEDDERS, default="llama")
    p.add_argument("--pooling", choices=sorted(POOLINGS), help="of models that embed or rank")
    p.add_argument("--out", metavar="FILE")
    p.add_argument("--all", metavar="DIR", help="one model of each architecture: DIR/ARCH.gguf")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tokenizer-from", metavar="FILE", help="default: the first of .deps/models/*.gguf")
    p.add_argument("--vocab", type=int, default=4096, help="tokens kept of the vocabulary; 0: all")
    p.add_argument("--quant", choices=("f32", "q8_0"), default="f32")
    p.add_argument("--name", help="general.name")
    for key in ("layers", "embedding", "heads", "heads_kv", "head", "ff", "experts", "experts_used", "context"):
        p.add_argument("--" + key.replace("_", "-"), type=int)
    args = vars(p.parse_args())
    out, folder, arch = args.pop("out"), args.pop("all"), args.pop("arch")
    if folder:
        os.makedirs(folder, exist_ok=True)
        for each in ARCHS:
            print(make(os.path.join(folder, each + ".gguf"), arch=each, **args))
    elif out:
        print(make(out, arch=arch, **args))
    else:
        p.error("name a file with --out, or a folder with --all")


if __name__ == "__main__":
    sys.exit(main())
