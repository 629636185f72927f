"""Content filter: terms, patterns, a classifier and a judge by a policy, hardened against spelling tricks.

A policy names categories; each says what it looks for, what becomes of it (block, redact, flag, allow) and whether it
concerns what goes into a model or what comes out. Texts are read as a person reads them (`_plain_form`): lookalikes,
invisible characters, digits for letters, letters set apart or repeated don't help. Terms match whole words only, and
what the policy allows is never found, so that no Scunthorpe is hurt. Patterns are the `regex` package's, with a limit
on length and time; one that runs out of time counts as found, since nothing is known about the text then.

The shipped policy is a floor and no solution: it knows plain phrasings, most of them English. A classifier, any folder
that `posttrain train` made with an objective that labels texts, judges what no list can, and so does a language model
that is asked; their labels are named by the policy's categories. Left out of terms and patterns: meaning. Quoted and
condemned threats are found as well.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import regex
from pydantic import Field, ValidationInfo, field_validator

from posttrain.core import recipe
from posttrain.core.errors import BadRequest
from posttrain.core.files import hash_file
from posttrain.core.settings import Settings, place_of
from posttrain.guard import Action, Finding, TextGuard, in_order
from posttrain.guard._judges import Judge, classifier, language_model
from posttrain.guard._plain_form import Form, has_long_run, plain, readings, squeezed
from posttrain.guard._terms import Terms, Word, words_of

DEFAULT_POLICY = Path(__file__).with_name("default_policy.yaml")

_LONGEST_PATTERN = 4000
# Seconds a pattern may take, and characters for which it gets one more.
_SECONDS, _CHARACTERS_PER_SECOND = 2.0, 50_000
# A letter that no policy names; stands for what is allowed.
_ALLOWED = "\N{CYRILLIC LETTER MULTIOCULAR O}"

Side = Literal["input", "output"]


class Category(Settings):
    """One kind of content."""

    action: Action = "flag"
    """What becomes of it: block, redact, flag, or allow, which switches the category off."""

    where: list[Side] = ["input", "output"]
    """Whether it concerns what goes into a model, what comes out, or both."""

    reason: str = ""
    """Why, for the person who is told."""

    terms: list[str] = []
    """Words and phrases; a word that ends in * may go on."""

    patterns: list[str] = []
    """Regular expressions, matched against the text in lower case, without accents and lookalikes."""

    labels: list[str] = []
    """Labels of the classifier that mean this category."""

    threshold: float = Field(0.5, ge=0, le=1)
    """How probable one of the labels must be."""

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            if len(pattern) > _LONGEST_PATTERN:
                raise ValueError(f"a pattern has {len(pattern)} characters, more than {_LONGEST_PATTERN}")
            try:
                _compiled(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns


class Policy(Settings):
    """What is looked for, and what becomes of it."""

    extends: str | None = None
    """A policy whose categories and exceptions count too: `default`, or a file; categories of the same name replace."""

    categories: dict[str, Category] = {}
    """The kinds of content by their names."""

    allow: list[str] = []
    """Words and phrases inside which nothing is found."""

    def merged(self, base: Policy) -> Policy:
        """This policy on top of another."""
        return Policy(categories={**base.categories, **self.categories}, allow=[*base.allow, *self.allow])


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.IGNORECASE)


def read_policy(reference: str | Path) -> Policy:
    """A policy by its file, or the shipped one by the name ``default``.

    Raises:
        BadRequest: If the file is missing or no policy, or policies extend each other in a circle.
    """
    return _read_policy(reference, ())


def _read_policy(reference: str | Path, below: tuple[Path, ...]) -> Policy:
    path = policy_file(reference)
    if path in below:
        raise BadRequest(f"{path} extends itself.", "Leave `extends` out in one of the policies.")
    policy = Policy.parse(recipe.read(path, "a policy's settings"), str(path))
    return policy if policy.extends is None else policy.merged(_read_policy(policy.extends, (*below, path)))


def policy_file(reference: str | Path) -> Path:
    """The file of a policy.

    Raises:
        BadRequest: If there is none.
    """
    path = DEFAULT_POLICY if str(reference) == "default" else Path(reference)
    if not path.is_file():
        raise BadRequest(f"There is no policy {reference}.", "Give a YAML file, or `default` for the shipped policy.")
    return path


@dataclass(frozen=True)
class _Search:
    """A category made ready: terms as they are read, and again without repeated letters."""

    name: str
    category: Category
    terms: Terms
    squeezed: Terms


@dataclass(frozen=True)
class _Read:
    """A form with its words."""

    form: Form
    words: list[Word]

    @classmethod
    def of(cls, form: Form) -> _Read:
        return cls(form, words_of(form.text))


class ContentFilter(TextGuard):
    """Find content that a policy names."""

    policy: str | Policy = "default"
    """The policy: a YAML file, `default` for the shipped one, or its settings."""

    where: Literal["input", "output", "both"] = "both"
    """Which side of a model the texts are on; categories for the other side are left out."""

    model: str | None = None
    """A classifier, for the categories that name labels: a folder or hub:owner/name."""

    judge: str | None = None
    """A language model that is asked about each text; what it condemns has the label `unsafe`."""

    question: str = (
        "Is the following text harmful, hateful, threatening, sexual about minors, or a request for help with a crime? "
        "Answer Yes or No."
    )
    """What the judge is asked before the text; empty for models made to judge whatever they are given."""

    answers: tuple[str, str] = ("Yes", "No")
    """The judge's answers that condemn and acquit, as in [unsafe, safe]."""

    @field_validator("policy", mode="before")
    @classmethod
    def _written_here(cls, policy: Any, info: ValidationInfo) -> Any:
        return Policy.parse(policy, place_of(info)) if isinstance(policy, dict) else policy

    def inputs(self) -> dict[str, Any]:
        """Hash of the policy's file; policies that it extends count with their names."""
        if isinstance(self.policy, Policy):
            return {}
        path = policy_file(self.policy)
        return {"policy": {"source": str(self.policy), "hash": hash_file(path)}}

    def find(self, text: str, whole: bool = True) -> list[Finding]:
        """What the policy's categories name.

        Raises:
            BadRequest: If the policy can't be read, or a model has none of the labels it names.
        """
        found = list(self._by_words(text))
        if whole:
            for name, judge in self._judges():
                found += self._by_judge(text, name, judge)
        return in_order(found)

    @cached_property
    def _policy(self) -> Policy:
        if isinstance(self.policy, str):
            return read_policy(self.policy)
        return self.policy if self.policy.extends is None else self.policy.merged(read_policy(self.policy.extends))

    @cached_property
    def _searches(self) -> list[_Search]:
        return [
            _Search(name, each, Terms(each.terms, _as_read), Terms(each.terms, _as_squeezed))
            for name, each in self._policy.categories.items()
            if each.action != "allow" and (self.where == "both" or self.where in each.where)
        ]

    @cached_property
    def _allowed(self) -> Terms:
        return Terms(self._policy.allow, _as_read)

    def _by_words(self, text: str) -> Iterator[Finding]:
        """What terms and patterns find, each place once for each category."""
        forms = [_Read.of(self._without_allowed(form)) for form in readings(plain(text))]
        tight = [_Read.of(squeezed(each.form)) for each in forms if has_long_run(each.form.text)]
        for search in self._searches:
            places: list[Finding] = []
            for each in forms:
                places += self._in_form(search, each, text)
            for each in tight:
                for start, end, term in search.squeezed.find(each.words):
                    place = each.form.span(start, end)
                    # Without a long run this is another word: `god` is no `good`.
                    if has_long_run(plain(text[slice(*place)]).text):
                        places.append(_finding(search, place, f"the term '{term}', with letters repeated"))
            yield from _merged(places)

    def _without_allowed(self, form: Form) -> Form:
        """The form with marks in the place of what the policy allows; they are letters, so they part no words."""
        spans = [(start, end) for start, end, _ in self._allowed.find(words_of(form.text))]
        if not spans:
            return form
        characters = list(form.text)
        for start, end in spans:
            characters[start:end] = _ALLOWED * (end - start)
        return replace(form, text="".join(characters))

    def _in_form(self, search: _Search, read: _Read, text: str) -> Iterator[Finding]:
        form = read.form
        for start, end, term in search.terms.find(read.words):
            place = form.span(start, end)
            disguised = "" if _simple(text[slice(*place)]) == _simple(term) or "*" in term else ", written differently"
            yield _finding(search, place, f"the term '{term}'{disguised}")
        limit = _SECONDS + len(form.text) / _CHARACTERS_PER_SECOND
        for pattern in search.category.patterns:
            try:
                for match in _compiled(pattern).finditer(form.text, timeout=limit):
                    if match.end() > match.start():
                        yield _finding(search, form.span(*match.span()), "a pattern of the policy")
            except TimeoutError:
                yield _finding(search, (0, len(text)), f"a pattern that took longer than {limit:.0f} s")

    def _judges(self) -> Iterator[tuple[str, Judge]]:
        if self.model is not None:
            yield f"the classifier {self.model}", classifier(self.model)
        if self.judge is not None:
            yield f"the judge {self.judge}", language_model(self.judge, self.question, *self.answers)

    def _by_judge(self, text: str, name: str, judge: Judge) -> Iterator[Finding]:
        for start, piece in judge.pieces(text):
            shares = {label.casefold(): (label, share) for label, share in judge.shares(piece).items()}
            for search in self._judging(shares, name):
                heard = [shares[label.casefold()] for label in search.category.labels if label.casefold() in shares]
                if not heard:
                    continue
                label, share = max(heard, key=lambda each: each[1])
                if share >= search.category.threshold:
                    yield _finding(search, (start, start + len(piece)), f"{name} says {label} with {share:.2f}")

    def _judging(self, labels: dict[str, tuple[str, float]], name: str) -> Sequence[_Search]:
        """The categories that name labels; one of them must be the judge's."""
        named = {label.casefold() for each in self._policy.categories.values() for label in each.labels}
        if not named & labels.keys():
            known = ", ".join(repr(label) for label, _ in labels.values()) or "none"
            raise BadRequest(f"The policy names no label of {name}, which has {known}.", "Give a category `labels`.")
        return [search for search in self._searches if search.category.labels]


def _as_read(text: str) -> str:
    return plain(text).text


def _as_squeezed(text: str) -> str:
    return squeezed(plain(text)).text


def _simple(text: str) -> str:
    return " ".join(text.lower().split())


def _finding(search: _Search, place: tuple[int, int], cause: str) -> Finding:
    reason = search.category.reason or f"it belongs to '{search.name}'"
    return Finding(search.name, *place, f"{reason}: {cause}", search.category.action)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """Findings of one category: what overlaps is one finding, with the reason of the first."""
    merged: list[Finding] = []
    for each in in_order(findings):
        if merged and each.start < merged[-1].end:
            merged[-1] = replace(merged[-1], end=max(merged[-1].end, each.end))
        else:
            merged.append(each)
    return merged
