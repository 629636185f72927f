"""generate: what the current model writes."""

from __future__ import annotations

from typing import Any

from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.pipeline.steps import Context, Outcome
from posttrain.pipeline.steps._answering import Answering
from posttrain.pipeline.views import facts, samples


class Generate(Answering):
    """Write continuations or answers."""

    prompts: list[str] | str = "builtin:prompts"
    """Prompts, or a data set of prompts."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hash of the prompts, where they come from a data set, and of what the search reads."""
        return super().inputs(context) | hash_of_prompts(self.prompts)

    def run(self, context: Context) -> Outcome:
        """Generate and show."""
        prompts = read_prompts(self.prompts)[: self.limit]
        written = self.answers(context.model, prompts, context.seed, chat=self.chat)
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


def hash_of_prompts(prompts: list[str] | str) -> dict[str, Any]:
    """Source and hash of the prompts as one of a step's inputs; nothing where they stand in the recipe."""
    if isinstance(prompts, list):
        read_prompts(prompts)  # refused before any work if there are none
        return {}
    read = dataset.read(prompts, lines=True)
    return {"prompts": {"source": read.source, "hash": read.hash}}


def read_prompts(prompts: list[str] | str) -> list[str]:
    """Prompts from a list, or the prompt column of a data set.

    Raises:
        BadRequest: If there are no prompts.
    """
    if isinstance(prompts, list):
        if not prompts:
            raise BadRequest("The list of prompts is empty.", "Give at least one.")
        return prompts
    records = dataset.read(prompts, lines=True).records
    found = [str(getattr(record, "prompt", None) or getattr(record, "text", "")) for record in records]
    if not all(found):
        raise BadRequest(
            f"{prompts} has records without a prompt.", "Give records with a `prompt`, or one text a line."
        )
    return found
