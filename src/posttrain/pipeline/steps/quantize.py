"""quantize: fewer bits a weight, with what it cost in quality and what it gained in bytes and speed, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from pydantic import Field

from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.measure import Measurement
from posttrain.measure.perplexity import Perplexity
from posttrain.models import saving
from posttrain.models.language_model import LanguageModel
from posttrain.pipeline.speed import tokens_per_second
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import note, table


class Quantize(Step):
    """Quantize the current model."""

    body: ClassVar[str | None] = "method"

    method: block("quantize")  # type: ignore[valid-type]
    """How, as in {dynamic: {}}."""

    calibration: str | None = None
    """Texts for methods that look at activations: a file or builtin:NAME."""

    calibration_rows: int = Field(32, ge=1)
    """How many calibration sequences."""

    calibration_length: int = Field(256, ge=8)
    """Tokens in each."""

    text: str = "builtin:prose"
    """Text on which perplexity before and after is measured."""

    max_tokens: int = Field(2048, ge=2)
    """How much of the text is read."""

    allow_slower: bool = False
    """Count a slower result as a success."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of the texts."""
        sources = {"text": self.text} | ({"calibration": self.calibration} if self.calibration else {})
        found = {key: dataset.read(value, kind="text") for key, value in sources.items()}
        return {key: {"source": value.source, "hash": value.hash} for key, value in found.items()}

    def run(self, context: Context) -> Outcome:
        """Measure, quantize, measure again."""
        model = context.model
        if model.adapter is not None:
            raise BadRequest(f"{context.model_name} carries an adapter.", "Put a `merge` step before quantizing.")
        before = self._state(model)
        self.method.quantize(model, self._calibration(model))
        after = self._state(model)
        result = {
            f"{key}_{when}": state[key] for key in before for when, state in (("before", before), ("after", after))
        }
        result["perplexity_ratio"] = after["perplexity"] / before["perplexity"]
        result["size_ratio"] = before["bytes"] / after["bytes"]
        result["speed_ratio"] = after["tokens_per_second"] / before["tokens_per_second"]
        slower = result["speed_ratio"] < 1 and not self.allow_slower
        result["success"] = not slower
        rows = [
            [when, s["bytes"], s["perplexity"], s["interval"], s["tokens_per_second"]]
            for when, s in (("before", before), ("after", after))
        ]
        for key in ("interval_before", "interval_after"):
            result.pop(key)
        columns = ["", "bytes", "perplexity", "95 % interval", "new tokens a second"]
        views = [table("What quantization cost and gained", columns, rows), _verdict(result, slower)]
        headline = f"{result['size_ratio']:.2f} × smaller, {result['speed_ratio']:.2f} × the speed"
        return Outcome(result, views, model, lambda folder: saving.write(model, folder), headline)

    def _state(self, model: LanguageModel) -> dict[str, Any]:
        measured: Measurement = Perplexity(text=self.text, max_tokens=self.max_tokens).measure(model)
        interval = measured.interval
        return {
            "bytes": model.nbytes(),
            "perplexity": measured.value,
            "interval": f"{interval[0]:.4g} … {interval[1]:.4g}" if interval else "–",
            "tokens_per_second": tokens_per_second(model),
        }

    def _calibration(self, model: LanguageModel) -> Sequence[Sequence[int]] | None:
        if self.calibration is None:
            if self.method.needs_calibration:
                raise BadRequest(
                    "This method needs calibration texts.", "Give `calibration`, for example builtin:prose."
                )
            return None
        ids: list[int] = []
        for record in dataset.read(self.calibration, kind="text").records:
            ids += model.tokenizer(cast("Text", record).text, verbose=False)["input_ids"]
        length = self.calibration_length
        return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)][: self.calibration_rows]


def _verdict(result: dict[str, Any], slower: bool) -> dict[str, Any]:
    size, speed = result["size_ratio"], result["speed_ratio"]
    quality = (result["perplexity_ratio"] - 1) * 100
    text = f"{size:.2f} times smaller, {speed:.2f} times the speed, perplexity {quality:+.2f} %."
    if slower:
        return note(f"{text} It is slower, so it doesn't count as a success (allow_slower: true would).", "warning")
    return note(text, "good")
