"""Files that survive a crash: atomic writes, content hashes, checkpoints.

A file or folder appears under its name only when it is complete and on disk; until then it lives beside it under a
temporary name that the next writer removes. kill -9 at any moment leaves the old version or the new one, never a half.
Tensors go to safetensors, everything else to JSON; nothing is ever pickled.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.errors import BadRequest, Failure

if TYPE_CHECKING:
    import torch

_TEMPORARY = ".writing-"
_REPLACED = ".replaced"

# The permissions a new file doesn't get; the system tells them only to those who set them.
_UMASK = os.umask(0)
os.umask(_UMASK)


def cache_folder() -> Path:
    """Where converted models are kept: ``$POSTTRAIN_CACHE``, else ``$XDG_CACHE_HOME/posttrain``, else ``~/.cache``."""
    if own := os.environ.get("POSTTRAIN_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posttrain"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a sentence.

    Raises:
        Failure: If the disk is full, `path` may not be written, or a file may not be so large.
        BadRequest: If a file stands where a folder is wanted, or the other way round.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(
                f"The disk is full: {path} could not be written; nothing already written is lost.",
                "Free some space or choose another folder with --out; a run then goes on with --resume.",
            ) from error
        if number in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise Failure(f"No permission to write {path}.", "Choose another folder with --out.") from error
        if number == errno.EFBIG:
            raise Failure(
                f"{path} could not be written: the file system or a limit (ulimit -f) allows no file so large; nothing "
                "already written is lost.",
                "Choose another folder with --out.",
            ) from error
        if number in (errno.ENOTDIR, errno.EISDIR):
            raise BadRequest(
                f"{path} can't be written: {os.strerror(number).lower()}.", "Choose another --out."
            ) from error
        raise


def refuse_unwritable(path: Path | str) -> None:
    """Refuse a file that can't be written, before hours of work are spent on what should stand in it.

    Raises:
        BadRequest: If a folder stands there, or a file where its folder should be.
        Failure: If its folder may not be written.
    """
    path = Path(path)
    if path.is_dir():
        raise BadRequest(f"{path} is a folder, and a file is to be written.", "Name a file.")
    folder = next(each for each in path.absolute().parents if os.path.lexists(each))
    if not folder.is_dir():
        raise BadRequest(f"{path} can't be written: {folder} is no folder.", "Name another file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Failure(f"No permission to write {path}.", "Name another file.")


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        # numpy tells a write that was cut short without the system's number: "19200 requested and 6384 written".
        cut_short = error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error))
        return errno.ENOSPC if cut_short else error.errno
    # safetensors reports the system's refusals in words only: "I/O error: No space left on device (os error 28)".
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None


def remove_leftovers(folder: Path) -> None:
    """Delete what writers killed in mid-write left in `folder`; what a living process is writing stays."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        try:
            lock = os.open(leftover, os.O_RDONLY)
        except OSError:
            continue  # its writer has just finished, or it is another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for old in leftover.glob(f"{_REPLACED}/*"):
                if not (folder / old.name).exists():  # killed between the two renames of `_exchange`
                    old.replace(folder / old.name)
            shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue  # another process is writing it, or the file system has no locks to tell that none is
        finally:
            os.close(lock)


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, gone afterwards; its lock ends with the process, however that ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file stands there, or a link that leads nowhere
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from None
    except FileNotFoundError:  # a file system of the kernel's own, such as /proc, takes no folders
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent)) from None
    remove_leftovers(path.parent)
    temporary, lock = _locked_folder(path.parent)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
        # Another process may take the folder for a leftover in the moment before it is locked; then here is a new one.
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with suppress(OSError):  # a file system without locks: then nobody else gets one to remove the folder either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to, of the same name; when the block succeeds the file is synced and moved to `path`.

    Raises:
        Failure: If the disk is full or `path` may not be written; what was there before is intact.
    """
    path = Path(path)
    with disk_errors(path), _workplace(path) as workplace:
        temporary = workplace / path.name
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # safetensors makes its files private to the user
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty folder of the same name; when the block succeeds it takes the place of `path`.

    Raises:
        Failure: If the disk is full or `path` may not be written; what was there before is intact.
        BadRequest: If `path` is a file.
    """
    path = Path(path)
    with disk_errors(path), _workplace(path) as workplace:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        temporary = workplace / path.name
        temporary.mkdir()
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            _sync(entry)
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.replace(path)
        _sync(path.parent)


def _exchange(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`, which goes to `new` or away.

    Linux swaps two names in one step. Elsewhere it takes two renames; a process killed between them leaves `path`
    missing until the next writer's `remove_leftovers` puts the old folder back.
    """
    if _swapped(new, path):
        return
    old = new.parent / _REPLACED / path.name
    old.parent.mkdir()
    path.replace(old)
    try:
        new.replace(path)
    except OSError:
        old.replace(path)
        raise


def _swapped(first: Path, second: Path) -> bool:
    """Swap two names by renameat2's RENAME_EXCHANGE (2); False where system or file system have no such thing."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here = -100  # AT_FDCWD: relative paths start at the working directory
    return renameat2 is not None and renameat2(here, os.fsencode(first), here, os.fsencode(second), 2) == 0


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
    except (FileNotFoundError, IsADirectoryError):
        raise BadRequest(f"There is no file {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not valid JSON: {error}.") from None


def jsonable(value: Any) -> Any:
    """The same value with only JSON's types.

    Paths become strings, non-finite numbers None, arrays and tensors (nested lists of) numbers, sets sorted lists.
    """
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return [jsonable(v) for v in sorted(value, key=str)]  # the same in every process, unlike a set's own order
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
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

    Raises:
        Failure: If the disk is full or the folder can't be written; the last checkpoint is intact.
    """
    from safetensors.torch import save_file

    with atomic_file(Path(folder) / "checkpoint.safetensors") as temporary:
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
