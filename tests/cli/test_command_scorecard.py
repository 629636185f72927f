"""`posttrain scorecard`."""

from __future__ import annotations

import pytest

FEW = ["--limit", 3, "--set", "dimensions.toxicity.samples=1", "--set", "dimensions.toxicity.max_new_tokens=2"]


@pytest.fixture
def other(model, tmp_path):
    """A second saved model, with other weights."""
    from posttrain.models.saving import save
    from tiny_models import make_tiny_llama

    save(make_tiny_llama(seed=1), tmp_path / "other")
    return tmp_path / "other"


def test_json(invoke, model, other, tmp_path):
    words = ["scorecard", model, other, "--dimensions", "accuracy", "toxicity", *FEW, "--json"]
    found = invoke(*words, "--out", tmp_path / "page.html").json
    assert list(found["models"]) == [str(model), str(other)]
    for dimensions in found["models"].values():
        assert list(dimensions) == ["accuracy", "toxicity"]
        assert dimensions["accuracy"]["handbook_quiz"]["n"] == 3
        assert dimensions["toxicity"]["flagged_share"]["n"] == 3
        keys = {"value", "interval", "n", "unit", "better", "goal", "by_chance"}
        assert keys <= dimensions["accuracy"]["handbook_quiz"].keys()
    assert found["best"]["accuracy"] == {"handbook_quiz": None}
    assert found["how"]["toxicity"].startswith("1 continuations of 3 prompts, 2 tokens")
    assert found["out"] == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"posttrain scorecard {model} {other} --dimensions accuracy toxicity --limit 3" in page
    assert "--set dimensions.toxicity.samples=1" in page


def test_human_form(invoke, model, other):
    ran = invoke(
        "scorecard", model, other, "--tasks", "handbook_quiz", "--dimensions", "accuracy", "fairness", *FEW[:2]
    )
    lines = ran.out.splitlines()
    assert lines[0].split() == ["figure", "model", "other", "better", "by", "chance", "items"]
    assert lines[1].startswith("accuracy: handbook quiz") and lines[1].split()[-3:] == ["higher", "0.25", "3"]
    assert any(line.startswith("fairness: gender swap drop") and "–" in line for line in lines)
    assert any(line.startswith("fairness  Who asks") for line in lines)
    assert "Scorecard: done" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tasks", "handbok_quiz"], "There is no task 'handbok_quiz'. Did you mean 'handbook_quiz'?"),
        (["--dimensions", "acuracy"], "Did you mean 'accuracy'?"),
        (["--limit", "0"], "'scorecard.limit' doesn't fit"),
        (["--set", "dimensions.bias.pears=x"], "Unknown key 'scorecard.dimensions.bias.pears'"),
        (["--data", "nowhere", "--tasks", "boolq"], "There is no data folder nowhere"),
        (["--out", "card.txt"], "card.txt isn't named .html"),
        (["--out", f"{__file__}/card.html"], "test_command_scorecard.py is no folder"),
    ],
)
def test_refusals(invoke, model, words, sentence):
    assert sentence in invoke("scorecard", model, *words, "--json").refused(2)


def test_dimensions_are_listed_and_explained(invoke):
    listed = invoke("list", "dimension", "--json").json["methods"]
    assert {"accuracy", "calibration", "robustness", "fairness", "bias", "toxicity", "efficiency"} <= {
        entry["term"] for entry in listed
    }
    (entry,) = invoke("explain", "fairness", "--json").json["methods"]
    assert {"askers", "group", "positive"} <= {setting["name"] for setting in entry["settings"]}
