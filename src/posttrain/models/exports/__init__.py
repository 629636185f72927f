"""The contract of an export: a model in the form another program reads.

Saving keeps everything that posttrain knows of a model; an export keeps what the other program has a place for, and
refuses what it hasn't.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.core.settings import Settings

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Export(Settings):
    """A form to write models in."""

    suffix: ClassVar[str]
    """Ending of the file it writes, such as ``.gguf``; empty where it writes a folder."""

    @abstractmethod
    def write(self, model: LanguageModel, path: Path) -> dict[str, Any]:
        """Write a model; the file or folder appears whole or not at all.

        Args:
            model: It isn't changed.
            path: Where to; what is there is replaced.

        Returns:
            Numbers for the report, `bytes` among them.

        Raises:
            BadRequest: If the form has no place for something of the model.
            Failure: If the disk is full or the place can't be written.
        """
