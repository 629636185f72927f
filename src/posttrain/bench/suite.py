"""A suite of behavioural tests: one YAML file with lexicons, templates and what must hold (CheckList).

Ribeiro et al., 2020, "Beyond Accuracy: Behavioral Testing of NLP models with CheckList". A test is of one of three
kinds, which follows from its keys:

- minimum functionality (MFT): `expect`, the answer to each text;
- invariance (INV): `perturb` or `becomes`, a change that must not change the answer;
- directional expectation (DIR): such a change and `moves`, the direction in which the probability of a label must go.

Templates are Jinja's, as in tasks. A name in them stands for an entry of the lexicon of that name, and a number behind
it (``city2``) for another entry than the one without; entries may have parts (``land.capital``). Cases are drawn, by a
seed, from all combinations. The folder `suites` is the registry, and a path to a file of one's own does as well. Left
out: words suggested by a masked language model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

from jinja2 import Environment, meta
from pydantic import Field, model_validator

from posttrain.bench.item import Item, Template
from posttrain.bench.perturbations import Perturbation
from posttrain.bench.task_types.generative import Pattern
from posttrain.core.catalog import block, blocks
from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.core.recipe import parse
from posttrain.core.settings import Settings

FOLDER = Path(__file__).parent / "suites"

Kind = Literal["MFT", "INV", "DIR"]

_parser = Environment(autoescape=False)
# All combinations of words are shuffled if they are no more than this; of more, so many as are needed are drawn.
_SHUFFLED = 1 << 16

# The name under which templates see the text that another template made.
_TEXT = "text"


class Writing(Settings):
    """Let the model write, instead of choosing."""

    max_new_tokens: int = Field(32, ge=1)
    """Most tokens."""

    stop: list[str] = ["\n"]
    """Texts that end what it writes."""

    extract: Pattern = r"(?s).*"
    """What of it is the answer, for tests of invariance: the first match of this regular expression, or its first
    group. An expected answer is itself a regular expression, which must be found in what was written."""

    search: block("search") = Field(default_factory=lambda: {"greedy": {}})  # type: ignore[valid-type]
    """How tokens are chosen."""


class Asking(Settings):
    """How a model that continues texts is asked; a trained classifier gets the text alone."""

    prompt: Template = "{{ text }}"
    """The prompt, a template in which `text` is the case's text."""

    choices: dict[str, Template] | list[Template] = []
    """What may follow: labels with their continuations, templates, or continuations that are labels themselves. The
    model chooses the likeliest."""

    delimiter: str = " "
    """What stands between prompt and continuation."""

    by_length: bool = False
    """Divide log-probabilities by the continuations' numbers of characters."""

    write: Writing | None = None
    """Let it write instead of choosing."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.choices) == (self.write is not None):
            raise ValueError("give either `choices` or `write`")
        if self.choices and len(self.choices) < 2:
            raise ValueError("there must be at least two `choices`")
        return self

    def templates(self) -> list[str]:
        """All templates in it."""
        choices = self.choices.values() if isinstance(self.choices, dict) else self.choices
        return [self.prompt, *choices]

    def continuations(self, case: Item) -> dict[str, str]:
        """By label what may follow."""
        if isinstance(self.choices, dict):
            return {label: case.text(each, "ask.choices") for label, each in self.choices.items()}
        texts = [case.text(each, "ask.choices") for each in self.choices]
        return dict(zip(texts, texts))


class Moves(Settings):
    """Where a probability must go."""

    label: str
    """The probability of which label."""

    to: Literal["up", "down"]
    """In which direction."""

    by: float = Field(0.0, ge=-1, le=1)
    """By how much at least; a negative number tolerates a move the other way."""


class SuiteTest(Settings):
    """One test."""

    name: str
    """What it tests, in a few words."""

    capability: str
    """What the model must be able to do, under which tests are summed up: vocabulary, negation, robustness …"""

    templates: list[Template] = Field(min_length=1)
    """The texts, templates with words of the lexicons."""

    samples: int = Field(60, ge=1)
    """How many cases are drawn, as far as there are so many."""

    ask: Asking | None = None
    """How a model that continues texts is asked, if not as in the other tests."""

    expect: Template | None = None
    """The answer, a template: a label, or a regular expression where the model writes."""

    perturb: blocks("perturbation") = []  # type: ignore[valid-type]
    """What changes the text, as in {typos: {rate: 0.2}}; several are applied one after the other."""

    variants: int = Field(1, ge=1)
    """How many perturbed texts a case has; each must keep the answer."""

    becomes: list[Template] = []
    """Instead of a perturbation, the changed texts themselves: templates that see `text` and the same words."""

    moves: Moves | None = None
    """The direction in which the change must move a label's probability; without it nothing may change."""

    tolerance: float = Field(0.0, ge=0, le=1)
    """For invariance: another label is no failure where no probability changes by more than this."""

    @property
    def kind(self) -> Kind:
        """Minimum functionality, invariance or directional expectation."""
        if self.expect is not None:
            return "MFT"
        return "DIR" if self.moves is not None else "INV"

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        changed = bool(self.perturb) + bool(self.becomes)
        if self.expect is not None and (changed or self.moves is not None):
            raise ValueError("`expect` stands alone: an answer is expected, or a change is looked at")
        if self.expect is None and changed != 1:
            raise ValueError("give `expect`, `perturb` or `becomes`")
        return self

    def needs(self, ask: Asking | None) -> set[str]:
        """The names that its templates look at, but for the text."""
        return set().union(*(self.words_of(template, ask) for template in self.templates))

    def words_of(self, template: str, ask: Asking | None) -> set[str]:
        """The names that a case made by one of its templates has words for.

        Args:
            template: The template.
            ask: How other tests of the suite are asked.
        """
        asked = self.ask or ask
        used = [template, *self.becomes, *(asked.templates() if asked else [])]
        used += [self.expect] if self.expect is not None else []
        return set().union(*(meta.find_undeclared_variables(_parser.parse(each)) for each in used)) - {_TEXT}


class Suite(Settings):
    """What a suite's file holds."""

    summary: str
    """What it tests, in a line."""

    version: str
    """Changes whenever results may change."""

    ask: Asking | None = None
    """How a model that continues texts is asked; without it each test says so, or only classifiers can be tested."""

    labels: dict[str, list[str]] = {}
    """For classifiers: the labels, each with further names that a classifier may have for it."""

    lexicons: dict[str, list[Any]] = {}
    """Lists of words, or of mappings with words in them, by the names that templates use."""

    tests: list[SuiteTest] = Field(min_length=1)
    """The tests."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for test in self.tests:
            for name in sorted(test.needs(self.ask)):
                if self.lexicon_of(name) is None:
                    raise ValueError(
                        f"test '{test.name}' uses '{name}', and there is no such lexicon. "
                        f"{did_you_mean(name, self.lexicons)}".strip()
                    )
            if (asked := test.ask or self.ask) and asked.write is not None and test.kind == "DIR":
                raise ValueError(f"test '{test.name}': what is written has no probabilities that could move")
        if empty := [name for name, words in self.lexicons.items() if not words]:
            raise ValueError(f"the lexicon '{empty[0]}' is empty")
        names = [test.name for test in self.tests]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two tests are called {', '.join(sorted(twice))}")
        return self

    def lexicon_of(self, name: str) -> str | None:
        """The lexicon that a template's name takes its words from; None if there is none."""
        bare = name.rstrip("0123456789")
        return next((each for each in (name, bare) if each in self.lexicons), None)


@dataclass(frozen=True)
class Case:
    """A text of a test, and what becomes of it.

    Attributes:
        item: The words it was made of, with the text under ``text``.
        changed: The changed texts; empty for tests that expect an answer.
        expected: The expected answer.
    """

    item: Item
    changed: list[str]
    expected: str | None

    @property
    def texts(self) -> list[str]:
        """The text and the changed ones."""
        return [str(self.item.values[_TEXT]), *self.changed]

    def saying(self, text: str) -> Item:
        """The case's words with another text."""
        return self.item.with_values({_TEXT: text})


@dataclass(frozen=True)
class Drawn:
    """The cases of a test.

    Attributes:
        cases: At least one.
        unchanged: How many texts were left out because nothing in them could be changed.
    """

    cases: list[Case]
    unchanged: int


def names() -> list[str]:
    """All suites that come with posttrain."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> tuple[Path, Suite]:
    """A suite by its name or the path of its file.

    Raises:
        BadRequest: If there is no such suite or its file isn't right; names file and key.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name), read(Path(name))
    if name not in names():
        raise BadRequest(
            f"There is no suite '{name}'.", f"{did_you_mean(name, names())} A file of your own ends in .yaml."
        )
    return FOLDER / f"{name}.yaml", read(FOLDER / f"{name}.yaml")


@cache
def read(file: Path) -> Suite:
    """Read a suite's file.

    Raises:
        BadRequest: If it is missing, no YAML, or a key or value isn't right; names file and key.
    """
    try:
        return Suite.parse(parse(file.read_text(encoding="utf-8"), str(file)))
    except (FileNotFoundError, IsADirectoryError):
        raise BadRequest(f"There is no suite file {file}.", f"Known suites: {', '.join(names())}.") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not UTF-8 text: {error}.") from None
    except BadRequest as error:
        problem = error.problem if str(file) in error.problem else f"{file}: {error.problem}"
        raise BadRequest(problem, error.suggestion) from None


def draw(suite: Suite, test: SuiteTest, where: str, seed: int = 0, most: int | None = None) -> Drawn:
    """The cases of a test.

    Args:
        suite: The suite.
        test: One of its tests.
        where: The suite's file, for messages.
        seed: Of the draws; the same seed gives the same cases, whatever other tests there are.
        most: Draw at most so many; as many as the test says if None.

    Raises:
        BadRequest: If a template can't be made, or no text of the test can be changed.
    """
    wanted = min(test.samples, most or test.samples)
    random = Random(f"{seed}/{test.name}")
    apart = [_texts(suite, test, template, where, random) for template in test.templates]
    # Templates take turns, so that each has its share.
    turns = (item for item in chain.from_iterable(zip_longest(*apart)) if item is not None)
    cases: list[Case] = []
    seen: set[str] = set()
    unchanged = 0
    for item in turns:
        text = str(item.values[_TEXT])
        if text in seen:
            continue
        seen.add(text)
        if test.expect is not None:
            cases.append(Case(item, [], item.text(test.expect, "expect")))
        elif changed := _changed(test, item, random):
            cases.append(Case(item, changed, None))
        else:
            unchanged += 1
        if len(cases) == wanted:
            break
    if not cases:
        raise BadRequest(
            f"{where}: the test '{test.name}' has no case, because its change leaves every text as it is.",
            "Give it templates with something to change.",
        )
    return Drawn(cases, unchanged)


def _texts(suite: Suite, test: SuiteTest, template: str, where: str, random: Random) -> Iterator[Item]:
    """The texts of one template, in random order."""
    for words in _words(suite, sorted(test.words_of(template, suite.ask)), random):
        item = Item(words, f"test '{test.name}'", where)
        yield item.with_values({_TEXT: item.text(template, "templates")})


def _words(suite: Suite, slots: Sequence[str], random: Random) -> Iterator[Mapping[str, Any]]:
    """Words for the names, every combination once, in which names of one lexicon have different words."""
    lexicons = [(slot, str(suite.lexicon_of(slot))) for slot in slots]
    sizes = [len(suite.lexicons[lexicon]) for _, lexicon in lexicons]
    total = math.prod(sizes)
    for number in _shuffled(total, random):
        chosen: dict[str, Any] = {}
        places: set[tuple[str, int]] = set()
        for (slot, lexicon), size in zip(lexicons, sizes):
            number, place = divmod(number, size)
            places.add((lexicon, place))
            chosen[slot] = suite.lexicons[lexicon][place]
        if len(places) == len(slots):
            yield chosen


def _shuffled(total: int, random: Random) -> Iterator[int]:
    """The numbers below `total` in random order, each once; of very many, so many as anybody asks for."""
    if total <= _SHUFFLED:
        yield from random.sample(range(total), total)
        return
    seen: set[int] = set()
    while len(seen) < total:
        number = random.randrange(total)
        if number not in seen:
            seen.add(number)
            yield number


def _changed(test: SuiteTest, item: Item, random: Random) -> list[str]:
    """The changed texts that differ from the text, each once."""
    text = str(item.values[_TEXT])
    if test.becomes:
        found = [item.text(each, "becomes") for each in test.becomes]
    else:
        found = [_perturbed(test.perturb, text, random) for _ in range(test.variants)]
    return list(dict.fromkeys(each for each in found if each != text))


def _perturbed(perturbations: Sequence[Perturbation], text: str, random: Random) -> str:
    for perturbation in perturbations:
        text = perturbation.apply(text, random)
    return text
