"""Where a student comes from: some of the teacher's blocks, another model, or a configuration with fresh weights.

    layers:15          15 of the teacher's blocks, evenly spread, the first and the last among them (Sanh et al., 2019,
                       "DistilBERT", take every other one); layers:half takes half of them in this way
    layers:0,2,5       these blocks, counted from 0
    layers:first:4     the lowest four; layers:last:4 the highest
    layers:ends:15     the lowest eight and the highest seven: a deep network bears the loss of a run of blocks better
                       (Gromov et al., 2024, "The Unreasonable Ineffectiveness of the Deeper Layers")
    config.json        a transformers configuration; weights drawn at random, the teacher's tokenizer
    anything else      a model reference: an alias, a folder, hub:…

What is made of the teacher has the teacher's embeddings, head and configuration, and is an ordinary transformers model
with fewer blocks. Left out: narrower students cut from the teacher.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.models.language_model import LanguageModel
from posttrain.models.surgery import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_PREFIX = "layers:"


def build(spec: str, teacher: LanguageModel, load: Callable[[str], LanguageModel]) -> LanguageModel:
    """Make a student.

    Args:
        spec: See the module's description.
        teacher: Whose blocks, tokenizer and kind of network it takes; stays as it is.
        load: Loads a model by reference.

    Raises:
        BadRequest: If the spec can't be carried out.
    """
    if spec.startswith(_PREFIX):
        return from_blocks(teacher, chosen_blocks(spec.removeprefix(_PREFIX), block_count(teacher.network)))
    if spec.endswith(".json"):
        return from_config(Path(spec), teacher)
    return load(spec)


def chosen_blocks(rule: str, count: int) -> list[int]:
    """The blocks that a rule chooses of `count`: ``15``, ``half``, ``0,2,5``, ``first:4``, ``last:4`` or ``ends:4``.

    Raises:
        BadRequest: If the rule can't be read or chooses blocks there aren't.
    """
    end, colon, number = rule.replace("half", str(-(-count // 2))).rpartition(":")
    if re.fullmatch(r"\d+", number) and end in ("", "first", "last", "ends") and bool(colon) == bool(end):
        wanted = int(number)
        if not 1 <= wanted <= count:
            raise BadRequest(f"A student of {wanted} blocks can't be taken from a teacher of {count}.")
        if end:
            low = {"first": wanted, "last": 0, "ends": (wanted + 1) // 2}[end]
            return [*range(low), *range(count - wanted + low, count)]
        # Evenly spread with both ends; halves are rounded up.
        gaps = max(1, wanted - 1)
        return [(2 * i * (count - 1) + gaps) // (2 * gaps) for i in range(wanted)]
    if not re.fullmatch(r"\d+(,\d+)+", rule):
        raise BadRequest(
            f"The student '{_PREFIX}{rule}' can't be read.",
            "As in layers:15, layers:half, layers:0,2,5, layers:first:4, layers:last:4 or layers:ends:4.",
        )
    chosen = [int(part) for part in rule.split(",")]
    if max(chosen) >= count:
        raise BadRequest(f"The teacher has no block {max(chosen)}.", f"It has {count}, counted from 0.")
    return chosen


def block_count(network: PreTrainedModel) -> int:
    """The number of blocks of a network."""
    return int(network.config.get_text_config().num_hidden_layers)


def from_blocks(teacher: LanguageModel, chosen: list[int]) -> LanguageModel:
    """A model with some of the teacher's blocks, in the given order; the weights are copies.

    Args:
        teacher: A plain network of one stack of blocks.
        chosen: Numbers of blocks, from 0.

    Raises:
        BadRequest: If the network isn't of that kind.
    """
    from transformers.initialization import no_init_weights

    network = teacher.network
    if teacher.adapter is not None:
        raise BadRequest(f"{teacher.reference} still carries an adapter.", "Put a `merge` step before distilling it.")
    if teacher.card.get("surgery"):
        raise BadRequest(
            f"Modules of {teacher.reference} were replaced (by quantization, for example).",
            "Take the student's layers from the model as it was before.",
        )
    place = _blocks(network)
    config = _shorter(network.config, chosen)
    with no_init_weights():
        student = type(network)._from_config(config, dtype=network.dtype)
    student.tie_weights()
    try:
        student.load_state_dict(_renumbered(network.state_dict(), place, chosen))
    except RuntimeError as error:
        raise BadRequest(
            f"Blocks {chosen} of {type(network).__name__} make no network of this class: "
            f"{str(error).splitlines()[-1].strip()}",
            "Choose other blocks, or give another model as the student.",
        ) from error
    if network.can_generate():
        student.generation_config = copy.deepcopy(network.generation_config)
    student.to(teacher.device)  # type: ignore[arg-type]
    card = {**copy.deepcopy(teacher.card), "name": teacher.card.get("name") or teacher.reference}
    return LanguageModel(student.eval(), teacher.tokenizer, reference=teacher.reference, card=card)


def from_config(path: Path, teacher: LanguageModel) -> LanguageModel:
    """A network with random weights (of torch's global generator), and the teacher's tokenizer.

    Vocabulary, special tokens and labels are the teacher's unless the file says otherwise, and so is the kind of
    network (what its head is for).

    Args:
        path: A transformers configuration: JSON with `model_type` and whatever differs from its defaults.
        teacher: The teacher.

    Raises:
        BadRequest: If it isn't a configuration, or its vocabulary is too small for the tokenizer.
    """
    import transformers

    if not path.exists():
        raise BadRequest(f"There is no configuration file {path}.")
    values = files.read_json(path)
    if not isinstance(values, dict) or "model_type" not in values:
        raise BadRequest(f"{path} is no transformers configuration: it has no `model_type`.")
    theirs = teacher.network.config
    kept = ["vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"]
    if teacher.network.get_output_embeddings() is None:
        kept += ["id2label", "label2id", "problem_type"]
    given = {key: value for key in kept if (value := getattr(theirs.get_text_config(), key, None)) is not None}
    kind = str(values["model_type"])
    try:
        rest = {key: value for key, value in values.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(kind, **{**given, **rest})
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path}: {str(error).splitlines()[0]}") from error
    if config.get_text_config().vocab_size < len(teacher.tokenizer):
        raise BadRequest(
            f"{path}: a vocabulary of {config.get_text_config().vocab_size} is too small for the teacher's "
            f"tokenizer of {len(teacher.tokenizer)}.",
            "Leave vocab_size out to take the teacher's.",
        )
    auto = _auto_class(teacher.network)
    if type(config) not in auto._model_mapping:
        raise BadRequest(f"{path}: {kind} has no network of the teacher's kind ({type(teacher.network).__name__}).")
    network = auto.from_config(config, dtype=teacher.network.dtype).to(teacher.device)
    card = {"name": path.stem, "source": {"config": str(path)}, "parents": []}
    return LanguageModel(network.eval(), teacher.tokenizer, reference=str(path), card=card)


def _auto_class(network: PreTrainedModel) -> Any:
    """The transformers class that makes networks of this one's kind for any architecture."""
    import transformers

    kinds = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM")
    for kind in kinds:
        auto = getattr(transformers, f"AutoModelFor{kind}")
        mapping = auto._model_mapping
        if type(network.config) in mapping:
            found = mapping[type(network.config)]
            if type(network) in (found if isinstance(found, (tuple, list)) else (found,)):
                return auto
    return transformers.AutoModel


def _blocks(network: PreTrainedModel) -> str:
    """Dotted name of the list of blocks."""
    places = {name.rpartition(".")[0] for name in blocks(network)}
    if len(places) != 1:
        raise BadRequest(
            f"{type(network).__name__} isn't one stack of {block_count(network)} blocks, so none can be left out.",
            "Give another model as the student.",
        )
    return places.pop()


def _shorter(config: PreTrainedConfig, chosen: list[int]) -> PreTrainedConfig:
    """The configuration with as many blocks as are chosen, and what it says of each block for these."""
    shorter = type(config).from_dict(config.to_dict())
    text = shorter.get_text_config()
    count = int(text.num_hidden_layers)
    each = {
        name: [value[i] for i in chosen]
        for name, value in text.to_dict().items()
        # One entry a block, as layer_types; a list that numbers all blocks is something else.
        if "layer" in name and isinstance(value, list) and len(value) == count and value != list(range(count))
    }
    for name, value in {**each, "num_hidden_layers": len(chosen)}.items():
        setattr(text, name, value)
    return shorter


def _renumbered(state: dict[str, torch.Tensor], place: str, chosen: list[int]) -> dict[str, torch.Tensor]:
    """The teacher's tensors under the student's names."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(f"{place}.")}
    for new, old in enumerate(chosen):
        prefix = f"{place}.{old}."
        kept |= {
            f"{place}.{new}.{name.removeprefix(prefix)}": tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
    return kept
