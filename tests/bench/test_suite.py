"""Suites of behavioural tests: their files, and the cases drawn from templates and lexicons."""

from __future__ import annotations

import pytest
import yaml

from posttrain.bench import suite as suites
from posttrain.bench.suite import Suite, draw, find
from posttrain.core.errors import BadRequest

ASK = {"choices": {"positive": "good", "negative": "bad"}}
EXPECTING = {"name": "t", "capability": "c", "templates": ["{{ good }} {{ thing }}"], "expect": "positive"}
LEXICONS = {"good": ["great", "nice"], "thing": ["book", "film", "song"]}


def suite_of(test, **more):
    return Suite.parse({"summary": "s", "version": "1", "ask": ASK, "lexicons": LEXICONS, "tests": [test], **more})


def drawn(test, most=None, seed=0, **more):
    suite = suite_of(test, **more)
    return draw(suite, suite.tests[0], "own.yaml", seed, most)


def texts(test, **settings):
    return [case.texts for case in drawn(test, **settings).cases]


def test_every_combination_once():
    found = texts(EXPECTING)
    assert sorted(found) == [[f"{a} {b}"] for a in ("great", "nice") for b in ("book", "film", "song")]
    assert texts(EXPECTING) == found
    assert texts(EXPECTING, seed=1) != found
    assert texts(EXPECTING, most=2) == found[:2]
    assert texts({**EXPECTING, "samples": 4}) == found[:4]
    assert drawn(EXPECTING).cases[0].expected == "positive"


def test_words_of_one_lexicon_differ():
    test = {**EXPECTING, "templates": ["{{ thing }} or {{ thing2 }}"]}
    found = texts(test)
    assert len(found) == 6
    assert all(a != b for ((text,),) in zip(found) for a, b in [text.split(" or ")])


def test_templates_take_turns():
    test = {**EXPECTING, "templates": ["a {{ thing }}", "{{ thing }} b", "no word"], "samples": 5}
    found = [text for (text,) in texts(test)]
    assert [text.startswith("a ") for text in found] == [True, False, False, True, False]
    assert found.count("no word") == 1


def test_entries_with_parts_and_expressions():
    lexicons = {"land": [{"name": "France", "capital": "Paris"}, {"name": "Peru", "capital": "Lima"}], "number": [3, 8]}
    test = {
        "name": "t",
        "capability": "c",
        "templates": ["{{ land.name }}, {{ number }} > {{ number2 }}"],
        "ask": {"choices": ["{{ land.capital }}", "{{ land2.capital }}"]},
        "expect": "{{ land.capital if number > number2 else land2.capital }}",
    }
    cases = drawn(test, lexicons=lexicons).cases
    assert sorted((case.texts[0], case.expected) for case in cases) == [
        ("France, 3 > 8", "Lima"),
        ("France, 8 > 3", "Paris"),
        ("Peru, 3 > 8", "Paris"),
        ("Peru, 8 > 3", "Lima"),
    ]


def test_very_many_combinations_are_drawn_lazily():
    lexicons = {"word": [f"w{i}" for i in range(100)]}
    test = {**EXPECTING, "templates": [" ".join(f"{{{{ word{i} }}}}" for i in range(1, 6))], "samples": 50}
    found = [text for (text,) in texts(test, lexicons=lexicons)]
    assert len(set(found)) == 50
    assert all(len(set(text.split())) == 5 for text in found)


def test_perturbed_texts():
    """What can't be changed is left out and counted; equal variants are one."""
    test = {"name": "t", "capability": "c", "templates": ["{{ word }}"], "perturb": {"case": {"to": "upper"}}}
    found = drawn({**test, "variants": 3}, lexicons={"word": ["one", "TWO", "2"]})
    assert [case.texts for case in found.cases] == [["one", "ONE"]]
    assert found.unchanged == 2
    with pytest.raises(BadRequest, match=r"own\.yaml: the test 't' has no case, because its change leaves every text"):
        drawn(test, lexicons={"word": ["TWO"]})
    several = {**test, "perturb": {"case": {"to": "upper"}, "punctuation": {}}}
    assert texts(several, lexicons={"word": ["one"]}) == [["one", "ONE."]]
    varied = {**test, "templates": ["several longer words here"], "perturb": {"typos": {}}, "variants": 4}
    assert len(texts(varied)[0]) > 2


def test_texts_that_become_others():
    test = {
        "name": "t",
        "capability": "c",
        "templates": ["A {{ good }} {{ thing }}."],
        "becomes": ["{{ text }} Yes, {{ good }}.", "{{ text | replace(thing, thing2) }}"],
        "moves": {"label": "positive", "to": "up"},
    }
    (text, longer, other), *_ = texts(test)
    good, thing = text[:-1].split()[1:]
    assert longer == f"A {good} {thing}. Yes, {good}."
    assert other.startswith(f"A {good} ")
    assert thing not in other


def test_kinds():
    changed = {"name": "t", "capability": "c", "templates": ["x"], "becomes": ["y"]}
    for test, kind in (
        (EXPECTING, "MFT"),
        (changed, "INV"),
        ({**changed, "moves": {"label": "positive", "to": "down"}}, "DIR"),
    ):
        assert suite_of(test).tests[0].kind == kind


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"perturb": {"typos": {}}}, "`expect` stands alone"),
        ({"expect": None}, "give `expect`, `perturb` or `becomes`"),
        ({"templates": ["{{ thng }}"]}, "'thng', and there is no such lexicon. Did you mean 'thing'"),
        ({"expect": "{{ nothing_here }}"}, "uses 'nothing_here'"),
        ({"templates": ["{{ thing"]}, "not a template"),
        ({"expct": "positive"}, "Did you mean 'expect'"),
        ({"ask": {"choices": ["one"]}}, "at least two `choices`"),
        ({"ask": {}}, "either `choices` or `write`"),
        ({"ask": {"write": {"extract": "("}}}, "not a regular expression"),
        (
            {"expect": None, "becomes": ["y"], "moves": {"label": "a", "to": "up"}, "ask": {"write": {}}},
            "has no probabilities that could move",
        ),
    ],
)
def test_wrong_tests_are_refused(changes, sentence):
    test = {key: value for key, value in {**EXPECTING, **changes}.items() if value is not None}
    with pytest.raises(BadRequest) as refused:
        suite_of(test)
    assert sentence in str(refused.value)


def test_wrong_suites_are_refused():
    with pytest.raises(BadRequest, match="two tests are called t"):
        suite_of(EXPECTING, tests=[EXPECTING, EXPECTING])
    with pytest.raises(BadRequest, match="the lexicon 'good' is empty"):
        suite_of(EXPECTING, lexicons={**LEXICONS, "good": []})


def test_files(tmp_path):
    content = {"summary": "s", "version": "1", "ask": ASK, "lexicons": LEXICONS, "tests": [EXPECTING]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    path, suite = find(str(tmp_path / "own.yaml"))
    assert (path, suite.tests[0].name) == (tmp_path / "own.yaml", "t")
    (tmp_path / "wrong.yaml").write_text("summary: s\nversion: '1'\ntests: [{}]\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    for name, sentence in (
        ("wrong.yaml", r"wrong\.yaml: 'tests\[0\]\.name' is missing"),
        ("none.yaml", "There is no suite file"),
        ("bytes.yaml", "is not UTF-8"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            find(str(tmp_path / name))
    with pytest.raises(BadRequest, match=r"There is no suite 'sentimen'.*sentiment"):
        find("sentimen")


@pytest.mark.parametrize("name", suites.names())
def test_shipped_suites(name):
    """Every test has cases of its kind; choices differ, and an expected answer is one of them."""
    path, suite = find(name)
    for test in suite.tests:
        found = draw(suite, test, str(path))
        assert found.unchanged == 0, test.name
        for case in found.cases:
            assert (case.expected is None) == bool(case.changed)
            how = test.ask or suite.ask
            if how.write is None:
                continuations = how.continuations(case.item)
                assert len(set(continuations.values())) == len(how.choices), (test.name, continuations)
                assert case.expected is None or case.expected in continuations
            if test.moves:
                assert test.moves.label in how.choices


def test_the_shipped_suites_are_there():
    assert suites.names() == ["language_model", "sentiment"]
