"""A tiny tokenizer and a tiny Llama made in the process, for fixtures and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from posttrain.models.language_model import LanguageModel

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Enough English for a few dozen merges beyond the 256 bytes.
_TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps, and the fox runs on through the field.",
    "A language model predicts the next token from the tokens that came before it.",
    "There are three things to remember: the rate, the rank and the loss. What is the answer? The answer is forty-two.",
]


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens: bytes, merges and ChatML marks.

    0 is ``<|endoftext|>`` (padding), 1 ``<|im_start|>`` (bos), 2 ``<|im_end|>`` (eos).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    fast.chat_template = CHATML
    return fast


def make_tiny_llama(seed: int = 0) -> LanguageModel:
    """A fresh float32 Llama, 93,248 parameters: 2 layers, width 64, 4 heads on 2 key-value heads, tied head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.models.language_model import LanguageModel

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(config).eval()
    return LanguageModel(network=network, tokenizer=make_tiny_tokenizer(), reference="tiny", card={"name": "tiny"})
