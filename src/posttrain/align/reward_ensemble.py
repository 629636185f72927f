"""Several rewards as one: an ensemble, whose members a policy can't all exploit in the same way.

With r_1 … r_k the scores of an answer, m their mean and s their standard deviation (of the k, not of a sample),

    mean                   m
    min                    min r_i
    mean_minus_variance    m - penalty s^2
    mean_minus_std         m - penalty s

The first three are the mean, worst-case and uncertainty-weighted optimization of Coste et al. (2024, "Reward Model
Ensembles Help Mitigate Overoptimization"); the last is in the unit of the rewards (Eisenstein et al., 2023, "Helping or
Herding?"). Pairs say nothing of where a reward model's zero lies, so members should be trained with `centering` if
anything but their mean is taken. Left out: bringing members to a common scale, and members that share a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from posttrain.align.reward import Judgement, Reward
from posttrain.core.settings import Settings
from posttrain.data.record import Dialogue


class Ensemble(Settings):
    """How several scores of an answer become one."""

    combine: Literal["mean", "min", "mean_minus_variance", "mean_minus_std"] = "mean"
    """The mean, the worst, or the mean less a penalty on disagreement."""

    penalty: float = Field(1.0, ge=0)
    """What the penalised ways take off for a unit of variance, or of standard deviation."""

    def combined(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of k members for n answers, [k, n] -> [n].

        Of 1, 2 and 6, whose variance is 14 / 3: 3, 1, 3 - 4.667 and 3 - 2.160 with a penalty of 1.
        """
        match self.combine:
            case "mean":
                return scores.mean(0)
            case "min":
                return scores.amin(0)
            case "mean_minus_variance":
                return scores.mean(0) - self.penalty * scores.var(0, correction=0)
            case "mean_minus_std":
                return scores.mean(0) - self.penalty * scores.std(0, correction=0)


class EnsembleReward(Reward):
    """Rewards that judge together.

    Args:
        members: Two at least.
        ensemble: How.
    """

    def __init__(self, members: Sequence[Reward], ensemble: Ensemble) -> None:
        self.members, self.ensemble = members, ensemble

    def score(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> list[float]:
        return self.judge(prompts, answers).scores

    def judge(self, prompts: Sequence[str | Dialogue], answers: Sequence[str]) -> Judgement:
        """The combined scores, and the members' standard deviation averaged over the answers."""
        each = [member.score(prompts, answers) for member in self.members]
        scores = torch.tensor(each, dtype=torch.float64)  # [k, n]
        return Judgement(self.ensemble.combined(scores).tolist(), float(scores.std(0, correction=0).mean()))
