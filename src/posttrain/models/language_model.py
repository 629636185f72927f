"""A language model as every family sees it: the network, its tokenizer and its card."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
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

    The plain linear layers of the network compute by `posttrain.ops.linear` from then on.

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

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "network":
            from posttrain.ops.linear import adopt

            adopt(value)
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        return next(self.network.parameters()).device

    @property
    def context_length(self) -> int | None:
        """The longest sequence the network was made for, in tokens; None if it doesn't say."""
        from posttrain.models.forward import first_position

        config = self.network.config.get_text_config()
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if value := getattr(config, name, None):
                # Where positions are counted from the padding token's id, the rows of the table before it are unused.
                return int(value) - first_position(self.network)
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
        """Number of parameters, tied ones counted once. A quantized matrix has as many as the one it stands for."""
        plain = sum(p.numel() for p in {p.data_ptr(): p for p in self.network.parameters()}.values())
        packed = 0
        for module in self.network.modules():
            own = dict(module.named_buffers(recurse=False))
            if "weight" in own and hasattr(module, "in_features"):
                packed += int(module.in_features) * int(module.out_features)  # type: ignore[arg-type]
                packed += own["bias"].numel() if "bias" in own else 0
        return plain + packed

    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all tensors of the network, 64 hex digits.

        Modules of this package are described too, because two that differ only in a setting (a layer that rounds its
        activations or doesn't) compute different things from the same tensors. Each tensor is hashed by itself, several
        at a time (hashing doesn't hold the interpreter's lock), and one that has several names only once; what is
        returned is the hash of the list of names and hashes. Weights mapped from a file don't stay in memory for it.
        """
        from posttrain.models.mapped_weights import MappedWeights

        mapped = MappedWeights()
        state = sorted(self.network.state_dict().items())
        keys = [(t.data_ptr(), t.dtype, tuple(t.shape), t.stride()) for _, t in state]

        def digest(tensor: torch.Tensor) -> str:
            found = _tensor_digest(tensor)
            mapped.release([tensor])
            return found

        # Large ones first, so that no thread is left alone with one at the end.
        distinct = sorted(dict(zip(keys, (t for _, t in state))).items(), key=lambda item: -item[1].nbytes)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = dict(zip([key for key, _ in distinct], pool.map(digest, [t for _, t in distinct])))
        listing = (f"{name} {t.dtype} {list(t.shape)} {digests[key]}\n" for (name, t), key in zip(state, keys))
        own = [
            f"{name} {type(module).__name__}({module.extra_repr()})\n"
            for name, module in self.network.named_modules()
            if type(module).__module__.startswith("posttrain.")
        ]
        return hashlib.sha256("".join([*listing, *own]).encode()).hexdigest()

    def tokenizer_fingerprint(self) -> str:
        """SHA-256 of the tokenizer's own serialised form, 64 hex digits."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else json.dumps(sorted(self.tokenizer.get_vocab().items()))
        return hashlib.sha256(text.encode()).hexdigest()


def _tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes in row-major order."""
    import torch

    flat = tensor.detach().cpu().contiguous().view(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data if flat.numel() else b"").hexdigest()
