"""merge: fold the adapter into the model's own weights; from then on it costs nothing."""

from __future__ import annotations

from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.steps._learning import quantized_beneath
from posttrain.pipeline.views import note


class Merge(Step):
    """Fold the adapter into the weights."""

    def run(self, context: Context) -> Outcome:
        """Merge in place.

        Raises:
            BadRequest: If the model carries no adapter, or one that can't be merged into its base; nothing is changed.
        """
        model = context.model
        if model.adapter is None:
            raise BadRequest(f"{context.model_name} carries no adapter to merge.", "Put `merge` after a `train` step.")
        if beneath := quantized_beneath(model.network):
            raise BadRequest(
                f"{context.model_name} is an adapter on a quantized base ({len(beneath)} modules, {beneath[0]} first); "
                "merging would round away what it learned.",
                "Leave `merge` out: the adapter works and is saved beside its base. For one model, train on the base "
                "as it was before `quantize` (from: base), merge, and quantize then.",
            )
        model.adapter.merge(model.network)
        model.adapter = None
        result = {"parameters": model.parameter_count(), "bytes": model.nbytes()}
        text = "The adapter is now part of the weights: the same outputs, and no extra work when generating."
        headline = f"{result['parameters'] / 1e6:.1f} million parameters, nothing added"
        return Outcome(result, [note(text)], model, lambda folder: saving.write(model, folder), headline)
