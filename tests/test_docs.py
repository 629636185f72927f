"""The documents: every snippet runs, every table is current, every link and every file that is named exists.

The fenced blocks of a page run in order, in a folder of the page's own, on a tiny model that stands for `smollm2`:

- ``python``, ``yaml`` … with ``file=NAME`` behind the language are written to that file.
- Other ``python`` blocks are executed; they share their names.
- ``yaml`` is read as a recipe is, and checked as one where it has steps.
- ``bash``: each `posttrain` command runs in this process and must succeed, `python -m pytest` in another. What sets up
  or tests a checkout isn't run (`_NOT_RUN`). Any other command is an error.
- ``text`` is for reading.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.core import recipe
from posttrain.core.errors import BadRequest
from posttrain.models import sources
from posttrain.models.saving import save
from posttrain.pipeline.run import parse_steps

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_NAMED_FILE = re.compile(r"\.?[\w-]+(?:/[\w.-]+)+/?")

_LANGUAGES = {"python", "bash", "yaml", "text"}


def _is_make_target(words: list[str]) -> bool:
    return f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def _names_a_file(words: list[str]) -> bool:
    return (ROOT / words[-1]).is_file()


# Commands that make, install or test a checkout -> what is checked instead of running them.
_NOT_RUN: dict[str, Callable[[list[str]], bool]] = {
    "make": _is_make_target,
    "pip": lambda words: words[1:] == ["install", "."],
    "git": lambda words: words[1] == "clone",
    "cd": lambda words: len(words) == 2,
    ".venv/bin/python": _names_a_file,
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is written to (empty if none), its text and its first line."""

    language: str
    file: str
    text: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """All fenced blocks of a page."""
    blocks = []
    for found in _FENCE.finditer(text):
        language, info, body = found.groups()
        assert language in _LANGUAGES, f"unknown language {language!r}"
        assert not info or info.startswith("file="), f"unknown info {info!r}"
        blocks.append(Block(language, info.removeprefix("file="), body, text.count("\n", 0, found.start()) + 2))
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks), "a fence is not closed"
    return blocks


@dataclass
class Runner:
    """Runs the blocks of a page.

    Attributes:
        page: Its name, for messages.
        folder: The working directory.
        names: What its Python blocks have defined.
    """

    page: str
    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def run(self, block: Block) -> None:
        """Run one block; anything wrong is an exception that names page and line."""
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "yaml":
            self._check_recipe(block)
        elif block.language == "bash":
            for command in commands_of(block.text):
                self._command(command, f"{self.page}:{block.line}")
        elif block.language == "python" and not block.file:
            source = "\n" * (block.line - 1) + block.text  # so that tracebacks name the page's own lines
            exec(compile(source, self.page, "exec"), self.names)

    def _check_recipe(self, block: Block) -> None:
        values = recipe.parse(block.text, f"{self.page}:{block.line}")
        if "steps" in values:
            values.pop("fast", None)
            parse_steps(recipe.Recipe.parse(values).steps)

    def _command(self, words: list[str], where: str) -> None:
        told = f"{where}: {shlex.join(words)}"
        if words[0] == "posttrain":
            assert main([*words[1:], "--quiet"]) == 0, told
        elif words[:3] == ["python", "-m", "pytest"]:
            done = subprocess.run(
                [sys.executable, *words[1:]], capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, f"{told}\n{done.stdout}{done.stderr}"
        else:
            assert words[0] in _NOT_RUN, f"{told}: no rule for this command"
            assert _NOT_RUN[words[0]](words), told


def commands_of(text: str) -> list[list[str]]:
    """The commands of a shell snippet as words, comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def page_folder(tiny_llama, tmp_path, monkeypatch):
    """An empty working directory in which `smollm2` is a tiny model that can read as much as the real one."""
    tiny_llama.network.config.max_position_embeddings = 8192
    tiny_llama.tokenizer.model_max_length = 8192
    save(tiny_llama, tmp_path / "smollm2")
    monkeypatch.setattr(sources, "aliases", lambda: {"smollm2": str(tmp_path / "smollm2")})
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def _pages_with(condition: Callable[[str], Any]) -> list[Any]:
    return [pytest.param(p, id=p.name) for p in PAGES if condition(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", _pages_with(_FENCE.search))
def test_snippets(page, page_folder):
    runner = Runner(page.name, page_folder)
    for block in blocks_of(page.read_text(encoding="utf-8")):
        runner.run(block)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert False\n```\n",
        "```bash\nposttrain generate nowhere hello\n```\n",
        "```bash\nrm -rf nothing\n```\n",
        "```bash\nmake nonsense\n```\n",
        "```yaml\nmodel: smollm2\nsteps: [{trian: {}}]\n```\n",
        "```pyhton\nassert True\n```\n",
        "```bash\nposttrain --version\n",
    ],
)
def test_what_is_wrong_in_a_page_is_found(text, page_folder):
    with pytest.raises((AssertionError, BadRequest)):
        for block in blocks_of(text):
            Runner("page", page_folder).run(block)


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings: lower case, punctuation dropped, spaces to dashes."""
    headings = re.findall(r"^#+ (.+)$", _without_fences(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(_without_fences(page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    """Whatever in code marks looks like a path into the project or into the package is one; runs are the user's own."""
    roots = (ROOT, ROOT / "src" / "posttrain")
    for span in _CODE.findall(_without_fences(page.read_text(encoding="utf-8"))):
        first = span.split("/")[0]
        if not _NAMED_FILE.fullmatch(span) or first in ("runs", ".venv"):
            continue
        if any((root / first).is_dir() for root in roots):
            assert any((root / span).exists() for root in roots), f"{page.name}: {span}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in _LINK.findall(index)}
    assert set(PAGES) - linked == {ROOT / "docs" / "index.md"}


def test_tables_are_current():
    """If this fails, run `python docs/tables.py` and commit what it changes."""
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    used = set()
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{page.name} is out of date: run `python docs/tables.py`"
        used |= set(re.findall(r"<!-- table: (\w+) -->", text))
    assert used == set(tables.TABLES)
