"""Verdict: the model writes a short explanation and ends it with [[A]], [[B]] or [[C]] for a tie.

The form of MT-Bench (Zheng et al., 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", section 3.1), in
words of our own. The last verdict in the text counts; a text without one is no verdict. Left out: reference answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from posttrain.bench.item import Template
from posttrain.bench.judges import Contest, Judge, Opinion
from posttrain.bench.judges._request import filled, refuse_not_causal, uses_chat
from posttrain.bench.task_types import Effort
from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest
from posttrain.decode.generation import generate, prompt_tokens
from posttrain.models.language_model import LanguageModel


def _checked(pattern: str) -> str:
    try:
        groups = re.compile(pattern, re.IGNORECASE).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if groups != 1:
        raise ValueError("it needs one group, which holds the letter")
    return pattern


class Verdict(Judge):
    """Let the model explain, and read its verdict."""

    prompt: Template = (
        "Two assistants answered the same request. Compare the two answers and decide which one is {{ better }}. The "
        "order in which they stand here, their length and their style don't count.\n\n"
        "Request:\n{{ prompt }}\n\nAnswer A:\n{{ first }}\n\nAnswer B:\n{{ second }}\n\n"
        "Explain in one or two sentences what makes the difference. Then write your verdict: [[A]] if answer A is "
        "{{ better }}, [[B]] if answer B is, [[C]] if neither is."
    )
    """What is asked; {{ prompt }}, {{ first }} and {{ second }} are the texts, {{ better }} and {{ criterion }} the
    criterion."""

    pattern: Annotated[str, AfterValidator(_checked)] = r"\[\[\s*(A|B|C|tie)\s*\]\]"
    """What a verdict looks like, a regular expression; its group is A, B, or anything else for a tie. The last match
    counts, capitals don't."""

    max_new_tokens: int = Field(256, ge=1)
    """Most tokens of explanation and verdict."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen."""

    chat: bool | None = None
    """Ask through the chat template; when not given, if there is one."""

    def prepare(self, model: LanguageModel) -> None:
        refuse_not_causal(model)

    def opinions(
        self, model: LanguageModel, contests: Sequence[Contest], criterion: str, effort: Effort
    ) -> list[Opinion]:
        requests: list[Any] = []
        for each in contests:
            request = filled(self.prompt, criterion, each.prompt, first=each.first, second=each.second)
            chat = uses_chat(model, self.chat)
            requests.append([{"role": "user", "content": request}] if chat else f"{request}\n\n")
        opinions = [Opinion(None, {"too_long": True})] * len(requests)
        fitting = [i for i, request in enumerate(requests) if self._fits(model, request)]
        if fitting:
            written = generate(
                model,
                [requests[i] for i in fitting],
                search=self.search,
                max_new_tokens=self.max_new_tokens,
                batch_size=effort.batch_size,
            ).generations
            if len(written) != len(fitting):
                raise BadRequest("The search gives several verdicts on a pair.", "Choose one that writes one text.")
            for i, generation in zip(fitting, written):
                opinions[i] = Opinion(self.read(generation.text), {"text": generation.text})
        return opinions

    def read(self, text: str) -> float | None:
        """The verdict in a text: 1 for A, 0 for B, ½ for a tie; None if there is none."""
        found = re.findall(self.pattern, text, re.IGNORECASE)
        return {"A": 1.0, "B": 0.0}.get(found[-1].upper(), 0.5) if found else None

    def _fits(self, model: LanguageModel, request: Any) -> bool:
        limit = model.context_length
        return limit is None or len(prompt_tokens(model, request)) + self.max_new_tokens <= limit
