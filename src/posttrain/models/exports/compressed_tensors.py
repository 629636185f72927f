"""compressed-tensors: a folder of quantized weights as vLLM and transformers read it, in the layout "pack-quantized".

Of each quantized layer there is `weight_packed`, the codes of a row densely in little-endian int32, `weight_scale`,
`weight_shape`, and, where ranges aren't symmetric, `weight_zero_point`, packed along the outputs. The codes are the
model's own, nothing is rounded again; `config.json` says in `quantization_config` which layers have how many bits and
which groups. Everything else is written as ordinary tensors.

Layers of 2, 4 and 8 bits: versions of the format differ in how others are packed. What a layer does to its activations
isn't written, so int8 layers compute with unrounded ones there. Left out: layers whose groups aren't neighbouring
inputs, which the format no longer has, GPT-2's transposed layers, experts, several files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from posttrain.core import events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.exports import Export
from posttrain.models.saving import full_disk_as_os_error
from posttrain.models.surgery import effective_bias, effective_weight, integer_weight, weight_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from posttrain.models.language_model import LanguageModel
    from posttrain.models.surgery import IntegerWeight

_BITS = (2, 4, 8)


class CompressedTensors(Export):
    """A folder for vLLM, and for transformers with the package compressed-tensors."""

    suffix: ClassVar[str] = ""
    marker: ClassVar[tuple[str, str]] = ("config.json", '"compressed-tensors"')

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the scales and of all that isn't quantized. float16 keeps the scales of grouped layers exact, bfloat16
    rounds them to 8 bits."""

    def write(self, model: LanguageModel, path: Path) -> dict[str, Any]:
        """See `Export.write`."""
        import torch
        from safetensors.torch import save_file

        network, dtype = model.network, getattr(torch, self.dtype)
        linears = _checked(model)
        tensors: dict[str, Tensor] = {}
        schemes: dict[_Scheme, list[str]] = {}
        with events.task(f"Write {path.name}", total=len(linears), unit="layers") as task:
            for name in task.over(linears):
                layer = network.get_submodule(name)
                found = integer_weight(layer)
                if found is not None:
                    schemes.setdefault(_scheme(name, found), []).append(name)
                    parts = _packed(found)
                elif getattr(layer, "weight", None) is weight_of(network.get_input_embeddings()):
                    continue  # tied, written once
                else:
                    parts = {"weight": effective_weight(layer)}
                if (bias := effective_bias(layer)) is not None:
                    parts["bias"] = bias
                tensors |= {f"{name}.{key}": _cast(f"{name}.{key}", part, dtype) for key, part in parts.items()}
        if not schemes:
            raise BadRequest(
                "No layer of the model is made of integers.",
                "Put a `quantize` step before it; a plain model's folder is read by transformers as it is.",
            )
        for name, tensor in _rest(network, linears):
            tensors[name] = _cast(name, tensor, dtype)
        quantized = {name for names in schemes.values() for name in names}
        left = [name for name in linears if name not in quantized]
        with files.atomic_folder(path) as folder:
            with full_disk_as_os_error():
                save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            (folder / "model.safetensors").chmod(0o644)  # safetensors makes its files private to the user
            network.config.save_pretrained(folder)
            if network.can_generate():
                network.generation_config.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
            config = files.read_json(folder / "config.json")
            config |= {"architectures": [type(network).__name__], "dtype": self.dtype}
            if _head(network) in quantized:  # then it is no longer the embedding
                config["tie_word_embeddings"] = False
            config["quantization_config"] = _description(schemes, left)
            files.write_json(folder / "config.json", config)
        return {
            "bytes": files.folder_bytes(path),
            "layers": len(quantized),
            "bits": sorted({scheme.bits for scheme in schemes}),
            "layers_not_quantized": len(left),
        }


class _Scheme(NamedTuple):
    """How layers are quantized; `group_size` is None for one scale an output channel."""

    bits: int
    group_size: int | None
    symmetric: bool


def _checked(model: LanguageModel) -> list[str]:
    """Dotted names of the linear layers in the network as it was made, the vocabulary projection too.

    Raises:
        BadRequest: If the format has no place for something of the model.
    """
    import torch
    from torch import nn

    network = model.network
    if model.adapter is not None:
        raise BadRequest("The model carries an adapter.", "Merge it first.")
    if any(tensor.dim() > 2 for tensor in network.parameters()):
        raise BadRequest(f"{type(network).__name__} has tensors of three dimensions, which aren't exported.")
    with torch.device("meta"):
        plain = type(network)(network.config)
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Linear)]
    for name, module in network.named_modules():
        if hasattr(module, "integer_weight") and name not in names:
            raise BadRequest(
                f"{name} was no nn.Linear before it was quantized; compressed-tensors has only these.",
                "Export the model to another form.",
            )
    return names


def _scheme(name: str, weight: IntegerWeight) -> _Scheme:
    inputs = weight.codes.shape[1]
    if weight.bits not in _BITS:
        raise BadRequest(f"{name} has {weight.bits} bits a weight.", "compressed-tensors export takes 2, 4 or 8.")
    whole = weight.scale.shape[1] == 1
    if not whole and inputs % weight.group_size:
        raise BadRequest(
            f"The {inputs} inputs of {name} aren't a multiple of its groups of {weight.group_size}.",
            "Quantize it with a group_size that divides them.",
        )
    return _Scheme(weight.bits, None if whole else weight.group_size, weight.zero_point is None)


def _packed(weight: IntegerWeight) -> dict[str, Tensor]:
    """A layer's tensors by the format's names."""
    import torch

    parts = {
        "weight_packed": pack_words(weight.codes, weight.bits),
        "weight_scale": weight.scale,
        "weight_shape": torch.tensor(weight.codes.shape),
    }
    if weight.zero_point is not None:  # [outputs, groups] -> [words, groups]
        parts["weight_zero_point"] = pack_words(weight.zero_point.T, weight.bits).T
    return parts


def pack_words(codes: Tensor, bits: int) -> Tensor:
    """Codes densely in words: entry i of a row takes bits [i * bits, (i + 1) * bits) of little-endian int32.

    Args:
        codes: [rows, n], uint8, each below 2^bits.
        bits: 1 to 8.

    Returns:
        [rows, ceil(n * bits / 32)], int32; unused bits are zero.
    """
    import torch
    from torch.nn import functional

    from posttrain.ops.affine import pack

    packed = pack(codes.contiguous(), bits)
    octets = functional.pad(packed, (0, -packed.shape[1] % 4)).cpu().contiguous().numpy()
    return torch.from_numpy(octets.view("<i4").astype("int32"))


def _rest(network: PreTrainedModel, linears: list[str]) -> Iterator[tuple[str, Tensor]]:
    """All other tensors of the network's state."""
    for name, tensor in network.state_dict().items():
        if not any(name.startswith(f"{linear}.") for linear in linears):
            yield name, tensor


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as it is stored, sharing memory with no other.

    Raises:
        Failure: If the type can't hold it.
    """
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.contiguous()
    stored = tensor.to(dtype, copy=True).contiguous()
    if not stored.isfinite().all():
        raise Failure(f"{name} holds numbers that {str(dtype).removeprefix('torch.')} can't.", "Export as float32.")
    return stored


def _head(network: PreTrainedModel) -> str | None:
    head = network.get_output_embeddings()
    return (
        next((name for name, module in network.named_modules() if module is head), None) if head is not None else None
    )


def _description(schemes: dict[_Scheme, list[str]], left: list[str]) -> dict[str, Any]:
    """`quantization_config`: a scheme's layers by name or, of a single scheme, as all linear layers but the others."""
    groups: dict[str, Any] = {}
    for number, (scheme, names) in enumerate(schemes.items()):
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if len(schemes) == 1 else names,
            "weights": {
                "num_bits": scheme.bits,
                "type": "int",
                "symmetric": scheme.symmetric,
                "strategy": "channel" if scheme.group_size is None else "group",
                "group_size": scheme.group_size,
                "dynamic": False,
                "actorder": None,
                "block_structure": None,
                "observer": "minmax",
                "observer_kwargs": {},
            },
            "input_activations": None,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": left,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
