"""Files: a writer killed anywhere, a full disk, damaged checkpoints. What stands under a name is always whole."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy
import pytest
import torch

from posttrain.core import files
from posttrain.core.errors import BadRequest, Failure


def run(code: str, *arguments: object) -> str:
    """Run a program in a process of its own and return what it prints."""
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Killed in mid-write.

# Fork a writer for n = 1, 2, … and kill it with SIGKILL before the n-th line that it would execute in files.py or here,
# until one gets through. After each death print what stands under the name, and what after the next writer's clean-up.
KILLER = """
import os, shutil, signal, sys
from pathlib import Path
from posttrain.core import files

folder, kind = Path(sys.argv[1]), sys.argv[2]
target = folder / "target"
if kind == "fallback":
    files._swapped = lambda first, second: False

def write(text):
    if kind == "file":
        with files.atomic_file(target) as temporary:
            for part in (text[:3], text[3:]):
                with temporary.open("a") as handle:
                    handle.write(part)
    else:
        with files.atomic_folder(target) as temporary:
            for name in "abc":
                (temporary / name).write_text(text)

def content():
    if target.is_file():
        return target.read_text()
    if target.is_dir():
        return "+".join(sorted({path.read_text() for path in target.iterdir()})) + f" {len(list(target.iterdir()))}"
    return "missing"

def kill_before_line(number):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in (files.__file__, "<string>"):
            return None
        if event == "line":
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

number, alive = 0, False
while not alive:
    number += 1
    if target.is_dir():
        shutil.rmtree(target)
    write("old___")
    child = os.fork()
    if not child:
        sys.settrace(kill_before_line(number))
        write("new___")
        os._exit(0)
    alive = os.waitpid(child, 0)[1] == 0
    found = content()
    files.remove_leftovers(folder)
    print(found, "|", content(), "|", len(list(folder.iterdir())))
"""


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("file", "old___", "new___"), ("folder", "old___ 3", "new___ 3"), ("fallback", "old___ 3", "new___ 3")],
)
def test_kill_at_every_line_leaves_the_old_or_the_new(tmp_path: Path, kind, old, new):
    lines = [tuple(line.split(" | ")) for line in run(KILLER, tmp_path, kind).splitlines()]
    assert len(lines) > 25
    at_death, repaired, entries = zip(*lines)
    # Without an atomic swap there is one moment with nothing under the name; the next writer puts the old one back.
    assert set(at_death) == {old, new} | ({"missing"} if kind == "fallback" else set())
    assert set(repaired) == {old, new}
    assert repaired[0] == old and repaired[-1] == new
    assert list(repaired).index(new) == list(repaired).count(old)  # from some line on it is the new one, for good
    assert set(entries) == {"1"}  # no leftovers


def test_kill_while_a_checkpoint_is_written(tmp_path: Path):
    """Tensors and state belong together whenever the writer dies, also inside safetensors; its files go, too."""
    code = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from posttrain.core import files

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    files.save_checkpoint(folder, {"x": torch.zeros(4_000_000)}, {"step": 0})
    generator = random.Random(0)
    for _ in range(12):
        child = os.fork()
        if not child:
            for step in range(1, 10_000):
                files.save_checkpoint(folder, {"x": torch.full((4_000_000,), float(step))}, {"step": step})
        time.sleep(generator.uniform(0.02, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        tensors, state = files.load_checkpoint(folder)
        assert torch.equal(tensors["x"], torch.full((4_000_000,), float(state["step"]))), state
        print(len(list(folder.iterdir())))
    files.save_checkpoint(folder, {"x": torch.zeros(3)}, {"step": 0})
    print(sorted(path.name for path in folder.iterdir()))
    """
    *during, last = run(code, tmp_path).splitlines()
    assert last == "['checkpoint.safetensors']"
    assert "2" in during  # at least one was killed in mid-write


def test_what_a_living_writer_is_writing_stays(tmp_path: Path):
    """In this process and in another."""
    with files.atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        files.write_text(tmp_path / "b", "whole")  # a writer in the same folder cleans up first
        run("import sys; from posttrain.core import files; files.write_text(sys.argv[1] + '/c', 'whole')", tmp_path)
        files.remove_leftovers(tmp_path)
        assert temporary.read_text() == "half"
        assert not (tmp_path / "a").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "half", "b": "whole", "c": "whole"}


def test_many_writers_of_one_file(tmp_path: Path):
    code = """
    import sys
    from posttrain.core import files
    for _ in range(100):
        files.write_text(sys.argv[1], sys.argv[2] * 5000)
    """
    words = [[sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "file"), letter] for letter in "abc"]
    writers = [subprocess.Popen(each) for each in words]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "file").exists():
            seen.add((tmp_path / "file").read_text())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    seen.add((tmp_path / "file").read_text())
    assert seen <= {letter * 5000 for letter in "abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Failing in mid-write.


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_old(tmp_path: Path, error):
    files.write_text(tmp_path / "file", "old")
    with pytest.raises(type(error)), files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise error
    with files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(type(error)), files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("new")
        raise error
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "x").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_a_failure_and_the_old_file_stays(tmp_path: Path, monkeypatch, number, call):
    files.write_text(tmp_path / "file", "old")

    def full(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(
        Failure, match=r"^The disk is full: .*file could not be written; nothing already written is lost\."
    ):
        files.write_text(tmp_path / "file", "new")
    monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which is always full")
def test_a_write_that_the_system_refuses(tmp_path: Path):
    with pytest.raises(Failure, match="The disk is full"), files.atomic_file(tmp_path / "file"):
        Path("/dev/full").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_runs_full_during_a_checkpoint(tmp_path: Path):
    """On a file system of 1 MiB, in a mount namespace of its own, a checkpoint of 0.4 MiB fits once."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    prepare = f"mount -t tmpfs -o size=1m tmpfs {small}"
    try:
        able = subprocess.run([*mount, prepare], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this system lets its users mount nothing")
    code = """
    import sys
    from pathlib import Path
    import torch
    from posttrain.core import files
    from posttrain.core.errors import Failure

    folder = Path(sys.argv[1])
    files.save_checkpoint(folder, {"x": torch.ones(100_000)}, {"step": 1})
    for write in (
        lambda: files.save_checkpoint(folder, {"x": torch.zeros(1_000_000)}, {"step": 2}),
        lambda: files.write_text(folder / "text", "x" * 2_000_000),
    ):
        try:
            write()
        except Failure as failure:
            print(failure)
    tensors, state = files.load_checkpoint(folder)
    print(state, int(tensors["x"].sum()), [path.name for path in folder.iterdir()])
    """
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(code), encoding="utf-8")
    done = subprocess.run(
        [*mount, f"{prepare} && exec {sys.executable} {program} {small}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    checkpoint, text, after = done.stdout.splitlines()
    assert checkpoint.startswith(f"The disk is full: {small}/checkpoint.safetensors could not be written;")
    assert text.startswith(f"The disk is full: {small}/text could not be written;")
    assert after == "{'step': 1} 100000 ['checkpoint.safetensors']"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_no_permission(tmp_path: Path, monkeypatch, number):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(Failure, match=r"^No permission to write .*file\. Choose another folder with --out\.$"):
        files.write_text(tmp_path / "file", "x")


def test_other_refusals_are_not_disguised(tmp_path: Path):
    with pytest.raises(OSError, match="Input/output error"), files.disk_errors(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_a_file_where_a_folder_is_wanted(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in ("file/inner", "file/inner/deep"):
        with pytest.raises(BadRequest, match=rf"{path} can't be written: not a directory\. Choose another --out\."):
            files.write_text(tmp_path / path, "x")
    with pytest.raises(BadRequest, match="folder can't be written: is a directory"):
        files.write_text(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_the_fallback_puts_the_old_folder_back_when_the_second_rename_fails(tmp_path: Path, monkeypatch):
    with files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("old")
    monkeypatch.setattr(files, "_swapped", lambda first, second: False)
    rename, calls = Path.replace, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", second_fails)
    with pytest.raises(OSError, match="Input/output error"), files.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("new")
    assert (tmp_path / "folder" / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# Permissions.


def test_files_get_the_permissions_the_user_asked_for(tmp_path: Path):
    """Those of umask, also where safetensors would make a file private to the user."""
    code = """
    import os, sys
    os.umask(int(sys.argv[2], 8))
    from pathlib import Path
    import torch
    from posttrain.core import files
    folder = Path(sys.argv[1])
    files.write_text(folder / "text", "x")
    files.save_checkpoint(folder, {"x": torch.ones(1)}, {})
    with files.atomic_folder(folder / "inner"):
        pass
    print([oct((folder / name).stat().st_mode & 0o777) for name in ("text", "checkpoint.safetensors", "inner")])
    """
    assert run(code, tmp_path, "022") == "['0o644', '0o644', '0o755']\n"
    assert run(code, tmp_path, "077") == "['0o600', '0o600', '0o700']\n"


# Checkpoints.


def test_a_checkpoint_comes_back(tmp_path: Path):
    assert files.load_checkpoint(tmp_path / "none") is None
    tensors = {
        "weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,  # not contiguous
        "state": torch.tensor([1, 255], dtype=torch.uint8),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3.5),
    }
    state = {"step": 7, "text": "größer", "nested": [1, {"a": None}], "loss": 0.1 + 0.2}
    files.save_checkpoint(tmp_path / "deep" / "folder", tensors, state)
    found, found_state = files.load_checkpoint(tmp_path / "deep" / "folder")
    assert found_state == state
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def _truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _no_state(content: bytes) -> bytes:
    return content.replace(b'"state"', b'"stale"')


def _bad_state(content: bytes) -> bytes:
    return content.replace(b'{\\"step\\"', b'[\\"step\\"')


@pytest.mark.parametrize(
    "damage",
    [_truncate, _no_state, _bad_state, lambda content: b"", lambda content: b"x", lambda content: b"\xff" * 64],
    ids=["cut", "without state", "bad state", "empty", "one byte", "noise"],
)
def test_a_damaged_checkpoint_is_a_failure(tmp_path: Path, damage):
    files.save_checkpoint(tmp_path, {"x": torch.ones(1000)}, {"step": 7})
    path = tmp_path / "checkpoint.safetensors"
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(
        Failure, match=r"^The checkpoint .*checkpoint\.safetensors is damaged: .* Delete it to start this"
    ):
        files.load_checkpoint(tmp_path)


# JSON.


def test_jsonable():
    value = {
        1: Path("a/b"),
        "tuple": (1, 2.5, None, True),
        "set": {"b", "a", "c"},
        "numpy": [numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.arange(3), numpy.float64("nan")],
        "torch": [torch.tensor(1.5, dtype=torch.bfloat16), torch.eye(2, dtype=torch.int64)],
        "not finite": [math.nan, math.inf, -math.inf],
    }
    assert files.jsonable(value) == {
        "1": "a/b",
        "tuple": [1, 2.5, None, True],
        "set": ["a", "b", "c"],
        "numpy": [0.5, 3, True, [0, 1, 2], None],
        "torch": [1.5, [[1, 0], [0, 1]]],
        "not finite": [None, None, None],
    }
    assert files.jsonable(numpy.bool_(True)) is True


def test_json_files(tmp_path: Path):
    path = tmp_path / "new" / "x.json"
    files.write_json(path, {"é": math.nan, "b": [1]})
    assert path.read_text(encoding="utf-8") == '{\n  "é": null,\n  "b": [\n    1\n  ]\n}\n'
    assert files.read_json(path) == {"é": None, "b": [1]}
    path.write_text('{"a": 1,\n "b": }', encoding="utf-8")
    with pytest.raises(BadRequest, match=r"x\.json is not valid JSON: .*line 2 column 7"):
        files.read_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(BadRequest, match="is not valid JSON"):
        files.read_json(path)
    for missing in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadRequest, match="There is no file"):
            files.read_json(missing)


# Content.


def test_hashes_and_sizes(tmp_path: Path):
    """SHA-256 of "abc" is the standard's own example (FIPS 180-2, appendix B.1)."""
    (tmp_path / "a").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.hash_file(tmp_path / "a") == abc
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"")
    empty = hashlib.sha256(b"").hexdigest()
    expected = hashlib.sha256(f"a\0{abc}\nsub/b\0{empty}\n".encode()).hexdigest()
    assert files.hash_folder(tmp_path) == expected
    assert files.folder_bytes(tmp_path) == files.folder_bytes(tmp_path / "a") == 3
    (tmp_path / "sub" / "b").rename(tmp_path / "sub" / "c")
    assert files.hash_folder(tmp_path) != expected  # names count


def test_the_cache_folder(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("POSTTRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.cache_folder() == tmp_path / ".cache" / "posttrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert files.cache_folder() == Path("/xdg/posttrain")
    monkeypatch.setenv("POSTTRAIN_CACHE", "/own")
    assert files.cache_folder() == Path("/own")


def test_state_is_json_and_nothing_else(tmp_path: Path):
    with pytest.raises(TypeError):
        files.save_checkpoint(tmp_path, {"x": torch.ones(1)}, {"object": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_beforehand(tmp_path: Path, monkeypatch):
    files.refuse_unwritable(tmp_path / "new" / "folder" / "file.txt")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("old")
    files.refuse_unwritable(tmp_path / "file")
    with pytest.raises(BadRequest, match="is a folder, and a file is to be written"):
        files.refuse_unwritable(tmp_path)
    with pytest.raises(BadRequest, match=r"x/y.txt can't be written: .*file is no folder"):
        files.refuse_unwritable(tmp_path / "file" / "x" / "y.txt")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(Failure, match="No permission to write"):
        files.refuse_unwritable(tmp_path / "other")


def test_writes_that_the_system_cuts_short(tmp_path: Path):
    """numpy gives no error number; a limit on the size of files (ulimit -f) has one of its own."""
    place = tmp_path / "model.gguf"
    place.write_text("old")
    for error, told in (
        (OSError("19200 requested and 6384 written"), "The disk is full"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "allows no file so large"),
    ):
        with pytest.raises(Failure, match=told), files.atomic_file(place) as temporary:
            temporary.write_text("new")
            raise error
    assert place.read_text() == "old" and list(tmp_path.iterdir()) == [place]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadRequest, match="not a directory"), files.atomic_folder(tmp_path / "notes.txt"):
        pytest.fail("refused before anything is written")
    assert (tmp_path / "notes.txt").read_text() == "mine" and list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "away")
    with pytest.raises(BadRequest, match="not a directory"):
        files.write_text(tmp_path / "link" / "file.txt", "text")
