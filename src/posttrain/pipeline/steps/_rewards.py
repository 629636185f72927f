"""A reward by name, shared by the steps that take one: an earlier step's, a model's, or a function's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.align.reward import Reward, function_reward, model_reward
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load, resolve
from posttrain.pipeline.steps import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def named_reward(
    name: str, context: Context, beside: LanguageModel, *, shared: PreTrainedModel | None = None, tokens_per_pass: int
) -> Reward:
    """Load a reward.

    Args:
        name: An earlier step that made a reward model, the folder of one, or module:function.
        context: Of the step.
        beside: The model whose answers are judged; the reward stands on its device, in its precision.
        shared: A network that isn't changed and whose memory a judge of the same base may share.
        tokens_per_pass: Most tokens that go through a judge at once.

    Raises:
        BadRequest: If there is no such model or function, or the model gives no rewards.
    """
    if name in context.keys:
        judge = context.load(name)
    elif Path(name).exists() or ":" not in name:
        resolve(name)
        judge = load(name, device=str(beside.device), dtype=str(beside.network.dtype).removeprefix("torch."))
    else:
        return function_reward(name)
    return model_reward(judge, shared, tokens_per_pass=tokens_per_pass)
