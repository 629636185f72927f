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


def test_what_comes_as_yaml(invoke, tmp_path):
    """A task, a member of one, a suite, a file; a name that a method has too is explained in both."""
    (entry,) = invoke("explain", "boolq-contrast", "--json").json["methods"]
    assert (entry["family"], entry["score"]) == ("task", "acc_changed")
    (member,) = invoke("explain", "mmlu_anatomy", "--json").json["methods"]
    assert member["members"] == {"stem": ["anatomy"]}
    lines = invoke("explain", "sentiment").out.splitlines()
    assert lines[0] == "sentiment  suite"
    assert any(line.split()[:4] == ["test", "capability", "kind", "cases"] for line in lines)
    families = [each["family"] for each in invoke("explain", "code", "--json").json["methods"]]
    assert families == ["task_type", "preset"]
    (tmp_path / "own.yaml").write_text("use: Short.\nsearch: {greedy: {}}\n")
    (own,) = invoke("explain", tmp_path / "own.yaml", "--family", "preset", "--json").json["methods"]
    assert own["summary"] == "Short."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["losa"], "There is no method 'losa'. Did you mean 'lora'"),
        (["schedule"], "'schedule' is a family, not a method. posttrain list schedule shows its methods."),
        (["my.module:Mine"], "'my.module:Mine' is a class of your own. Say with --family what it is."),
        (["multirk"], "There is no method 'multirk'. Did you mean 'multirc'"),
        (["suite"], "'suite' is a family, not a method. posttrain list suite shows its methods."),
        (["own.yaml"], "'own.yaml' is a file of your own. Say with --family what it is."),
        (["none.yaml", "--family", "task"], "There is no task file none.yaml"),
        (["lora", "--family", "adapter"], "There is no family 'adapter'. Did you mean 'adapt'?"),
    ],
)
def test_bad_requests(invoke, words, sentence):
    assert sentence in invoke("explain", *words).refused(2)
