"""A saved model by a name that was given to it: ``tag:production``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.core.errors import BadRequest
from posttrain.models import cards, tags
from posttrain.models.language_model import CARD_FILE
from posttrain.models.sources import Source, resolve

if TYPE_CHECKING:
    import torch

    from posttrain.models.language_model import LanguageModel


class Tag(Source):
    """A model under a tag; `reference` is the tag's name."""

    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """See `Source.load`.

        Raises:
            BadRequest: If there is no such tag, or its folder has gone or holds another model now.
        """
        entry = tags.find(self.reference, tags.read())
        folder = Path(entry["folder"])
        if not (folder / CARD_FILE).is_file():
            raise BadRequest(f"The model tagged '{self.reference}' is no longer in {folder}.", "Tag another one.")
        if str(cards.read(folder).get("key") or "") != entry["key"]:
            raise BadRequest(
                f"{folder} holds another model than the one tagged '{self.reference}'.",
                f"Tag it anew: posttrain models --tag {self.reference}={folder}",
            )
        return resolve(str(folder)).load(device=device, dtype=dtype, network_class=network_class)
