"""Task heads: a network with transformers' own class for a task, built around the body that is there.

The body's modules are taken over as they are; only what the class adds is made anew, drawn from torch's global
generator as transformers draws it. So a saved folder is an ordinary one for every other tool. What a class does between
the last hidden states and its scores is left to the class: its own `forward` runs on states that a packed pass computed
without padding. Left out: encoder-decoder networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.models.forward import body, first_position
from posttrain.models.sources import NETWORK_CLASSES, quiet
from posttrain.models.surgery import features, is_linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from posttrain.models.language_model import LanguageModel


# Attribute of a network that names the modules of its body that were made anew; not a module's, so never saved.
_MADE = "_posttrain_made"


def give_head(model: LanguageModel, network_class: str, labels: Sequence[str], problem: str | None = None) -> None:
    """Make `model.network` one for a task with these labels; one that is that already stays as it is.

    The card's key `head` then holds the arguments, for an adapter that is saved without its base.

    Args:
        model: A network of any class; its head for another task, the vocabulary's for example, is left out.
        network_class: A key of `posttrain.models.sources.NETWORK_CLASSES`.
        labels: Names of the labels, in the order of the scores.
        problem: transformers' `problem_type`, which decides the loss its classes take.

    Raises:
        BadRequest: If the architecture has no network for the task, the network has a head for other labels or another
            problem, or the tokenizer has no token to pad with.
    """
    network, config, labels = model.network, cast(Any, model.network.config), list(labels)
    cls = _class_for(config, network_class)
    if type(network) is cls:
        _refuse_other(network, labels, problem)
    else:
        _set_padding(model)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        model.network = _rebuilt(network, cls)
    if problem is not None:
        config.problem_type = problem
    model.card["head"] = {"network_class": network_class, "labels": labels, "problem": problem}


def label_names(network: PreTrainedModel) -> list[str]:
    """Names of a network's labels, in the order of its scores."""
    config = cast(Any, network.config)
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def has_head(network: PreTrainedModel, network_class: str) -> bool:
    """Whether the network is of the class that its architecture has for a task."""
    import transformers

    return type(network) is getattr(transformers, NETWORK_CLASSES[network_class])._model_mapping.get(
        type(network.config), None
    )


def task_head(network: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules that stand between a body's states and the scores of a task, by dotted name.

    These are the modules outside the body and those that `give_head` had to make inside it (a pooler that a masked
    language model lacks). A language model, whose head is a vocabulary projection, has none.
    """
    prefix = network.base_model_prefix
    if network.get_output_embeddings() is not None or body(network) is network:
        return {}
    made = {f"{prefix}.{name}": network.get_submodule(f"{prefix}.{name}") for name in vars(network).get(_MADE, ())}
    outside = {name: child for name, child in network.named_children() if name != prefix}
    return {name: child for name, child in {**made, **outside}.items() if _has_parameters(child)}


@dataclass(frozen=True)
class Scores:
    """What a head makes of states.

    Attributes:
        hidden: [N, H], what the last linear map gets: of a sequence's state or of a token's.
        logits: [N, C].
    """

    hidden: torch.Tensor
    logits: torch.Tensor


def sequence_scores(
    network: PreTrainedModel, states: torch.Tensor, input_ids: torch.Tensor, boundaries: torch.Tensor
) -> Scores:
    """One row of scores for each packed sequence: N is their number.

    Args:
        network: One whose class pools a sequence into one state.
        states: [T, H], the last hidden states of the packed sequences.
        input_ids: [T] long.
        boundaries: [N + 1] long, where each sequence starts; the last entry is T.

    Returns:
        What the class's own `forward` gives on a padded batch.
    """
    lengths = boundaries.diff()
    real = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]  # [N, L]
    pad = network.config.get_text_config().pad_token_id
    rows = input_ids.new_full(real.shape, 0 if pad is None else pad).masked_scatter(real, input_ids)
    padded = states.new_zeros(*real.shape, states.shape[-1]).masked_scatter(real[..., None], states)  # [N, L, H]
    hidden, logits = _through_head(network, padded, rows, real.long())
    if hidden.dim() == 3:  # every position was scored; these classes take the last one that isn't padding
        positions = torch.arange(rows.shape[1], device=rows.device)
        hidden = hidden[torch.arange(len(rows), device=rows.device), (positions * (rows != pad)).argmax(-1)]
    return Scores(hidden, logits)


def token_scores(network: PreTrainedModel, states: torch.Tensor, input_ids: torch.Tensor) -> Scores:
    """One row of scores for each token: N is T.

    Args:
        network: One whose class scores each token by itself.
        states: [T, H], the last hidden states.
        input_ids: [T] long.
    """
    hidden, logits = _through_head(network, states[None], input_ids[None], torch.ones_like(input_ids)[None])
    return Scores(hidden[0], logits[0])


def vocabulary_logits(network: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Logits of single positions under a masked language model, [N, V], by the class's own head.

    Args:
        network: One whose head looks at each position by itself.
        states: [N, H], last hidden states.
    """
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)  # the head looks at states alone
    with _returning(body(network), _States(states[None], None)):
        return cast("torch.Tensor", network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0])


# -- giving a head -----------------------------------------------------------------------------------------------------


def _class_for(config: PreTrainedConfig, network_class: str) -> type[PreTrainedModel]:
    import transformers

    mapping = getattr(transformers, NETWORK_CLASSES[network_class])._model_mapping
    words = network_class.replace("_", " ")
    if config.is_encoder_decoder or type(config) not in mapping:
        raise BadRequest(f"The architecture {config.model_type} has no network for {words}.", "Take another model.")
    found = mapping[type(config)]
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, (tuple, list)) else found)


def _refuse_other(network: PreTrainedModel, labels: list[str], problem: str | None) -> None:
    own, kind = label_names(network), network.config.problem_type
    if own != labels:
        raise BadRequest(
            f"The model has a head for the labels {_listed(own)}, but the data has {_listed(labels)}.",
            "Take data with the model's labels, or begin with a model that has no head yet.",
        )
    if problem is not None and kind not in (None, problem):
        raise BadRequest(f"The model's head is for {kind.replace('_', ' ')}, the data for {problem.replace('_', ' ')}.")


def _listed(labels: list[str], most: int = 8) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:most])
    return shown + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _set_padding(model: LanguageModel) -> None:
    """Let configuration and tokenizer agree on the padding token: classes that pool the last token look for it."""
    config, tokenizer = model.network.config.get_text_config(), model.tokenizer
    if tokenizer.pad_token_id is None:
        if config.pad_token_id is not None:
            tokenizer.pad_token = cast(str, tokenizer.convert_ids_to_tokens(config.pad_token_id))
        elif tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
            events.message(
                f"The tokenizer has no padding token; its end token {tokenizer.eos_token!r} is used, and written into "
                "the configuration."
            )
        else:
            raise BadRequest(
                "The tokenizer has neither a padding nor an end token, so texts of unequal length can't be batched.",
                "Set tokenizer.pad_token and save it.",
            )
    # Where positions are counted from the padding token's id, that id is part of what the network computes.
    if config.pad_token_id is None or first_position(model.network) == 0:
        config.pad_token_id = tokenizer.pad_token_id


def _rebuilt(network: PreTrainedModel, cls: type[PreTrainedModel]) -> PreTrainedModel:
    """A network of a class around the body of another; the configuration is shared, as body and head expect."""
    own = body(network)
    with torch.device("meta"), quiet():
        fresh = cls(network.config)
    wanted = body(fresh)
    if type(wanted) is not type(own):
        raise BadRequest(f"{cls.__name__} has another body than {type(network).__name__}.", "Take another model.")
    like, made = next(own.parameters()), []
    for name in {name for each in (wanted, own) for name, _ in each.named_children()}:
        theirs, ours = getattr(wanted, name, None), getattr(own, name, None)
        if theirs is None:  # a pooler the class doesn't look at
            setattr(own, name, None)
        elif ours is None:
            setattr(own, name, _initialised(theirs, fresh, like))
            made.append(name)
    vars(fresh)[_MADE] = tuple(made)
    setattr(fresh, cls.base_model_prefix, own)
    for name, child in list(fresh.named_children()):
        if name != cls.base_model_prefix:
            setattr(fresh, name, _initialised(child, fresh, like))
    network.config.architectures = [cls.__name__]
    return fresh.train(network.training)


def _initialised(module: nn.Module, network: PreTrainedModel, like: torch.Tensor) -> nn.Module:
    """A module from the meta device with values as the architecture draws them, in the type and place of `like`."""
    dtype = like.dtype if like.dtype.is_floating_point else torch.float32
    module = module.to_empty(device=like.device).to(dtype)
    with torch.no_grad():
        for each in module.modules():
            cast(Any, network)._init_weights(each)
    return module


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


# -- passing through one -----------------------------------------------------------------------------------------------


@dataclass
class _States:
    """What a body would have returned; read by name or, as older classes do, by position."""

    last_hidden_state: torch.Tensor
    pooler_output: torch.Tensor | None
    hidden_states: None = None
    attentions: None = None
    cache: None = None
    past_key_values: None = None

    def __getitem__(self, index: int) -> Any:
        return [each for each in (self.last_hidden_state, self.pooler_output) if each is not None][index]


def _through_head(
    network: PreTrainedModel, states: torch.Tensor, input_ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last linear map gets, and the logits, of states [N, L, H] of real and padding tokens [N, L]."""
    with _returning(body(network), _States(states, _pooled(network, states))), _last_input(network) as inputs:
        logits = network(input_ids=input_ids, attention_mask=mask).logits
    return inputs[-1], logits


def _pooled(network: PreTrainedModel, states: torch.Tensor) -> torch.Tensor | None:
    """[N, H] of the first tokens, as the body's own pooler makes it; None where there is none."""
    pooler = getattr(body(network), "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    activation = getattr(body(network), "pooler_activation", None)  # ALBERT's stands beside the linear map
    return cast("torch.Tensor", pooler(states) if activation is None else activation(pooler(states[:, 0])))


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return something computed before, inside the block."""
    vars(module)["forward"] = lambda *arguments, **more: output
    try:
        yield
    finally:
        del vars(module)["forward"]


@contextmanager
def _last_input(network: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """What the head's linear maps to the scores got, noted inside the block."""
    inputs: list[torch.Tensor] = []
    maps = {
        each: None
        for module in task_head(network).values()
        for each in module.modules()
        if is_linear(each) and features(each)[1] == network.config.num_labels
    }
    hooks = [each.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for each in maps]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
