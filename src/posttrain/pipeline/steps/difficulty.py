"""difficulty: where in a text the current model is surprised, as a page with every token coloured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field

from posttrain.curate.difficulty import DifficultyMap, Segments, difficulty_map, write_page
from posttrain.data import dataset
from posttrain.data.record import Text
from posttrain.models.language_model import LanguageModel
from posttrain.models.text_tokens import SpecialTokens
from posttrain.pipeline.steps import Context, Outcome, Step
from posttrain.pipeline.views import facts, note, table

PAGE_FILE = "difficulty.html"
_LISTED = 12
_SHOWN = 200


class Difficulty(Step):
    """Draw where in a text the current model is surprised."""

    reads: ClassVar[tuple[str, ...]] = ("text",)

    text: str = "builtin:prose"
    """The text: a file, or a data set whose texts are drawn one after the other."""

    limit: int | None = Field(None, ge=1)
    """Use only the first so many texts of a data set."""

    segments: Segments = "sentence"
    """What means are taken over."""

    special_tokens: SpecialTokens = "begin"
    """Special tokens that the text gets; with a beginning its first token is scored too."""

    window: int | None = Field(None, ge=2)
    """Tokens the model reads at once; when not given 1024, or the model's context where that is shorter."""

    stride: int | None = Field(None, ge=1)
    """By how many tokens the window moves; half the window when not given."""

    max_tokens: int | None = Field(None, ge=2)
    """Draw only the first so many tokens."""

    def inputs(self, context: Context) -> dict[str, Any]:
        """The text's hash."""
        return self.hashes()

    def hashes(self) -> dict[str, Any]:
        """The hash of what is read."""
        read = self._read()
        return {"text": {"source": read.source, "hash": read.hash}}

    def _read(self) -> dataset.Dataset:
        return dataset.read(self.text, kind="text", limit=self.limit)

    def run(self, context: Context) -> Outcome:
        """Score, write the page, tabulate the hardest."""
        found = self.drawn(context.model, context.folder / PAGE_FILE, context.model_name)
        hardest = sorted(
            (each for each in found.segments if each.bits_per_token is not None),
            key=lambda each: -(each.bits_per_token or 0),
        )
        rows = [[_short(each.text), each.bits_per_token, each.perplexity] for each in hardest[:_LISTED]]
        shown = {
            "perplexity": found.perplexity,
            "bits per token": found.bits_per_token,
            "tokens": found.tokens,
            f"{self.segments}s": len(found.segments),
        }
        views = [
            facts("Difficulty", shown),
            table(f"The hardest {self.segments}s", [self.segments, "bits per token", "perplexity"], rows),
            table("The hardest tokens", ["token", "bits"], [[repr(p.text), p.bits] for p in found.hardest(_LISTED)]),
            note(f"Signature: {found.signature}", "source"),
            note(f"Every token is coloured in {PAGE_FILE}, in this step's folder."),
        ]
        headline = f"{found.bits_per_token:.2f} bits per token"
        return Outcome({**found.to_dict(), "file": PAGE_FILE}, views, headline=headline)

    def drawn(self, model: LanguageModel, out: Path, name: str) -> DifficultyMap:
        """Score the text and write the page.

        Args:
            model: Who predicts.
            out: The page.
            name: What the model is called on it.
        """
        read = self._read()
        text = "\n\n".join(record.text for record in cast("list[Text]", read.records))
        found = difficulty_map(
            model,
            text,
            segments=self.segments,
            window=self.window,
            stride=self.stride,
            special=self.special_tokens,
            max_tokens=self.max_tokens,
        )
        write_page(found, out, title=Path(read.source).name, model=name)
        return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
