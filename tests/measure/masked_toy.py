"""A tiny masked language model."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from posttrain.models.language_model import LanguageModel
from tiny_models import make_tiny_wordpieces


def make_tiny_masked(architecture: str = "bert", seed: int = 0) -> LanguageModel:
    """A fresh float32 network of 2 layers and 60 positions, with word pieces and a ``[MASK]`` token."""
    tokenizer = make_tiny_wordpieces()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    positions = 60 + (architecture == "roberta")  # which counts positions from the padding token's id on
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForMaskedLM.from_config(config).eval()
    return LanguageModel(network=network, tokenizer=tokenizer, reference="tiny-masked", card={"name": "tiny-masked"})
