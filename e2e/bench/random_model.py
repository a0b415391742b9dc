#!/usr/bin/env python3
"""Writes a model of a real model's shape with random weights, for benchmarks: speed and memory are
real, the text is noise.

    random_model.py --preset qwen2.5-0.5b --out FOLDER     (needs numpy and gguf)

FOLDER becomes a Hugging Face folder (config.json, model.safetensors in BF16, tokenizer.json) with a
GGUF of the very same weights beside it (FOLDER/model-bf16.gguf). The same seed gives the same bytes.
"""

import argparse
import json
import pathlib
import struct
import zlib

import gguf
import numpy as np

PRESETS = {
    "qwen2.5-0.5b": dict(
        hidden=896, layers=24, heads=14, kv_heads=2, head_dim=64, ffn=4864, vocabulary=151936,
        theta=1e6, eps=1e-6, context=32768,
    ),
    "tiny": dict(
        hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, ffn=352, vocabulary=2048,
        theta=1e6, eps=1e-6, context=2048,
    ),
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def byte_characters():
    """GPT-2's printable character for each of the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        table.setdefault(byte, chr(256 + len(table) - len(plain)))
    return [table[byte] for byte in range(256)]


def vocabulary(size):
    """The 256 bytes, then ever longer strings over blank and a to z, each with its merge."""
    alphabet = ["\u0120", *map(chr, range(97, 123))]
    tokens, merges, level = byte_characters(), [], alphabet
    while len(tokens) < size - len(SPECIALS):
        longer = []
        for first in level:
            for second in alphabet[1:]:
                if len(tokens) < size - len(SPECIALS):
                    tokens.append(first + second)
                    longer.append(first + second)
                    merges.append(f"{first} {second}")
        level = longer
    return tokens, merges


def shapes(c):
    query, kv = c["heads"] * c["head_dim"], c["kv_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (c["vocabulary"], c["hidden"])
    for layer in range(c["layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (c["hidden"],)
        for name, rows in (("q", query), ("k", kv), ("v", kv)):
            yield prefix + f"self_attn.{name}_proj.weight", (rows, c["hidden"])
            yield prefix + f"self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (c["hidden"], query)
        yield prefix + "post_attention_layernorm.weight", (c["hidden"],)
        yield prefix + "mlp.gate_proj.weight", (c["ffn"], c["hidden"])
        yield prefix + "mlp.up_proj.weight", (c["ffn"], c["hidden"])
        yield prefix + "mlp.down_proj.weight", (c["hidden"], c["ffn"])
    yield "model.norm.weight", (c["hidden"],)


def weights(name, shape, seed):
    """BF16 bits as u16. Scaled so that the blocks outweigh the tied input embedding."""
    if name.endswith("norm.weight"):
        return np.full(shape, 0x3F80, np.uint16)
    random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    deviation = 0.02 if len(shape) == 1 else 1 / shape[1] ** 0.5
    for part, gain in (("embed", 2), ("o_proj.w", 4), ("down_proj.w", 4), ("q_proj.w", 2), ("k_proj.w", 2)):
        deviation *= gain if part in name else 1
    bits = (random.standard_normal(shape, np.float32) * np.float32(deviation)).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_folder(c, out, seed, tokens, merges):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes(c):
        size = 2 * int(np.prod(shape))
        header[name] = dict(dtype="BF16", shape=list(shape), data_offsets=[end, end + size])
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes(c):
            weights(name, shape, seed).tofile(file)
    config = dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_act="silu",
        hidden_size=c["hidden"], intermediate_size=c["ffn"], num_hidden_layers=c["layers"],
        num_attention_heads=c["heads"], num_key_value_heads=c["kv_heads"], head_dim=c["head_dim"],
        max_position_embeddings=c["context"], rms_norm_eps=c["eps"], rope_theta=c["theta"],
        tie_word_embeddings=True, torch_dtype="bfloat16", vocab_size=c["vocabulary"],
        eos_token_id=c["vocabulary"] - 1, use_sliding_window=False,
    )
    (out / "config.json").write_text(json.dumps(config, indent=1))
    added = [
        dict(id=len(tokens) + i, content=token, single_word=False, lstrip=False, rstrip=False,
             normalized=False, special=True)
        for i, token in enumerate(SPECIALS)
    ]
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=True)
    model = dict(
        type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="",
        end_of_word_suffix="", fuse_unk=False, byte_fallback=False,
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges,
    )
    tokenizer = dict(
        version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
        pre_tokenizer=level, post_processor=None, decoder=level, model=model,
    )
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (out / "tokenizer_config.json").write_text(
        json.dumps(dict(eos_token=SPECIALS[2], chat_template=TEMPLATE))
    )


def write_gguf(c, path, seed, tokens, merges):
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("random")
    writer.add_context_length(c["context"])
    writer.add_embedding_length(c["hidden"])
    writer.add_block_count(c["layers"])
    writer.add_feed_forward_length(c["ffn"])
    writer.add_head_count(c["heads"])
    writer.add_head_count_kv(c["kv_heads"])
    writer.add_layer_norm_rms_eps(c["eps"])
    writer.add_rope_freq_base(c["theta"])
    writer.add_vocab_size(c["vocabulary"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + SPECIALS)
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(SPECIALS)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(c["vocabulary"] - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, shape in shapes(c):
        bits = weights(name, shape, seed)
        if name == "model.embed_tokens.weight":
            theirs = "token_embd.weight"
        elif name == "model.norm.weight":
            theirs = "output_norm.weight"
        else:
            layer, rest = name.split(".", 3)[2:]
            stem, leaf = rest.rsplit(".", 1)
            theirs = f"blk.{layer}.{GGUF_NAMES[stem]}.{leaf}"
        if len(shape) == 1:
            writer.add_tensor(theirs, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(theirs, bits.view(np.uint8), raw_dtype=kind)
    writer.add_file_type(32)  # mostly BF16
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", required=True, choices=PRESETS)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    c = PRESETS[given.preset]
    given.out.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary(c["vocabulary"])
    write_folder(c, given.out, given.seed, tokens, merges)
    write_gguf(c, given.out / "model-bf16.gguf", given.seed, tokens, merges)


if __name__ == "__main__":
    main()
