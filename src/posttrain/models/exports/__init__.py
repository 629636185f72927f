"""The contract of an export: a model in the form another program reads.

Saving keeps everything that posttrain knows of a model; an export keeps what the other program has a place for, and
refuses what it hasn't.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.core import files
from posttrain.core.errors import BadRequest
from posttrain.core.settings import Settings
from posttrain.models.language_model import CARD_FILE

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel


class Export(Settings):
    """A form to write models in."""

    suffix: ClassVar[str]
    """Ending of the file it writes, such as ``.gguf``; empty where it writes a folder."""

    marker: ClassVar[tuple[str, str]] = ("", "")
    """What tells that the form wrote something: a file's name and words in it, without a name a file's first bytes."""

    def refuse_place(self, path: Path) -> None:
        """Refuse a place before any work: one that can't be written, or that holds anything but such an export.

        Raises:
            BadRequest: If a file or folder of somebody else's stands there, or a file where a folder is wanted.
            Failure: If the place may not be written.
        """
        name, words = self.marker
        if self.suffix:
            files.refuse_unwritable(path)
            own = not path.exists() or path.stat().st_size == 0 or _begins(path, words.encode())
        else:
            if path.exists() and not path.is_dir():
                raise BadRequest(f"{path} is a file, not a folder.", "Choose another --out.")
            files.refuse_unwritable(path / (name or "export"))
            own = not path.is_dir() or not any(path.iterdir())
            own = own or (not (path / CARD_FILE).exists() and bool(name) and _holds(path / name, words.encode()))
        if not own:
            raise BadRequest(f"{path} holds something else, which would be replaced.", "Choose another --out.")

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


def _begins(path: Path, words: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(words)) == words


def _holds(path: Path, words: bytes) -> bool:
    return path.is_file() and words in path.read_bytes()
