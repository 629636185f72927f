"""quantize: fewer bits a weight, with what it cost in quality and what it gained in bytes and speed, measured.

Quality is perplexity with its interval, and the mean KL divergence a token from the original, which notices changes
that perplexity averages away. Speed is measured, never estimated. A slower result doesn't count as a success, and
neither does one whose perplexity is more than doubled: such a model is of no use, however small it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from posttrain.core.catalog import block
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.chat_template import tokenize
from posttrain.data.record import Record, Text
from posttrain.measure import Measurement
from posttrain.measure.perplexity import Perplexity
from posttrain.models import saving
from posttrain.models.language_model import LanguageModel
from posttrain.models.surgery import features, weight_of
from posttrain.pipeline.fidelity import mean_divergence, predictions
from posttrain.pipeline.speed import tokens_per_second
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import note, table

# Not the text that perplexity is measured on.
_CALIBRATION = "builtin:handbook"
# Records of these kinds become tokens whole; of others only the column of texts is read.
_WHOLE = ("text", "completion", "chat")
# Sequences are taken evenly from this many times as many tokens as are needed.
_CHOICE = 8
# From this many times the perplexity on, a model counts as ruined.
_RUINED = 2.0


class Quantize(Step):
    """Quantize the current model."""

    body: ClassVar[str | None] = "method"

    method: block("quantize")  # type: ignore[valid-type]
    """How, as in {dynamic: {}}."""

    calibration: str | None = None
    """Texts, completions or conversations for methods that look at activations: a file or builtin:NAME; when not given
    builtin:handbook. What it is calibrated on should be like what it will read."""

    calibration_rows: int = Field(32, ge=1)
    """How many calibration sequences."""

    calibration_length: int = Field(256, ge=8)
    """Tokens in each."""

    text: str = "builtin:prose"
    """Text on which perplexity and divergence are measured."""

    max_tokens: int = Field(2048, ge=2)
    """How much of the text is read."""

    allow_slower: bool = False
    """Count a slower result as a success."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of the texts."""
        found = {"text": dataset.read(self.text, kind="text")}
        if (source := self._source) is not None:
            found["calibration"] = _read(source)
        return {key: {"source": value.source, "hash": value.hash} for key, value in found.items()}

    def run(self, context: Context) -> Outcome:
        """Measure, quantize, measure again."""
        model = context.model
        if model.adapter is not None:
            raise BadRequest(f"{context.model_name} carries an adapter.", "Put a `merge` step before quantizing.")
        layers = self.method.chosen(model.network)  # what can't be quantized is refused before anything is measured
        weights = {name: inputs * outputs for name, layer in layers.items() for inputs, outputs in [features(layer)]}
        calibration = self.sequences(model)
        before = self._state(model, weights)
        head_changes = any(layer is model.network.get_output_embeddings() for layer in layers.values())
        original = predictions(model, self.text, self.max_tokens, keep=head_changes)
        del layers
        start = time.perf_counter()
        self.method.quantize(model, calibration)
        seconds = time.perf_counter() - start
        after = self._state(model, weights)
        result = {
            f"{key}_{when}": state[key] for key in before for when, state in (("before", before), ("after", after))
        }
        result["kl_to_original"] = mean_divergence(original, predictions(model, self.text, self.max_tokens))
        result["perplexity_ratio"] = after["perplexity"] / before["perplexity"]
        result["size_ratio"] = before["bytes"] / after["bytes"]
        result["speed_ratio"] = after["tokens_per_second"] / before["tokens_per_second"]
        result["quantize_seconds"] = seconds
        slower = self.method.final and result["speed_ratio"] < 1 and not self.allow_slower
        ruined = not result["perplexity_ratio"] <= _RUINED
        result["success"] = not slower and not ruined
        rows = [
            [when, s["bytes"], s["bits_per_weight"], s["perplexity"], _span(s["interval"]), s["tokens_per_second"]]
            for when, s in (("before", before), ("after", after))
        ]
        columns = ["", "bytes", "bits a quantized weight", "perplexity", "95 % interval", "new tokens a second"]
        guessing = len(weight_of(model.network.get_input_embeddings()))
        views = [table("What quantization cost and gained", columns, rows), _verdict(result, slower, ruined, guessing)]
        headline = f"{result['size_ratio']:.2f} × smaller, {result['speed_ratio']:.2f} × the speed"
        if ruined:
            headline += f", but {result['perplexity_ratio']:.3g} × the perplexity: ruined"
        return Outcome(result, views, model, lambda folder: saving.write(model, folder), headline)

    def _state(self, model: LanguageModel, weights: dict[str, int]) -> dict[str, Any]:
        measured: Measurement = Perplexity(text=self.text, max_tokens=self.max_tokens).measure(model)
        stored = sum(_stored_bytes(model.network.get_submodule(name)) for name in weights)
        return {
            "bytes": model.nbytes(),
            "bits_per_weight": 8 * stored / sum(weights.values()),
            "perplexity": measured.value,
            "interval": list(measured.interval) if measured.interval else None,
            "tokens_per_second": tokens_per_second(model),
        }

    @property
    def _source(self) -> str | None:
        return self.calibration or (_CALIBRATION if self.method.needs_calibration else None)

    def sequences(self, model: LanguageModel) -> Sequence[Sequence[int]] | None:
        """The calibration sequences, equally long, spread evenly over the beginning of the texts; None if not needed.

        Where they come from the text that perplexity is measured on, they lie behind the part that is measured.

        Raises:
            BadRequest: If the texts don't make one sequence.
        """
        if self._source is None:
            return None
        length = min(self.calibration_length, model.context_length or self.calibration_length)
        measured = self.max_tokens if self._source == self.text else 0
        wanted = measured + _CHOICE * self.calibration_rows * length
        ids: list[int] = []
        for record in _read(self._source).records:
            for encoded in tokenize([_cut(record, 32 * wanted)], model.tokenizer):
                ids += encoded.input_ids
            if len(ids) >= wanted:
                break
        ids = ids[measured:]
        found = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
        if not found:
            raise BadRequest(
                f"{self._source} has {len(ids)} tokens for calibration, and one calibration sequence takes {length}.",
                "Give more text, or a smaller calibration_length.",
            )
        rows = min(self.calibration_rows, len(found))
        return [found[number * len(found) // rows] for number in range(rows)]


def _read(source: str) -> dataset.Dataset:
    found = dataset.read(source)
    return found if found.kind in _WHOLE else dataset.read(source, kind="text")


def _cut(record: Record, characters: int) -> Record:
    return Text(record.text[:characters], record.origin) if isinstance(record, Text) else record


def _stored_bytes(layer: nn.Module) -> int:
    """Bytes of what stands for a layer's weights, so without its bias."""
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return sum(t.nbytes for name, t in tensors.items() if name.rpartition(".")[2] != "bias")


def _span(interval: list[float] | None) -> str:
    return f"{interval[0]:.4g} … {interval[1]:.4g}" if interval else "–"


def _verdict(result: dict[str, Any], slower: bool, ruined: bool, guessing: int) -> dict[str, Any]:
    """What it came to, in words; `guessing` is the perplexity of guessing among all tokens alike."""
    size, speed, ratio = result["size_ratio"], result["speed_ratio"], result["perplexity_ratio"]
    quality = f"{ratio:.3g} times the perplexity" if ruined else f"perplexity {(ratio - 1) * 100:+.2f} %"
    text = (
        f"{size:.2f} times smaller, {speed:.2f} times the speed, {quality}, "
        f"{result['kl_to_original']:.4f} nats a token away from the original."
    )
    if ruined:
        worse = result["perplexity_after"] >= guessing
        blind = f", and guessing blindly among its {guessing:,} tokens would be better" if worse else ""
        return note(f"{text} The model is ruined: what it writes is of no use{blind}.", "warning")
    if slower:
        return note(f"{text} It is slower, so it doesn't count as a success (allow_slower: true would).", "warning")
    return note(text, "good")
