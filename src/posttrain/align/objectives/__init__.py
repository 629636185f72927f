"""The contract of a way to align: an objective that also says what it learns from and what it needs beside the model.

It stays an ordinary objective, trained by the one loop. Where batches are sampled from the policy itself, `batches`
gives a source that does so; everywhere else they are made of the items that `encode` gave.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.align.reward import Reward
from posttrain.data.collate import Batches
from posttrain.data.encoded import Encoded
from posttrain.train.objectives import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from posttrain.adapt import Adapter
    from posttrain.models.language_model import LanguageModel


@dataclass(frozen=True)
class Plan:
    """What a source of batches may need.

    Attributes:
        adapter: The policy's adapter; disabled, the network is the reference.
        batch_size: Pairs or episodes in one optimizer step.
        tokens_per_pass: Most tokens that go through the network at once.
        seed: Of order and sampling.
        max_new_tokens: Most tokens of a sampled answer.
        episodes: How many episodes are wanted in all.
        reward: Scores answers, if there is one.
        autocast: Whether the loop computes in bfloat16.
    """

    adapter: Adapter
    batch_size: int
    tokens_per_pass: int
    seed: int
    max_new_tokens: int
    episodes: int
    reward: Reward | None = None
    autocast: bool = False


class Alignment(Objective):
    """A loss on preferences or rewards."""

    default_data: ClassVar[str] = "builtin:preferences"
    """What it is trained on when the user gives no data."""

    samples_policy: ClassVar[bool] = False
    """Whether it samples answers and needs a reward; otherwise it learns from pairs and can be measured on others."""

    makes_policy: ClassVar[bool] = True
    """Whether what comes out writes text; otherwise it is a judge of texts."""

    margin: ClassVar[str] = ""
    """Which metric of pairs is the reward of the chosen answer less that of the rejected one."""

    head: ClassVar[str | None] = None
    """Name of the scalar head that is trained beside the adapter."""

    keeps_head: ClassVar[bool] = False
    """Whether the head is part of what was learned."""

    def annotate(self, network: PreTrainedModel, items: Sequence[Encoded], tokens_per_pass: int) -> None:
        """Note in the items what the loss needs to know of the network as it is before it gets its adapter."""

    def batches(self, model: LanguageModel, items: Sequence[Encoded], plan: Plan) -> Iterable[list[Any]]:
        """The batches of a training: one list of micro-batches an optimizer step."""
        return Batches(
            items,
            plan.batch_size,
            plan.tokens_per_pass,
            seed=plan.seed,
            collate=lambda part: self.collate(part).to(model.device),
        )

    def steps_for(self, episodes: int, batch_size: int) -> int:
        """How many optimizer steps use up so many episodes (pairs, where there are pairs)."""
        return -(-episodes // batch_size)

    @abstractmethod
    def weight(self, batch: Any) -> float:
        """See `Objective.weight`."""
