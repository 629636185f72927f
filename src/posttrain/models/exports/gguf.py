"""GGUF, llama.cpp's format: one file with weights, tokenizer and chat template.

Networks of Llama's kind: Llama (SmolLM2 among them), Mistral, Qwen2, Qwen3. What llama.cpp computes otherwise is turned
round: it rotates neighbouring pairs of a head's channels where transformers rotates halves, so the rows of Llama's
query and key are reordered. Llama 3's scaling for long contexts goes into a table of factors.

Matrices are written in the chosen type, norms and biases in float32. Layers that posttrain has quantized are written as
the matrices they amount to. Tensors go to the file one by one. Left out: experts, vision, adapters, K-quants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from posttrain.core import events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.exports import Export
from posttrain.models.exports._gguf_tokenizer import add_tokenizer
from posttrain.models.surgery import effective_bias, effective_weight, is_linear, weight_of

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from torch import Tensor, nn

    from posttrain.models.language_model import LanguageModel

Type = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

# transformers' model_type -> llama.cpp's architecture, and whether it rotates neighbouring channels.
_ARCHITECTURES = {"llama": ("llama", True), "mistral": ("llama", True), "qwen2": ("qwen2", False)}
_ARCHITECTURES |= {"qwen3": ("qwen3", False)}
# How transformers scales positions -> whether that is a table of factors, one for each pair of channels.
_SCALINGS = {"default": False, "linear": False, "llama3": True}


class Gguf(Export):
    """A file for llama.cpp and what is built on it."""

    suffix: ClassVar[str] = ".gguf"
    marker: ClassVar[tuple[str, str]] = ("", "GGUF")

    type: Type = "f16"
    """How matrices are stored: f32, f16, bf16, or in blocks of 32 with 8, 5 or 4 bits. Below 8 bits the embedding and
    the vocabulary projection are kept at q8_0."""

    def write(self, model: LanguageModel, path: Path) -> dict[str, Any]:
        """See `Export.write`."""
        from gguf import GGUFWriter

        config, (architecture, neighbours) = _checked(model)
        entries = list(_entries(model, architecture, neighbours, self._stored_type))
        with files.atomic_file(path) as temporary:
            writer = GGUFWriter(None, architecture)
            _add_description(writer, model, self.type)
            _add_sizes(writer, config)
            add_tokenizer(writer, model.tokenizer, len(weight_of(model.network.get_input_embeddings())))
            for entry in entries:
                writer.add_tensor_info(entry.name, entry.shape, _float32(), entry.nbytes, entry.type)
            try:
                writer.write_header_to_file(temporary)
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                with events.task(f"Write {path.name}", total=len(entries), unit="tensors") as task:
                    for entry in task.over(entries):
                        writer.write_tensor_data(entry.data())
            finally:
                writer.close()
        return {"bytes": path.stat().st_size, "tensors": len(entries), "architecture": architecture}

    def _stored_type(self, name: str, shape: tuple[int, ...]) -> Any:
        """The type of a tensor: its own for matrices whose rows fill blocks."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if len(shape) < 2:
            return GGMLQuantizationType.F32
        own: str = self.type
        if own.startswith(("q4", "q5")) and name in ("token_embd.weight", "output.weight"):
            own = "q8_0"
        wanted = GGMLQuantizationType[own.upper()]
        return wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16


class _Entry(NamedTuple):
    """A tensor of the file; its values are made when it is written."""

    name: str
    shape: tuple[int, ...]
    type: Any
    source: str
    values: Any  # () -> Tensor

    @property
    def nbytes(self) -> int:
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * size

    def data(self) -> np.ndarray:
        """The tensor as it is stored.

        Raises:
            Failure: If a number is infinite or undefined, or too large for the type.
        """
        import numpy as np
        from gguf import GGMLQuantizationType, quants

        values = self.values().detach().float().cpu().contiguous().numpy()
        largest = np.abs(values).max(initial=0)
        limit = np.finfo(np.float16).max if self.type != GGMLQuantizationType.F32 else np.inf
        if self.type == GGMLQuantizationType.BF16:
            limit = np.inf
        if not np.isfinite(largest):
            raise Failure(f"{self.source} holds {largest}, which is no number.", "Check the model's weights.")
        if largest > limit:
            raise Failure(f"{self.source} holds {largest}, which {self.type.name} can't.", "Export as f32 or bf16.")
        return quants.quantize(values, self.type)


def _checked(model: LanguageModel) -> tuple[Any, tuple[str, bool]]:
    """The configuration and what llama.cpp calls the architecture."""
    config: Any = model.network.config
    known = ", ".join(_ARCHITECTURES)
    if model.adapter is not None:
        raise BadRequest("The model carries an adapter.", "Merge it first.")
    if config.model_type not in _ARCHITECTURES or not model.is_causal:
        raise BadRequest(f"{type(model.network).__name__} can't be exported to GGUF.", f"Supported: {known}.")
    if config.hidden_act != "silu":
        raise BadRequest(f"llama.cpp computes silu in such networks, not {config.hidden_act}.")
    architecture, neighbours = _ARCHITECTURES[config.model_type]
    scaling = _rope(config)["rope_type"]
    if scaling not in _SCALINGS or (_SCALINGS[scaling] and not neighbours):
        raise BadRequest(f"Positions scaled by '{scaling}' can't be exported to GGUF for {architecture}.")
    return config, (architecture, neighbours)


def _rope(config: Any) -> dict[str, Any]:
    return {"rope_type": "default", **config.rope_parameters}


def _add_description(writer: GGUFWriter, model: LanguageModel, matrices: Type) -> None:
    from gguf import GGML_QUANT_VERSION, GGUFType, LlamaFileType

    writer.add_type(GGUFType.MODEL)
    writer.add_name(str(model.card.get("name") or model.reference))
    if isinstance(name := model.card.get("license"), str):
        writer.add_license(name)
    writer.add_file_type(LlamaFileType["ALL_F32" if matrices == "f32" else f"MOSTLY_{matrices.upper()}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    from gguf import RopeScalingType

    heads, context = config.num_attention_heads, config.max_position_embeddings
    width = _head_width(config)
    window = _window(config)
    if window is not None and window < context:
        events.message(f"llama.cpp attends to the whole text in such networks, so the context is cut to {window}.")
        context = window
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if width * heads != config.hidden_size:
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _window(config: Any) -> int | None:
    """How far attention looks back, if it is limited at all."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return getattr(config, "sliding_window", None)


def _entries(model: LanguageModel, architecture: str, neighbours: bool, stored_type: Any) -> Iterator[_Entry]:
    """All tensors of the file, in the network's order.

    Raises:
        BadRequest: If the network holds a tensor that such networks don't have.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    network, config = model.network, model.network.config
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    tied = getattr(head, "weight", None) is embedding.weight
    if (factors := _position_factors(network)) is not None:
        yield _Entry("rope_freqs.weight", tuple(factors.shape), stored_type("", factors.shape), "rope", lambda: factors)
    left = set(network.state_dict())
    for name, module in network.named_modules():
        own = {key for key in left if key.rpartition(".")[0] == name}
        if not own:
            continue
        left -= own
        if module is head and tied:
            continue
        target = names.get_name(name)
        if target is None or not (is_linear(module) or hasattr(module, "weight")):
            raise BadRequest(f"GGUF has no place for {name} ({type(module).__name__}).", "Export the plain model.")
        heads = _rotated_heads(config, name) if neighbours else None
        for kind, values in _tensors(module):
            shape = tuple(values().shape)
            full = f"{target}.{kind}"
            yield _Entry(full, shape, stored_type(full, shape), name, _reordered(values, heads) if heads else values)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module amounts to, as functions that give a matrix or norm, and a bias if there is one."""
    yield "weight", lambda: effective_weight(module)
    bias = effective_bias(module)
    if bias is not None:
        yield "bias", lambda: bias


def _rotated_heads(config: Any, name: str) -> int | None:
    """How many heads a projection makes that positions rotate; None for all others."""
    if name.endswith("q_proj"):
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if name.endswith("k_proj") else None


def _reordered(values: Any, heads: int) -> Any:
    """Rows so that the pairs (i, i + half) of each head become neighbours."""

    def ordered() -> Tensor:
        rows = values()
        return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)

    return ordered


def _position_factors(network: Any) -> Tensor | None:
    """By how much each pair of channels rotates more slowly than by the base alone, [head width / 2]; None for none."""
    import torch

    config = network.config
    if not _SCALINGS[_rope(config)["rope_type"]]:
        return None
    width = _head_width(config)
    plain = 1.0 / _rope(config)["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    return plain / network.base_model.rotary_emb.inv_freq.float().cpu()


def _float32() -> Any:
    import numpy as np

    return np.dtype(np.float32)
