"""Writing a model of the embedded family as a folder that Hugging Face transformers and vLLM load."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from agentgraph.backends.embedded.network import (
    CONTEXT,
    HEAD_SIZE,
    NORM_EPSILON,
    ROPE_THETA,
    Shape,
)
from agentgraph.backends.embedded.tokenizer import BOS, EOS, PAD, VOCABULARY

CHAT_TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}"
"""The chat form of the family: the start token and the last message, as it is."""


def export(state: dict[str, Tensor], shape: Shape, folder: Path) -> None:
    """Write configuration, weights (float16) and tokenizer; the folder appears whole or not at all."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"model.{name}": value.to(torch.float16).contiguous() for name, value in state.items()}
    save_file(tensors, fresh / "model.safetensors", metadata={"format": "pt"})
    for name, content in {
        "config.json": _config(shape),
        "generation_config.json": _generation_config(),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": _tokenizer_config(),
    }.items():
        text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(VOCABULARY),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float16",
    }


def _generation_config() -> dict[str, object]:
    return {
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
    }


def _tokenizer() -> dict[str, object]:
    special = [
        {
            "id": index,
            "content": VOCABULARY[index],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index in (PAD, BOS, EOS)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {character: index for index, character in enumerate(VOCABULARY)},
            "unk_token": VOCABULARY[PAD],
        },
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": VOCABULARY[PAD],
        "bos_token": VOCABULARY[BOS],
        "eos_token": VOCABULARY[EOS],
        "unk_token": VOCABULARY[PAD],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
