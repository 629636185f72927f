"""`posttrain list`."""

from __future__ import annotations

from posttrain.core import catalog


def test_every_file_of_every_family_is_listed_with_its_sentence(invoke):
    entries = invoke("list", "--json").json["methods"]
    listed = {(entry["family"], entry["term"]): entry["summary"] for entry in entries}
    for family in catalog.FAMILIES:
        for term in catalog.terms(family):
            assert listed[family, term]
    shipped = [("recipe", "quickstart"), ("task", "multirc"), ("suite", "sentiment"), ("preset", "low_risk")]
    assert all(listed[entry] for entry in shipped)


def test_a_kind_in_the_plural(invoke):
    entries = invoke("list", "suites", "--json").json["methods"]
    assert [(entry["family"], entry["term"]) for entry in entries] == [
        *(("suite", "language_model"), ("suite", "sentiment"))
    ]


def test_one_family(invoke):
    entries = invoke("list", "schedule", "--json").json["methods"]
    assert {entry["family"] for entry in entries} == {"schedule"}
    assert "cosine" in {entry["term"] for entry in entries}


def test_human_form(invoke):
    lines = invoke("list", "recipe").out.splitlines()
    assert lines[0] == "recipe"
    assert any(line.startswith("  quickstart  ") for line in lines)


def test_an_unknown_family(invoke):
    assert invoke("list", "scheduel").refused(2) == "Error: There is no family 'scheduel'. Did you mean 'schedule'?"
