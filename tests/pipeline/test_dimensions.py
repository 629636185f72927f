"""Dimensions of a scorecard: the contract on every one there is, and their figures by hand on models made of rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.bench import runner, task
from posttrain.bench.likelihood import Likelihood
from posttrain.bench.task_types import continuation, multiple_choice
from posttrain.core import catalog, events
from posttrain.core.errors import BadRequest
from posttrain.core.files import jsonable
from posttrain.models.saving import save
from posttrain.pipeline.dimensions import Asked, Assessment, Candidate, Exam, efficiency, toxicity
from posttrain.pipeline.report import render_report

TERMS = catalog.terms("dimension")

HEAD = """\
summary: A test.
version: "1"
license: free
homepage: https://example.org
data: {test: [{files: ["NAME.jsonl"]}]}
split: test
"""
CHOICE = """\
type:
  multiple_choice: {prompt: "{{ question }}", choices: ["yes", "no"], answer: answer}
"""
WRITTEN = """\
type:
  generative: {prompt: "{{ question }}", answer: "{{ answer }}", max_new_tokens: 2}
"""
CONTINUED = """\
type:
  continuation: {prompt: "{{ question }}", continuation: "{{ answer }}", metrics: [perplexity]}
"""


@pytest.fixture
def exam(tmp_path: Path) -> Callable[..., Exam]:
    """Makes an exam of tasks, each given by its items and type."""

    def make(*tasks: tuple[list[dict[str, Any]], str], data: Path | None = None) -> Exam:
        plans = []
        for number, (rows, type_) in enumerate(tasks):
            name = f"own{number}"
            (tmp_path / f"{name}.yaml").write_text(HEAD.replace("NAME", name) + type_)
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            task.read.cache_clear()
            plans += runner.prepare([str(tmp_path / f"{name}.yaml")], tmp_path)
        return Exam(plans, data, None, 0, 1024, 16)

    return make


@pytest.fixture
def ruled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, str], float]], None]:
    """Puts a rule for log-likelihoods in the model's place."""

    def put(logprob: Callable[[str, str], float]) -> None:
        def likelihoods(model: object, pairs: list[tuple[str, str]], tokens_per_pass: int = 0) -> list[Likelihood]:
            return [Likelihood(logprob(*pair), False, 1, 0) for pair in pairs]

        for module in (multiple_choice, continuation):
            monkeypatch.setattr(module, "likelihoods", likelihoods)

    return put


def saying(answer: Callable[[str], str], sure: float = 0.8) -> Callable[[str, str], float]:
    """The rule of a model that gives one of two choices the probability `sure` and the other one the rest."""
    return lambda context, choice: math.log(sure if choice.strip() == answer(context) else 1 - sure)


def assessed(block: Any, exam: Exam, model: Any) -> Assessment:
    dimension = catalog.build("dimension", block)
    plans = dimension.plans(exam)
    results = {key: runner.evaluate(model, [plan])[plan.name] for key, plan in plans.items()}
    asked = {key: Asked(plans[key], results[key]) for key in plans}
    found: Assessment = dimension.assess(Candidate("tiny", model, exam), asked)
    return found


def values(found: Assessment) -> dict[str, float | None]:
    return {name: entry.value for name, entry in found.entries.items()}


FOUR = [{"question": f"Is it {i}?", "answer": i % 2} for i in range(4)]  # yes, no, yes, no


# The contract.


@pytest.mark.parametrize("type_", [CHOICE, WRITTEN, CONTINUED])
@pytest.mark.parametrize("term", TERMS)
def test_every_dimension(term, type_, exam, tiny_llama):
    """Each figure has a value or a reason; what is asked is the same every time; all of it can be kept and shown."""
    given = exam((FOUR, type_))
    dimension = catalog.build("dimension", term)
    plans = dimension.plans(given)
    assert {key: plan.signature for key, plan in dimension.plans(given).items()} == {
        key: plan.signature for key, plan in plans.items()
    }
    json.dumps(dimension.inputs(given))
    found = assessed(term, given, tiny_llama)
    assert found.entries and re.search(r"[.)]$", found.how)
    for name, entry in found.entries.items():
        assert name == name.lower() and " " not in name
        assert (entry.value is None) == bool(entry.reason), name
        assert entry.better in ("higher", "lower") or entry.goal is not None, name
        if entry.value is not None:
            assert math.isfinite(entry.value) and (entry.n > 0 or entry.exact), name
            assert entry.interval is None or entry.interval[0] <= entry.interval[1]
        if entry.unit == "share" and entry.value is not None:
            assert 0 <= entry.value <= 1
    details = jsonable(found.details)
    assert json.loads(json.dumps(details)) == details
    page = render_report({"steps": [{"views": dimension.views({"tiny": details})}]})
    assert page.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("term", TERMS)
def test_it_is_measured_alike_twice(term, exam, tiny_llama):
    """But for what depends on the machine's mood."""
    given = exam((FOUR, CHOICE))
    first, second = (values(assessed(term, given, tiny_llama)) for _ in range(2))
    lasting = [name for name in first if "second" not in name and "watt" not in name]
    assert first.keys() == second.keys() and lasting
    assert [first[name] for name in lasting] == [second[name] for name in lasting]


# Accuracy.


def test_tasks_weigh_alike(exam, ruled, tiny_llama):
    """Always yes: 2 of 4 and 1 of 1. The mean of the tasks is 0.75; 3 of 5 items would be 0.6."""
    ruled(saying(lambda _: "yes"))
    found = assessed("accuracy", exam((FOUR, CHOICE), (FOUR[:1], CHOICE)), tiny_llama)
    assert values(found) == {"own0": 0.5, "own1": 1.0, "mean": 0.75}
    assert [entry.by_chance for entry in found.entries.values()] == [0.5, 0.5, 0.5]
    assert found.entries["mean"].n == 5


def test_a_perplexity_stands_by_itself(exam, ruled, tiny_llama):
    """Nats 1 and 3: exp(2)."""
    ruled(lambda context, _: -1.0 if "0" in context else -3.0)
    rows = [{"question": f"number {i}", "answer": "x"} for i in range(2)]
    found = assessed("accuracy", exam((rows, CONTINUED), (FOUR, CHOICE)), tiny_llama)
    assert found.entries["own0"].value == pytest.approx(math.exp(2))
    assert (found.entries["own0"].better, found.entries["own0"].unit) == ("lower", "perplexity")
    assert "mean" not in found.entries


def test_a_score_that_is_no_mean(exam, ruled, tiny_llama):
    """Matthews' correlation of answers right but for one of four: TP 2, TN 1, FP 1: 2 / sqrt(3 * 2 * 2 * 1)."""
    ruled(saying(lambda context: "yes" if "1" in context or "0" in context or "2" in context else "no"))
    type_ = CHOICE + "corpus_metrics: {mcc: {classification: {score_by: mcc}}}\nscore: mcc\n"
    given = exam((FOUR, type_))
    found = assessed("accuracy", given, tiny_llama)
    assert found.entries["own0"].value == pytest.approx(2 / math.sqrt(12))
    assert found.entries["own0"].unit == "mcc"
    # The others take the type's own metric.
    assert assessed({"robustness": {"perturbations": ["case"]}}, given, tiny_llama).entries["case"].value == 0.75


# Calibration.


def test_calibration_by_hand(exam, ruled, tiny_llama):
    """Yes with 0.8, right in half of four: error 0.3; Brier 0.08 where right and 1.28 where not, 0.68 in the mean."""
    ruled(saying(lambda _: "yes"))
    found = assessed("calibration", exam((FOUR, CHOICE)), tiny_llama)
    assert values(found) == pytest.approx({"expected_error": 0.3, "brier_score": 0.68, "overconfidence": 0.3})
    assert found.entries["brier_score"].by_chance == pytest.approx(0.5)
    # Four of 0.8 in one bin: sum over k of Bin(4, 0.8)(k) |k / 4 - 0.8| is 0.16384.
    assert found.entries["expected_error"].by_chance == pytest.approx(0.16384, abs=0.015)
    (bin_,) = found.details["reliability"]
    assert (bin_["count"], bin_["accuracy"]) == (4, 0.5) and bin_["confidence"] == pytest.approx(0.8)
    assert "as they are" in found.how
    (view,) = catalog.build("dimension", "calibration").views({"a": found.details, "b": {}})
    assert view["series"] == {"calibrated": [[0, 0], [1, 1]], "a": [[pytest.approx(0.8), 0.5]]}


def test_probabilities_by_the_tasks_own_metric(exam, ruled, tiny_llama):
    """Per character log 0.8 / 3 and log 0.2 / 2; of whole likelihoods 0.8."""
    ruled(saying(lambda _: "yes"))
    given = exam((FOUR, CHOICE.replace("answer: answer", "answer: answer, metrics: [acc_norm]")))
    by_length = assessed("calibration", given, tiny_llama)
    whole = assessed({"calibration": {"scores": "sum"}}, given, tiny_llama)
    sure = 1 / (1 + math.exp(math.log(0.2) / 2 - math.log(0.8) / 3))
    assert by_length.entries["overconfidence"].value == pytest.approx(sure - 0.5)
    assert whole.entries["overconfidence"].value == pytest.approx(0.3)
    assert "per character" in by_length.how and "as they are" in whole.how


# Robustness.


def test_robustness_by_hand(exam, ruled, tiny_llama):
    """Right while a capital stands in the question, else no: 4 of 4, then 2 of 4, and both of yes flip."""
    right = {row["question"].lower(): ["yes", "no"][row["answer"]] for row in FOUR}
    ruled(saying(lambda context: right[context.lower()] if context != context.lower() else "no"))
    found = assessed({"robustness": {"perturbations": ["case", "contractions"]}}, exam((FOUR, CHOICE)), tiny_llama)
    assert values(found) == {
        "case": 0.5,
        "case_drop": 0.5,
        "case_flips": 0.5,
        "contractions": 1.0,
        "contractions_drop": None,
        "contractions_flips": None,
        "worst_case": 0.5,
    }
    assert found.entries["contractions_drop"].reason == "it changes no item"


def test_drop_and_flips_are_of_changed_items(exam, ruled, tiny_llama):
    """One question of four has a capital: drop and flips are of this one, accuracy of all four."""
    rows = [{"question": "IS IT?" if i == 0 else f"is it {i}?", "answer": 0} for i in range(4)]
    ruled(saying(lambda context: "yes" if context != "is it?" else "no"))
    found = assessed({"robustness": {"perturbations": ["case"]}}, exam((rows, CHOICE)), tiny_llama)
    assert values(found) == {"case": 0.75, "case_drop": 1.0, "case_flips": 1.0, "worst_case": 0.75}
    assert [found.entries[name].n for name in ("case", "case_drop", "case_flips")] == [4, 1, 1]


def test_several_perturbations_of_a_kind(exam, tiny_llama):
    block = {"robustness": {"perturbations": [{"case": {"to": "lower"}}, {"case": {"to": "upper"}}]}}
    found = assessed(block, exam((FOUR, CHOICE)), tiny_llama)
    assert {"case", "case_2", "case_2_drop"} <= found.entries.keys()


def test_a_task_that_can_not_be_changed_is_left_out(exam, tiny_llama):
    blank = CHOICE.replace('"{{ question }}"', '""')
    found = assessed("robustness", exam((FOUR, CHOICE), (FOUR, blank)), tiny_llama)
    assert "Left out: own1." in found.how and found.entries["worst_case"].n == 4
    alone = assessed("robustness", exam((FOUR, blank)), tiny_llama)
    assert list(alone.entries) == ["worst_case"] and "no task has a text" in alone.entries["worst_case"].reason


# Fairness.


def test_who_asks(exam, ruled, tiny_llama):
    """Right for David, always no for Emily: 1 against 0.5, and the two questions with yes change their answer."""
    right = {row["question"]: ["yes", "no"][row["answer"]] for row in FOUR}
    ruled(saying(lambda context: right[context.split("\n")[-1]] if "Emily" not in context else "no"))
    block = {"fairness": {"askers": {"women": ["Emily"], "men": ["David"]}}}
    found = assessed(block, exam((FOUR, CHOICE)), tiny_llama)
    assert values(found)["askers_worst"] == 0.5
    assert values(found)["askers_gap"] == 0.5 and values(found)["askers_flips"] == 0.5
    # Two items with 0 and 1 to be exchanged: B of them one way round, |2 B - 2| / 4 is 0.25 in the mean.
    assert found.entries["askers_gap"].by_chance == pytest.approx(0.25, abs=0.06)


def test_names_go_round(exam, tiny_llama):
    block = {"fairness": {"askers": {"a": ["Ann", "Bea"], "b": ["Ed", "Jo"]}, "asking": "{name}: "}}
    dimension = catalog.build("dimension", block)
    plan = dimension.plans(exam((FOUR, CHOICE)))["own0~by_a"]
    assert [question.preamble for question in plan.parts[0].questions] == ["Ann: ", "Bea: ", "Ann: ", "Bea: "]


def test_swapped_people(exam, ruled, tiny_llama):
    """Yes for him and no for her: of two questions that mention anybody, both turn."""
    rows = [{"question": text, "answer": 0} for text in ("is he tall?", "is she tall?", "is it tall?")]
    ruled(saying(lambda context: "no" if " she " in context else "yes"))
    found = assessed("fairness", exam((rows, CHOICE)), tiny_llama)
    assert found.entries["gender_swap_flips"].value == 1.0 and found.entries["gender_swap_flips"].n == 2
    assert found.entries["gender_swap_drop"].value == 0.0  # one is lost and one is gained


KINDS = [
    {"question": f"{kind} {i}?", "answer": answer, "kind": kind}
    for kind, answers in (("red", (0, 0, 1)), ("blue", (0, 1, 1)))
    for i, answer in enumerate(answers)
]


def test_groups_of_items(exam, ruled, tiny_llama):
    """Yes to red and no to blue: both are right in 2 of 3, and yet all of the one get the good outcome and none of the
    other: parity gap 1; of those that deserve it 2 of 2 and 0 of 1."""
    ruled(saying(lambda context: "yes" if "red" in context else "no"))
    block = {"fairness": {"askers": {}, "group": "kind", "positive": "choice == 'yes'"}}
    found = assessed(block, exam((KINDS, CHOICE)), tiny_llama)
    assert values(found) == pytest.approx(
        {
            "askers_gap": None,
            "gender_swap_drop": None,
            "gender_swap_flips": None,
            "groups_worst": 2 / 3,
            "groups_gap": 0.0,
            "groups_overconfidence_gap": 0.0,
            "demographic_parity_gap": 1.0,
            "equal_opportunity_gap": 1.0,
        }
    )
    assert found.entries["equal_opportunity_gap"].n == 3
    assert "blue, red" in found.how


def test_members_are_groups(tmp_path, ruled, tiny_llama):
    for name, answer in (("first", 0), ("second", 1)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": "is it?", "answer": answer}) + "\n")
    (tmp_path / "own.yaml").write_text(HEAD.replace("NAME", "{member}") + CHOICE + "members: {all: [first, second]}\n")
    task.read.cache_clear()
    ruled(saying(lambda _: "yes"))
    plans = runner.prepare([str(tmp_path / "own.yaml")], tmp_path)
    found = assessed("fairness", Exam(plans, None, None, 0, 1024, 16), tiny_llama)
    assert values(found)["groups_gap"] == 1.0 and values(found)["groups_worst"] == 0.0
    assert values(found)["demographic_parity_gap"] is None
    assert "`positive`" in found.entries["demographic_parity_gap"].reason


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"askers": {"women": ["Ann"]}}, "at least two groups"),
        ({"askers": {"women": [], "men": ["Ed"]}}, "at least two groups"),
        ({"asking": "Somebody asks:"}, "{name} must stand in it"),
        ({"group": "kind )"}, "not a template"),
    ],
)
def test_wrong_settings_of_fairness(settings, sentence):
    with pytest.raises(BadRequest, match=re.escape(sentence)):
        catalog.build("dimension", {"fairness": settings})


def test_an_unknown_column_is_named(exam, tiny_llama):
    with pytest.raises(BadRequest, match=r"fairness\.group.*kin"):
        assessed({"fairness": {"group": "kin"}}, exam((KINDS, CHOICE)), tiny_llama)


# Bias.


def test_a_plain_preference_for_a_pronoun_cancels(exam, ruled, tiny_llama):
    ruled(lambda _, sentence: -1.0 if re.search(r"\b(she|her)\b", sentence) else -2.0)
    found = assessed("bias", exam((FOUR, CHOICE)), tiny_llama)
    assert values(found) == {"stereotype_share": 0.5, "stereotype_nats": 0.0}
    assert found.entries["stereotype_share"].n == 24 and found.entries["stereotype_share"].goal == 0.5


def test_a_model_full_of_prejudice_and_one_without(exam, ruled, tiny_llama):
    """Women nurse and men repair: 1.5 nats for each stereotype. Equal likelihoods count half."""
    path = Path(task.__file__).parent / "builtin" / "stereotype_pairs.jsonl"
    stereotypes = {json.loads(line)["stereotype"] for line in path.read_text().splitlines()}
    assert len(stereotypes) == 24
    ruled(lambda _, sentence: -10.0 if sentence in stereotypes else -11.5)
    assert values(assessed("bias", exam((FOUR, CHOICE)), tiny_llama)) == {
        "stereotype_share": 1.0,
        "stereotype_nats": pytest.approx(1.5),
    }
    ruled(lambda _, sentence: -10.0)
    assert values(assessed("bias", exam((FOUR, CHOICE)), tiny_llama))["stereotype_share"] == 0.5


def test_built_in_pairs_differ_in_the_pronoun_alone():
    path = Path(task.__file__).parent / "builtin" / "stereotype_pairs.jsonl"
    pronouns = {"she": "he", "he": "she", "her": "his", "his": "her"}
    kinds = []
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        kinds.append(pair["category"])
        swapped = re.sub(r"\b(she|he|her|his)\b", lambda match: pronouns[match[0]], pair["stereotype"])
        assert swapped == pair["opposite"] != pair["stereotype"]
        assert (pair["category"] == "women") == bool(re.search(r"\b(she|her)\b", pair["stereotype"]))
    assert kinds.count("women") == kinds.count("men") == 12


CROWS_KINDS = (
    *("age", "disability", "gender", "nationality", "physical-appearance", "race-color", "religion"),
    *("sexual-orientation", "socioeconomic"),
)


def test_crows_pairs_where_the_folder_has_them(exam, ruled, tiny_llama, tmp_path):
    """One pair a kind; the stereotype is likelier but for gender: 8 of 9."""
    folder = tmp_path / "data" / "crows-pairs"
    folder.mkdir(parents=True)
    head = ",sent_more,sent_less,stereo_antistereo,bias_type\n"
    rows = [f"{i},More {kind}.,Less {kind}.,stereo,{kind}\n" for i, kind in enumerate(CROWS_KINDS)]
    (folder / "crows_pairs_anonymized.csv").write_text(head + "".join(rows))
    ruled(lambda _, sentence: -1.0 if ("More" in sentence) != ("gender" in sentence) else -2.0)
    found = assessed("bias", exam((FOUR, CHOICE), data=tmp_path / "data"), tiny_llama)
    assert values(found)["stereotype_share"] == pytest.approx(8 / 9)
    assert found.details["kinds"]["gender"] == {"share": 0.0, "n": 1}
    (view,) = catalog.build("dimension", "bias").views({"a": found.details})
    assert ["gender", 0.0, 1] in view["rows"] and len(view["rows"]) == 9


def test_without_them_the_built_in_pairs_stand_in(exam, tiny_llama, tmp_path):
    (tmp_path / "data").mkdir()
    said = []
    with events.listen(lambda event: said.append(event.name)):
        plans = catalog.build("dimension", "bias").plans(exam((FOUR, CHOICE), data=tmp_path / "data"))
    assert list(plans) == ["stereotype_pairs"]
    assert any("crows_pairs" in text and "stereotype_pairs stands in" in text for text in said)


# Toxicity.


def writing(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    written = [SimpleNamespace(text=text, sample=0) for text in texts]
    monkeypatch.setattr(toxicity, "generate", lambda *_, **__: SimpleNamespace(generations=written))


def test_flags_by_hand(exam, monkeypatch, tiny_llama):
    """One of four continuations, so one of two prompts."""
    writing(monkeypatch, ["went home.", "said: I will kill you.", "sang.", ""])
    block = {"toxicity": {"prompts": ["They", "He"], "samples": 2}}
    found = assessed(block, exam((FOUR, CHOICE)), tiny_llama)
    assert values(found) == {"flagged_share": 0.25, "flagged_prompts": 0.5}
    assert found.details["flagged"] == [["They", "said: I will kill you."]]
    assert "content_filter" in found.how and "0 proves nothing" in found.how
    (view,) = catalog.build("dimension", block).views({"a": found.details})
    assert view["rows"] == [["They", "said: I will kill you."]]


def test_expected_maximum(exam, monkeypatch, tiny_llama):
    """The highest of 0.1 and 0.9, and of 0.2 and an empty text, which is 0: (0.9 + 0.2) / 2."""
    writing(monkeypatch, ["a", "b", "c", " "])
    shares = {"a": 0.1, "b": 0.9, "c": 0.2}
    monkeypatch.setattr(toxicity, "load", lambda reference: reference)
    monkeypatch.setattr(
        toxicity,
        "classify",
        lambda _, texts: [SimpleNamespace(probabilities={"Toxic": shares[t], "fine": 1 - shares[t]}) for t in texts],
    )
    settings = {"prompts": ["They", "He"], "samples": 2, "classifier": "some"}
    found = assessed({"toxicity": settings}, exam((FOUR, CHOICE)), tiny_llama)
    assert found.entries["expected_maximum"].value == pytest.approx(0.55)
    with pytest.raises(BadRequest, match="no label that means toxic; it has 'Toxic', 'fine'"):
        assessed({"toxicity": {**settings, "labels": ["rude"]}}, exam((FOUR, CHOICE)), tiny_llama)


def prompts_of(block: Any, exam: Exam) -> list[str]:
    found: list[str] = catalog.build("dimension", block)._prompts(exam)
    return found


def test_prompts(exam, tmp_path):
    """Built-in ones, spread evenly; from the data folder where it has them; a set of one's own."""
    given = exam((FOUR, CHOICE))
    every = prompts_of({"toxicity": {"limit": None}}, given)
    assert len(every) == len(set(every)) == 20
    assert prompts_of({"toxicity": {"limit": 4}}, given) == every[::5]
    assert prompts_of("toxicity", replace(given, limit=2)) == every[::10]
    folder = tmp_path / "data"
    (folder / "realtoxicity").mkdir(parents=True)
    (folder / "realtoxicity" / "real_toxicity_samples.csv").write_text(
        ",context,sample\n0,So he,x\n1,So he,y\n2,And,z\n"
    )
    (folder / "bold").mkdir()
    (folder / "bold" / "gender_prompt.json").write_text(json.dumps({"a": {"b": ["One ", "Two"]}, "c": {"d": ["One"]}}))
    given = replace(given, data=folder)
    assert prompts_of("toxicity", given) == ["So he", "And"]
    assert prompts_of({"toxicity": {"prompts": "bold"}}, given) == ["One", "Two"]
    (tmp_path / "own.txt").write_text("First\nSecond\n")
    assert prompts_of({"toxicity": {"prompts": str(tmp_path / "own.txt")}}, given) == ["First", "Second"]


def test_prompts_of_the_authors_file(exam, tmp_path):
    (tmp_path / "data" / "realtoxicityprompts").mkdir(parents=True)
    path = tmp_path / "data" / "realtoxicityprompts" / "prompts.jsonl"
    path.write_text('{"prompt": {"text": "So they", "toxicity": 0.1}}\n')
    given = exam((FOUR, CHOICE), data=tmp_path / "data")
    assert prompts_of("toxicity", given) == ["So they"]
    path.write_text('{"prompt": {"toxicity": 0.1}}\n')
    with pytest.raises(BadRequest, match=r"prompts.jsonl:1: there is no text in 'prompt'"):
        prompts_of("toxicity", given)


def test_refusals_of_toxicity(exam):
    with pytest.raises(BadRequest, match="There is no bold below a data folder, because none is given"):
        prompts_of({"toxicity": {"prompts": "bold"}}, exam((FOUR, CHOICE)))
    with pytest.raises(BadRequest, match="memorization doesn't look at texts"):
        catalog.build("dimension", {"toxicity": {"guards": [{"memorization": {"canaries": "x.jsonl"}}]}})


# Efficiency.


def test_costs_by_hand(exam, monkeypatch, tiny_llama, tmp_path):
    """2 runs of 5 tokens took 2e-6 kWh: 2e-3 Wh for 10 tokens, 0.2 Wh for 1000."""
    monkeypatch.setattr(efficiency, "writing_runs", lambda *_: [10.0, 20.0])
    monkeypatch.setattr(efficiency, "reading_runs", lambda *_: [300.0, 100.0])

    class Meter:
        def __enter__(self) -> Meter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> Any:
            return SimpleNamespace(kwh=2e-6, how="measured", to_dict=dict)

    monkeypatch.setattr(efficiency.energy, "Meter", Meter)
    block = {"efficiency": {"new_tokens": 5, "repeats": 2}}
    found = assessed(block, exam((FOUR, CHOICE)), tiny_llama)
    entries = found.entries
    assert values(found)["watt_hours_per_1000_tokens"] == pytest.approx(0.2)
    assert (entries["new_tokens_per_second"].value, entries["new_tokens_per_second"].interval) == (20.0, (10.0, 20.0))
    assert (entries["read_tokens_per_second"].value, entries["read_tokens_per_second"].interval) == (300.0, (100, 300))
    assert entries["parameters"].value == 93_248
    assert entries["memory_bytes"].value == tiny_llama.nbytes()
    assert entries["disk_bytes"].value is None and "folder of its own" in entries["disk_bytes"].reason
    assert "measured" in found.how
    save(tiny_llama, tmp_path / "model")
    tiny_llama.folder = tmp_path / "model"
    size = sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    assert values(assessed(block, exam((FOUR, CHOICE)), tiny_llama))["disk_bytes"] == size > 4 * 93_248


def test_seconds_an_item(exam, tiny_llama):
    given = exam((FOUR, CHOICE), (FOUR[:2], CHOICE))
    dimension = catalog.build("dimension", {"efficiency": {"new_tokens": 2, "repeats": 1, "prompt_tokens": 500}})
    plans = dimension.plans(given)
    results = {key: replace(runner.evaluate(tiny_llama, [plan])[plan.name], seconds=3.0) for key, plan in plans.items()}
    asked = {key: Asked(plans[key], results[key]) for key in plans}
    found = dimension.assess(Candidate("tiny", tiny_llama, given), asked)
    assert found.entries["seconds_per_item"].value == pytest.approx(1.0)
    assert found.entries["read_tokens_per_second"].value > 0  # the prompt is cut to what the model can read
