"""Response distillation: the student learns the teacher's probabilities (Hinton, Vinyals and Dean, 2015).

With the distributions p of the teacher and q of the student at temperature T,

    L = alpha L_task + (1 - alpha) T^2 D(p, q)

where D is the forward KL(p || q), the reverse KL(q || p) (Gu et al., 2024, "MiniLLM") or the generalised Jensen-Shannon
divergence (Agarwal et al., 2024). The factor T^2 keeps the size of the gradients when the temperature changes.

For language models the distributions are those of every learned token; the [tokens, vocabulary] matrix never exists,
neither the teacher's nor the student's. Where one of two embedding tables is padded, the ids both have are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import nn

from posttrain.core.errors import BadRequest
from posttrain.distill.losses import Comparison, DistillationLoss
from posttrain.ops import divergence
from posttrain.ops.linear_divergence import linear_divergence

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Response(DistillationLoss):
    """The teacher's probabilities, softened by a temperature."""

    temperature: float = Field(1.0, gt=0)
    """Divides all logits: above 1, the small probabilities count more. Classifiers like 2 to 4, language models 1."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Share of the task's own loss; 0 learns from the teacher alone."""

    divergence: Literal["forward", "reverse", "js"] = "forward"
    """What the two distributions are compared by: KL(teacher || student), KL(student || teacher), Jensen-Shannon."""

    mixture: float = Field(0.5, gt=0, lt=1)
    """The teacher's share in the mixture of js."""

    def task_share(self) -> float:
        """Alpha."""
        return self.alpha

    def prepare(self, student: LanguageModel, teachers: Sequence[LanguageModel]) -> nn.Module | None:
        """Classifiers must know the same labels."""
        own = _labels(student)
        for teacher in teachers:
            if (theirs := _labels(teacher)) != own:
                raise BadRequest(
                    f"The teacher {teacher.reference} and the student don't have the same labels: {theirs}, {own}.",
                    "Train the teacher on this data first.",
                )
        several = getattr(student.network.config, "problem_type", None) == "multi_label_classification"
        if own is not None and (len(own) < 2 or several):
            what = "several labels at once" if several else "one number"
            raise BadRequest(f"A teacher of {what} has no distribution to learn.", "Choose losses: feature.")
        return None

    def loss(self, comparison: Comparison, added: nn.Module | None) -> torch.Tensor:
        """See `DistillationLoss.loss`."""
        student, lesson = comparison.student, comparison.lesson
        if student.logits is not None:
            value = self._of_logits(student.logits, lesson.logprobs(slice(None), self.temperature, lesson.classes))
        else:
            assert student.head is not None
            head = student.head
            classes = min(head.weight.shape[0], lesson.classes)
            value = linear_divergence(
                student.hidden,
                head.weight[:classes],
                lambda rows: lesson.logprobs(rows, self.temperature, classes),
                kind=self.divergence,
                mixture=self.mixture,
                temperature=self.temperature,
                bias=None if head.bias is None else head.bias[:classes],
                softcap=head.softcap,
                scale=head.scale,
            )
        return (1 - self.alpha) * self.temperature**2 * value

    def _of_logits(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The divergence summed over rows: logits [N, C] of the student, log-probabilities [N, C] at the temperature.

        The functions divide both by the temperature, so the target is multiplied by it before.
        """
        target = target * self.temperature
        match self.divergence:
            case "forward":
                return divergence.forward_kl(target, logits, self.temperature).sum()
            case "reverse":
                return divergence.reverse_kl(target, logits, self.temperature).sum()
            case "js":
                return divergence.jensen_shannon(target, logits, self.mixture, self.temperature).sum()


def _labels(model: LanguageModel) -> dict[int, str] | None:
    """The names of a classifier's outputs; None for a language model, whose outputs are its vocabulary."""
    if model.network.get_output_embeddings() is not None:
        return None
    return {int(number): name for number, name in (model.network.config.id2label or {}).items()}
