"""generate: what the current model writes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from posttrain.core.catalog import block, blocks
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.decode.generation import generate
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import facts, samples


class Generate(Step):
    """Write continuations or answers."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts, or a data set of prompts."""

    chat: bool = True
    """Ask through the model's chat template; otherwise the prompt is simply continued."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen, as in {sampling: {temperature: 0.8}}."""

    process: blocks("process") = Field(default_factory=list)  # type: ignore[valid-type]
    """Further changes of the next-token distribution, in written order."""

    max_new_tokens: int = Field(64, ge=1)
    """Most tokens written for each prompt."""

    stop: list[str] = []
    """Texts that end a generation."""

    batch_size: int = Field(16, ge=1)
    """Prompts at once; never changes what is written."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many prompts."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the prompts, where they come from a data set, and of what the search reads."""
        found = self.search.inputs()
        if isinstance(self.prompts, list):
            return {"search": found}
        read = dataset.read(self.prompts)
        return {"prompts": {"source": read.source, "hash": read.hash}, "search": found}

    def run(self, context: Context) -> Outcome:
        """Generate and show."""
        prompts = read_prompts(self.prompts)[: self.limit]
        written = generate(
            context.model,
            prompts,
            search=self.search,
            processors=self.process,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            seed=context.seed,
            batch_size=self.batch_size,
            chat=self.chat,
        )
        rows = [[str(g.prompt), g.text] for g in written.generations]
        result = {
            "generations": [
                {
                    "prompt": g.prompt,
                    "sample": g.sample,
                    "text": g.text,
                    "token_ids": list(g.token_ids),
                    "logprob": g.logprob,
                    "score": g.score,
                }
                for g in written.generations
            ],
            "tokens_per_second": written.tokens_per_second,
            "prefill_seconds": written.prefill_seconds,
        }
        speed = facts("Speed", {"new tokens a second": written.tokens_per_second})
        headline = f"{len(rows)} texts, {written.tokens_per_second:.3g} tokens a second"
        return Outcome(
            result, [samples("What it writes", ["prompt", context.model_name], rows), speed], headline=headline
        )


def read_prompts(prompts: list[str] | str) -> list[str]:
    """Prompts from a list, or the prompt column of a data set.

    Raises:
        BadRequest: If the data set has no prompts.
    """
    if isinstance(prompts, list):
        return prompts
    records = dataset.read(prompts, lines=True).records
    found = [str(getattr(record, "prompt", None) or getattr(record, "text", "")) for record in records]
    if not all(found):
        raise BadRequest(
            f"{prompts} has records without a prompt.", "Give records with a `prompt`, or one text a line."
        )
    return found
