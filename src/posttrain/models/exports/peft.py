"""A PEFT folder: an adapter alone, as Hugging Face's library reads it, with the base's name and the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from posttrain.core import catalog, files
from posttrain.core.errors import BadRequest
from posttrain.models.exports import Export

if TYPE_CHECKING:
    from posttrain.models.language_model import LanguageModel

_CONFIG = "adapter_config.json"


class Peft(Export):
    """An adapter for PEFT."""

    suffix: ClassVar[str] = ""
    marker: ClassVar[tuple[str, str]] = (_CONFIG, '"peft_type"')

    base: str | None = None
    """What PEFT shall load as the base, a hub name or a folder; by default what the model itself says."""

    def write(self, model: LanguageModel, path: Path) -> dict[str, Any]:
        """See `Export.write`."""
        if model.adapter is None:
            raise BadRequest(
                "The model carries no adapter.", "A merged model's folder is read by transformers as it is."
            )
        with files.atomic_folder(path) as folder:
            model.adapter.save(model, folder)
            config = files.read_json(folder / _CONFIG)
            if "settings" in config:  # the mark of a layout of our own
                raise BadRequest(f"PEFT has no such adapter as {catalog.term_of(model.adapter)}.")
            if self.base is not None:
                files.write_json(folder / _CONFIG, {**config, "base_model_name_or_path": self.base})
            model.tokenizer.save_pretrained(folder)
        return {"bytes": files.folder_bytes(path), "base": self.base or config["base_model_name_or_path"]}
