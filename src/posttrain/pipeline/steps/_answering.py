"""What the steps share that let the current model answer prompts once: how it is asked, and asking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from posttrain.core.catalog import block, blocks
from posttrain.decode.generation import Generations, generate
from posttrain.decode.sequence import Prompt
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.steps import Context, Step


class Answering(Step):
    """Base of the steps that let the current model answer."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many prompts."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen, as in {sampling: {temperature: 0.8}}."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Further changes of the next-token distribution, in written order."""

    max_new_tokens: int = Field(64, ge=1)
    """Most tokens written for each prompt."""

    stop: list[str] = []
    """Texts that end an answer."""

    batch_size: int = Field(16, ge=1)
    """Prompts at once; never changes what is written."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """What the search reads."""
        return {"search": self.search.inputs()}

    def answers(self, model: LanguageModel, prompts: Sequence[Prompt], seed: int, **more: Any) -> Generations:
        """What the model writes; `more` is what else `decode.generation.generate` takes."""
        return generate(
            model,
            prompts,
            search=self.search,
            processors=self.process,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            seed=seed,
            batch_size=self.batch_size,
            **more,
        )
