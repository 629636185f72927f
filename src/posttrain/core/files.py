"""Files that survive a crash: atomic writes, content hashes, checkpoints.

A file or folder appears under its name only when it is complete and on disk; until then it lives beside it under a
temporary name that the next writer removes. kill -9 at any moment leaves the old version or the new one, never a half.
Tensors go to safetensors, everything else to JSON; nothing is ever pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.errors import BadRequest, Failure

if TYPE_CHECKING:
    import torch

_TEMPORARY = ".writing-"


def cache_folder() -> Path:
    """Where converted models are kept: ``$POSTTRAIN_CACHE``, else ``$XDG_CACHE_HOME/posttrain``, else ``~/.cache``."""
    if own := os.environ.get("POSTTRAIN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(
                f"The disk is full: {path} could not be written; nothing already written is lost.",
                "Free some space or choose another folder with --out, then go on with --resume.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise Failure(f"No permission to write {path}.", "Choose another folder with --out.") from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete what writers killed in mid-write left in `folder`."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        owner = leftover.name.removeprefix(_TEMPORARY).split("-")[0]
        if owner.isdigit() and Path(f"/proc/{owner}").exists() and int(owner) != os.getpid():
            continue  # another process is still writing it
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds it is flushed to disk and renamed to `path`."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; when the block succeeds it takes the place of `path`.

    Replacing an existing folder needs two renames; between them the old one is kept under a temporary name, and
    `path` is missing rather than half-written.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            if path.exists():
                old = path.parent / f"{_TEMPORARY}{os.getpid()}-old-{path.name}"
                path.replace(old)
                temporary.replace(path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                temporary.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically; NaN and infinities become null because JSON has none."""
    write_text(path, json.dumps(jsonable(value), ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON.

    Raises:
        BadRequest: If the file is missing or not JSON, naming the line.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRequest(f"{path} doesn't exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not valid JSON: {error}.") from None


def jsonable(value: Any) -> Any:
    """The same value with only JSON's types: paths as strings, non-finite numbers as None, numpy scalars as numbers."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [jsonable(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, int):
        return value
    if hasattr(value, "model_dump"):
        return jsonable(value.model_dump(mode="json"))
    return str(value)


def hash_file(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_folder(path: Path | str) -> str:
    """SHA-256 over the names and contents of all files below a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def folder_bytes(path: Path | str) -> int:
    """Bytes of all files below a path."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def save_checkpoint(folder: Path | str, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by this one, atomically: one safetensors file whose header carries the state.

    Args:
        folder: The folder that holds the checkpoint.
        tensors: Everything that is a tensor (parameters, optimizer moments, random states).
        state: Everything else; must be JSON-able.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    remove_leftovers(folder)
    with atomic_file(folder / "checkpoint.safetensors") as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"state": json.dumps(state)})


def load_checkpoint(folder: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The checkpoint in `folder`, or None when there is none.

    Raises:
        Failure: If the file is there but damaged.
    """
    path = Path(folder) / "checkpoint.safetensors"
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            state = json.loads(handle.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise Failure(f"The checkpoint {path} is damaged: {error}.", "Delete it to start this step anew.") from error
    return tensors, state
