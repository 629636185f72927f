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

    def run(self, context: Context) -> Outcome:
        """Write it."""
        form = term_of(self.to)
        place = Path(self.out) if self.out else context.folder / f"{context.model_name}{self.to.suffix or f'-{form}'}"
        found: dict[str, Any] = self.to.write(context.model, place)
        result = {"form": form, "path": str(place), **found}
        text = f"{context.model_name} as {form}: {place}, {found['bytes'] / 1e6:,.1f} MB."
        shown = {key.replace("_", " "): value for key, value in result.items()}
        return Outcome(
            result, [note(text, "good"), facts("Exported", shown)], headline=f"{form}, {found['bytes'] / 1e6:,.1f} MB"
        )
