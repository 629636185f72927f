"""card: the model card of the current model, with everything the run has measured so far."""

from __future__ import annotations

from typing import Any

from posttrain.core import files
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import document
from posttrain.registry.model_card import Evidence, evidence, model_card

CARD = "model_card.md"


class Card(Step):
    """Write the model card, with what the run has measured."""

    intended_use: str | None = None
    """What the model is for and what not, in Markdown; only you can know."""

    knowledge_cutoff: str | None = None
    """When its training texts end, as in 2024-06; taken from the model's card when not given."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Keys of the earlier steps, whose figures it shows."""
        return {"earlier": dict(context.keys)}

    def run(self, context: Context) -> Outcome:
        """Write it into the step's folder."""
        measured: list[Evidence] = []
        for name, result in context.results.items():
            measured += evidence(name, result)
        card = dict(context.model.card)
        if self.knowledge_cutoff:
            card["knowledge_cutoff"] = self.knowledge_cutoff
        text = model_card(card, measured, self.intended_use)
        path = context.folder / CARD
        files.write_text(path, text)
        result = {"card": str(path), "figures": len(measured)}
        return Outcome(result, [document("Model card", text)], headline=f"{len(measured)} measured figures")
