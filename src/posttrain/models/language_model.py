"""A language model as every family sees it: the network, its tokenizer and its card."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD_FILE = "posttrain.json"


@dataclass
class LanguageModel:
    """A transformers network with its tokenizer and the record of where it comes from.

    Attributes:
        network: The transformers model, in evaluation mode as loaded.
        tokenizer: A fast tokenizer.
        reference: What the user wrote to get it (`smollm2`, a hub id, a folder).
        card: Provenance: JSON-able; written beside every saved model as ``posttrain.json``. The key `surgery` lists the
            recipe blocks (``{"quantize": {"dynamic": {...}}}``) that turn a freshly built network into this one.
        folder: Where its files lie, if they do.
        adapter: The adapter attached to the network (an object of the `adapt` family), if there is one.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: str = ""
    card: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    adapter: Any = None

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.network.parameters()).device

    @property
    def context_length(self) -> int | None:
        """The longest sequence the network was made for, in tokens; None if it doesn't say."""
        config = self.network.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if value := getattr(config, name, None):
                return int(value)
        return None

    @property
    def is_causal(self) -> bool:
        """Whether it predicts the next token (it has a vocabulary projection and isn't a masked model)."""
        return type(self.network).__name__.endswith(("ForCausalLM", "LMHeadModel"))

    def nbytes(self) -> int:
        """Bytes of all parameters and buffers in memory, tied tensors counted once."""
        tensors = {t.data_ptr(): t for t in [*self.network.parameters(), *self.network.buffers()]}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def parameter_count(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in {p.data_ptr(): p for p in self.network.parameters()}.values())

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all tensors of the network, 64 hex digits."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().view(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
        return digest.hexdigest()

    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of the tokenizer's own serialised form, 64 hex digits."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()
