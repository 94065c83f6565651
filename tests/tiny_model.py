"""A chat model of random weights, small enough to be made for a test; needs transformers."""

from pathlib import Path

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, brief: float = 6.0) -> Path:
    """Write a model of 0.2 million weights that reads any text, a byte a token, up to 65,536 of them.

    It babbles. ``brief`` is added to the logits of quotes and closing brackets: held to a JSON Schema it comes to an end soon if
    that is large, and never if it is as far below 0.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate(special + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(special)
    roles = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **roles)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2**16, **size, **ids)
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # else it is as good as uniform
        # One number of the hidden state is the same for every token: after the norm, the root of its size.
        model.model.embed_tokens.weight[:, 0] = 10.0
        model.lm_head.weight[:, 0] = 0.0
        for character in '"]}':
            model.lm_head.weight[vocabulary[character], 0] = brief / size["hidden_size"] ** 0.5
    model.save_pretrained(folder)
    return folder
