"""`posttrain explain`."""

from __future__ import annotations

import pytest

from posttrain.core import catalog


def test_a_method_with_its_settings(invoke):
    (entry,) = invoke("explain", "cosine", "--json").json["methods"]
    assert entry["family"] == "schedule"
    assert entry["class"] == "posttrain.train.schedules.cosine:Cosine"
    assert "Loshchilov" in entry["description"]
    floor = next(setting for setting in entry["settings"] if setting["name"] == "floor")
    assert floor == {
        "name": "floor",
        "type": "number, ≥ 0, ≤ 1",
        "default": 0.0,
        "required": False,
        "help": "The factor at the end.",
    }


@pytest.mark.parametrize("family", catalog.FAMILIES)
def test_everything_can_be_explained_and_every_setting_has_help(invoke, family):
    for term in catalog.terms(family):
        (entry,) = invoke("explain", term, "--family", family, "--json").json["methods"]
        assert entry["docstring"]
        for setting in entry["settings"]:
            assert setting["help"], (family, term, setting["name"])
            assert setting["type"]


def test_a_term_of_several_families_is_explained_in_each(invoke):
    shared = [t for t in catalog.terms("step") if t in catalog.terms("measure")]
    terms = {term for family in catalog.FAMILIES for term in catalog.terms(family)}
    for term in shared or sorted(terms)[:1]:
        families = [family for family in catalog.FAMILIES if term in catalog.terms(family)]
        assert [e["family"] for e in invoke("explain", term, "--json").json["methods"]] == families


def test_human_form(invoke):
    lines = invoke("explain", "lora").out.splitlines()
    assert lines[0] == "lora  adapt"
    assert any(line.split()[:3] == ["setting", "type", "default"] for line in lines)
    assert any(line.startswith("  rank ") for line in lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["losa"], "There is no method 'losa'. Did you mean 'lora'"),
        (["schedule"], "'schedule' is a family, not a method. posttrain list schedule shows its methods."),
        (["my.module:Mine"], "'my.module:Mine' is a class of your own. Say with --family what it is."),
        (["lora", "--family", "adapter"], "There is no family 'adapter'. Did you mean 'adapt'?"),
    ],
)
def test_bad_requests(invoke, words, sentence):
    assert sentence in invoke("explain", *words).refused(2)
