"""export: write the current model in another program's form; the model itself stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from posttrain.core.catalog import block, term_of
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import facts, note


class Export(Step):
    """Write the model for another program."""

    body: ClassVar[str | None] = "to"

    to: block("export")  # type: ignore[valid-type]
    """The form, as in {gguf: {type: q8_0}}."""

    out: str | None = None
    """The file or folder to write; by default one in the step's own folder."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """Nothing; a place that can't be written, or holds something else, is refused."""
        self.to.refuse_place(self._place(context))
        return {}

    def _place(self, context: Context) -> Path:
        name = f"{context.model_name}{self.to.suffix or f'-{term_of(self.to)}'}"
        return Path(self.out) if self.out else context.folder / name

    def run(self, context: Context) -> Outcome:
        """Write it."""
        form, place = term_of(self.to), self._place(context)
        found: dict[str, Any] = self.to.write(context.model, place)
        result = {"form": form, "path": str(place), **found}
        text = f"{context.model_name} as {form}: {place}, {found['bytes'] / 1e6:,.1f} MB."
        shown = {key.replace("_", " "): value for key, value in result.items()}
        return Outcome(
            result, [note(text, "good"), facts("Exported", shown)], headline=f"{form}, {found['bytes'] / 1e6:,.1f} MB"
        )
