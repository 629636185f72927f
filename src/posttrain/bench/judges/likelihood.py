"""Likelihood: which of the letters A and B the model finds likelier as its verdict.

Both answers are shown, the reply is begun for the model, and the probabilities of the two letters at that place are
compared: one pass, nothing to parse, and a preference with a strength, P(A) / (P(A) + P(B)). What requests have in
common is read once. Source: the pairwise comparison of Zheng et al., 2023, "Judging LLM-as-a-Judge with MT-Bench and
Chatbot Arena", without the explanation. Left out: a letter for ties, which models hardly use when they don't explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from posttrain.bench.item import Template
from posttrain.bench.judges import Contest, Judge, Opinion
from posttrain.bench.judges._request import filled, opened, refuse_not_causal
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.task_types import Effort
from posttrain.models.language_model import LanguageModel


class Likelihood(Judge):
    """Compare the probabilities of the letters A and B."""

    prompt: Template = (
        "Two assistants answered the same request. Which of the two answers is {{ better }}? The order in which they "
        "stand here, their length and their style don't count.\n\n"
        "Request:\n{{ prompt }}\n\nAnswer A:\n{{ first }}\n\nAnswer B:\n{{ second }}\n\n"
        "Say A or B, nothing else."
    )
    """What is asked; {{ prompt }}, {{ first }} and {{ second }} are the texts, {{ better }} and {{ criterion }} the
    criterion."""

    lead: str = "The answer that is better is answer"
    """How the reply begins; A or B follows."""

    chat: bool | None = None
    """Ask through the chat template; when not given, if there is one."""

    def prepare(self, model: LanguageModel) -> None:
        refuse_not_causal(model)

    def opinions(
        self, model: LanguageModel, contests: Sequence[Contest], criterion: str, effort: Effort
    ) -> list[Opinion]:
        pairs: list[tuple[str, str]] = []
        for each in contests:
            request = filled(self.prompt, criterion, each.prompt, first=each.first, second=each.second)
            context = opened(model, request, self.lead, self.chat)
            pairs += [(context, " A"), (context, " B")]
        found = likelihoods(model, pairs, effort.tokens_per_pass)
        opinions = []
        for a, b in zip(found[::2], found[1::2]):
            if a.cut or b.cut:
                opinions.append(Opinion(None, {"too_long": True}))
                continue
            preference = 0.5 * (1 + math.tanh((a.logprob - b.logprob) / 2))  # the logistic function
            mass = math.exp(a.logprob) + math.exp(b.logprob)
            opinions.append(Opinion(preference, {"mass": mass}))
        return opinions
