"""measure: numbers of the current model, with intervals and signatures."""

from __future__ import annotations

from typing import Any, ClassVar

from posttrain.core.catalog import blocks, dump
from posttrain.core.errors import BadRequest
from posttrain.measure import ModelMetric
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import note, table


class Measure(Step):
    """Measure the current model with one or more metrics."""

    body: ClassVar[str | None] = "metrics"

    metrics: blocks("measure")  # type: ignore[valid-type]
    """The metrics, as in {perplexity: {text: builtin:prose}}."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Hashes of what the metrics read."""
        hashes: dict[str, Any] = {}
        for metric in self.metrics:
            if not isinstance(metric, ModelMetric):
                raise BadRequest(f"{next(iter(dump(metric)))} compares texts; it doesn't measure a model by itself.")
            hashes |= metric.inputs()
        return hashes

    def run(self, context: Context) -> Outcome:
        """Measure and tabulate."""
        found = [metric.measure(context.model) for metric in self.metrics]
        rows = [[m.name, m.value, _interval(m.interval), m.parts.get("bits_per_byte"), m.signature] for m in found]
        columns = ["metric", "value", "95 % interval", "bits per byte", "how it was measured"]
        if len(found) == 1:
            columns, rows = columns[:4], [row[:4] for row in rows]
        views = [
            table("Measured", columns, rows),
            *[note(f"Signature: {m.signature}", "source") for m in found if len(found) == 1],
        ]
        headline = ", ".join(f"{m.name} {m.value:.4g}" for m in found)
        return Outcome({m.name: m.to_dict() for m in found}, views, headline=headline)


def _interval(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4g} … {interval[1]:.4g}" if interval else "–"
