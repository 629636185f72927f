"""The step `distill`: teacher, student and baseline measured, the teacher untouched, interrupted and continued."""

from __future__ import annotations

import json

import pytest
import torch

from posttrain.core.errors import BadRequest, Interrupted
from posttrain.data import dataset
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.sources import load
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.speed import pass_tokens_per_second
from posttrain.pipeline.steps import distill
from posttrain.pipeline.steps.distill import Distill
from posttrain.train import loop
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling
from tiny_models import make_tiny_tokenizer

MEASURED = {"loss", "perplexity", "parameters", "bytes", "tokens_per_second"}


@pytest.fixture
def folder(tiny_llama, tmp_path):
    """A saved tiny teacher of two blocks, and questions."""
    save(tiny_llama, tmp_path / "model")
    for name, numbers in (("data", range(20)), ("held", range(20, 26))):
        rows = [{"prompt": f"What is {i}?", "completion": f" It is {i}."} for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def settings(folder, **more):
    shared = {"student": "layers:1", "data": str(folder / "data.jsonl"), "steps": 6, "batch_size": 4}
    return {**shared, "learning_rate": 0.005, **more}


def test_teacher_student_and_baseline(folder, tiny_llama):
    """What is measured is what the saved student shows; the teacher is unchanged bit for bit."""
    before = tiny_llama.fingerprint()
    given = settings(folder, validation=str(folder / "held.jsonl"))
    outcome = single_step("distill", given, tiny_llama, out=folder / "out")
    result = outcome.result
    assert tiny_llama.fingerprint() == before and not tiny_llama.network.training
    assert all(parameter.grad is None for parameter in tiny_llama.network.parameters())
    for name in ("teacher", "student", "baseline"):
        assert result[name].keys() == MEASURED and result[name]["tokens_per_second"] > 0
    assert result["student"]["parameters"] == 56256 == result["baseline"]["parameters"]
    assert result["student"]["loss"] != result["baseline"]["loss"]
    assert result["gained_loss"] == result["baseline"]["loss"] - result["student"]["loss"]
    assert result["metric"] == "perplexity"
    assert result["retained"] == result["teacher"]["perplexity"] / result["student"]["perplexity"]
    assert result["size_ratio"] == result["teacher"]["bytes"] / result["student"]["bytes"] > 1.5
    assert result["measured_on"] == "validation data" and result["steps"] == 6
    assert [entry["step"] for entry in result["history"]["student"]] == [1, 2, 3, 4, 5, 6]
    assert "response" in result["history"]["student"][0] and "response" not in result["history"]["baseline"][0]
    # Both begin with the same student and the same batch.
    first = [result["history"][name][0] for name in ("student", "baseline")]
    assert first[0]["task_loss"] == pytest.approx(first[1]["loss"], rel=1e-6)
    assert [view["kind"] for view in outcome.views] == ["curve", "table", "scatter", "note"]

    student = load(str(folder / "out"), device="cpu")
    task = LanguageModeling()
    items = task.encode(dataset.read(str(folder / "held.jsonl")), student, Encoding(max_length=128))
    found = loop.evaluate(student.network, task, [task.collate(items)])
    assert found["loss"] == pytest.approx(result["student"]["loss"], rel=1e-5)
    assert student.card["parents"][0]["name"] == "tiny" and student.network.config.num_hidden_layers == 1


def test_the_baseline_is_plain_training_of_the_same_student(folder, tiny_llama):
    """The baseline's numbers are those of the `train` step on the student as it was before."""
    from posttrain.distill.student import build

    result = single_step("distill", settings(folder, validation=str(folder / "held.jsonl")), tiny_llama).result
    student = build("layers:1", tiny_llama, lambda reference: tiny_llama)
    plain = {key: value for key, value in settings(folder).items() if key != "student"}
    trained = single_step("train", {**plain, "adapt": "full", "validation": str(folder / "held.jsonl")}, student).result
    assert trained["validation_loss_after"] == pytest.approx(result["baseline"]["loss"], rel=1e-6)
    assert trained["first_loss"] == pytest.approx(result["history"]["baseline"][0]["loss"], rel=1e-6)


def test_part_of_the_data_is_held_out(folder, tiny_llama):
    result = single_step("distill", settings(folder, baseline=False), tiny_llama).result
    assert result["measured_on"] == "held-out part of the data" and "baseline" not in result
    result = single_step("distill", settings(folder, baseline=False, held_out=0.0), tiny_llama).result
    assert result["measured_on"] == "training data"


@pytest.mark.parametrize(("stopped", "adapt"), [("student", "full"), ("baseline", "full"), ("baseline", "lora")])
def test_an_interrupted_call_goes_on(folder, stopped, adapt, monkeypatch):
    """Ctrl-C in either training: what is finished isn't done again, and the outcome is the uninterrupted one's."""
    losses = [{"response": {}}, {"feature": {"project": "always"}}]
    given = settings(folder, checkpoint_every=1, losses=losses, adapt=adapt)
    whole = single_step("distill", given, str(folder / "model"), out=folder / "whole").result
    started: list[str] = []

    def watched(*arguments, name, **more):
        started.append(name)
        return loop.train(*arguments, name=name, **more)

    monkeypatch.setattr(distill, "train", watched)
    steps = loop._Run.take_step

    def interrupted(run):
        if started[-1].endswith(stopped) and run.step == 3:
            run.save_checkpoint()
            raise Interrupted("Interrupted.", "")
        return steps(run)

    monkeypatch.setattr(loop._Run, "take_step", interrupted)
    with pytest.raises(Interrupted):
        single_step("distill", given, str(folder / "model"), out=folder / "out")
    monkeypatch.setattr(loop._Run, "take_step", steps)
    taken = []
    monkeypatch.setattr(loop._Run, "take_step", lambda run: (taken.append(started[-1]), steps(run))[1])
    started.clear()
    resumed = single_step("distill", given, str(folder / "model"), out=folder / "out", resume=True).result
    assert started == (["Distill: student"] if stopped == "student" else []) + ["Distill: baseline"]
    assert len(taken) == (3 + 6 if stopped == "student" else 3)
    for name in ("student", "baseline"):
        assert resumed[name]["loss"] == whole[name]["loss"]
        keys = ("step", "loss", "gradient_norm")
        first, second = ([[e[k] for k in keys] for e in found["history"][name]] for found in (resumed, whole))
        assert first == second
    found, expected = (load(str(folder / name), device="cpu").fingerprint() for name in ("out", "whole"))
    assert found == expected


def test_an_adapter_is_merged(folder, tiny_llama):
    """What comes out is a whole model, which transformers loads."""
    from transformers import AutoModelForCausalLM

    given = settings(folder, adapt={"lora": {"rank": 2}}, baseline=False)
    student = single_step("distill", given, tiny_llama, out=folder / "out").model
    assert student.adapter is None
    theirs = AutoModelForCausalLM.from_pretrained(folder / "out")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, student.network(ids).logits)


def test_a_recipe_with_two_teachers(folder):
    """An earlier step and the base teach a student that is made of the first; the next step works on the student."""
    steps = [
        {"train": {"name": "tuned", "data": str(folder / "data.jsonl"), "adapt": "full", "steps": 4}},
        {
            "distill": {
                "teacher": ["tuned", "base"],
                "teachers": {"multi": {"combine": "confidence"}},
                "losses": {"response": {"alpha": 0.2}, "feature": {"weight": 0.1}},
                "evaluate_every": 2,
                **settings(folder),
            }
        },
        {"measure": {"perplexity": {"text": str(folder / "text.txt")}}},
    ]
    (folder / "text.txt").write_text("The river rose in the night. " * 8)
    recipe = {"model": str(folder / "model"), "steps": steps}
    summary = run_recipe(recipe, out=folder / "run")
    record = summary["steps"][1]
    assert record["inputs"]["teacher_0"] == summary["steps"][0]["key"] and "teacher_1" in record["inputs"]
    assert [view["kind"] for view in record["views"]] == ["curve", "curve", "table", "scatter", "note"]
    assert len(record["result"]["evaluations"]["student"]) == 3
    assert summary["steps"][2]["source"] == "distill"
    again = run_recipe(recipe, out=folder / "run")
    assert [step["skipped"] for step in again["steps"]] == [True, True, True]


def test_another_model_and_a_configuration_as_students(folder, tiny_llama):
    """Both begin alike with and without the teacher; random weights come from the seed."""
    given = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    (folder / "small.json").write_text(json.dumps({**given, "num_key_value_heads": 1, "num_hidden_layers": 1}))
    for student in (str(folder / "small.json"), str(folder / "model")):
        result = single_step("distill", settings(folder, student=student, losses="feature"), tiny_llama).result
        first = [result["history"][name][0] for name in ("student", "baseline")]
        assert first[0]["task_loss"] == pytest.approx(first[1]["loss"], rel=1e-6)


TERMS = {"l2_sp": {"weight": 0.05}, "kl_to_base": {"weight": 0.5}}


@pytest.mark.parametrize("adapt", ["lora", {"full": {"keep_base": True}}])
def test_regularizers_hold_student_and_baseline(folder, tiny_llama, adapt):
    """Their numbers are in both histories and in the report; the first step's losses are as without them."""
    terms = {**TERMS, "replay": {"data": str(folder / "held.jsonl"), "records": 2}}
    losses = {"response": {}, "feature": {"project": "always"}}
    given = settings(folder, losses=losses, adapt=adapt, learning_rate=0.01)
    plain = single_step("distill", given, tiny_llama).result["history"]
    outcome = single_step("distill", {**given, "regularizers": terms}, tiny_llama)
    held = outcome.result["history"]
    for name in ("student", "baseline"):
        first, last = held[name][0], held[name][-1]
        assert set(first) - set(plain[name][0]) == {"l2_sp", "kl_to_base", "replay_loss"}
        # The student's projections begin at random and are not its own parameters: nothing has deviated yet.
        assert first["l2_sp"] == 0 < last["l2_sp"]
        assert first["kl_to_base"] == pytest.approx(0, abs=1e-6) and last["kl_to_base"] > 1e-6
        for key in {"loss", "task_loss", "response", "feature"} & set(first):
            assert first[key] == pytest.approx(plain[name][0][key], rel=1e-6)
            assert last[key] != plain[name][-1][key]
    titles = [view.get("title") for view in outcome.views]
    assert titles.index("Loss of the task") < titles.index("L2 sp") < titles.index("Quality, size and speed")
    assert type(outcome.model.network).__name__ == "LlamaForCausalLM" and outcome.model.adapter is None


def test_a_heavy_penalty_keeps_the_student_where_it_began(folder, tiny_llama):
    """With l2_sp of weight 100 it moves less than a tenth as far as without, in the norm over all parameters."""
    from posttrain.distill.student import build

    start = build("layers:1", tiny_llama, lambda reference: tiny_llama).network.state_dict()
    moved = []
    for terms in ({}, {"l2_sp": {"weight": 100.0}}):
        given = settings(folder, baseline=False, steps=60, regularizers=terms)
        network = single_step("distill", given, tiny_llama).model.network
        moved.append(sum(float((t - start[name]).square().sum()) for name, t in network.state_dict().items()) ** 0.5)
    assert moved[1] < 0.1 * moved[0]


def test_replayed_data_is_an_input_of_the_step(folder):
    """Also when an earlier step left it."""
    regularizers = {"replay": {"data": "written"}}
    step = Distill.parse(settings(folder, regularizers=regularizers)).located({"written": folder / "held.jsonl"})
    (replay,) = step.regularizers
    assert replay.data == str(folder / "held.jsonl")
    assert Distill.parse(settings(folder)).located({"written": folder / "held.jsonl"}).regularizers == []


def test_a_quantized_student_learns_nothing(folder, tiny_llama):
    """What its adapter learned couldn't be merged: said before training."""
    from posttrain.quantize.methods.dynamic import Dynamic

    Dynamic().quantize(tiny_llama)
    save(tiny_llama, folder / "int8")
    given = settings(folder, student=str(folder / "int8"), adapt="lora", teacher=str(folder / "model"))
    with pytest.raises(BadRequest, match=r"int8 is quantized, so what an adapter learns can't be merged"):
        single_step("distill", given, str(folder / "model"))


@pytest.fixture
def reviews(tmp_path):
    """Texts whose label is told by their first word."""
    rows = [{"text": f"{'good' if i % 2 else 'bad'} number {i}", "label": "yes" if i % 2 else "no"} for i in range(32)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "reviews.jsonl")


def encoder(layers: int) -> LanguageModel:
    """A tiny BERT without a head."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return LanguageModel(BertModel(config).eval(), make_tiny_tokenizer(), "bert", {"name": "bert"})


def test_classifiers(reviews):
    """Accuracy is what the task is judged by; the student keeps the teacher's labels and head."""
    task = {"objective": "sequence_classification", "data": reviews, "batch_size": 8, "validation": reviews}
    teacher = encoder(3)
    single_step("train", {**task, "adapt": "full", "steps": 30, "learning_rate": 0.003}, teacher)
    before = teacher.fingerprint()
    given = {**task, "student": "layers:1", "steps": 4, "losses": [{"response": {"temperature": 4}}, "feature"]}
    outcome = single_step("distill", {**given, "learning_rate": 0.001}, teacher)
    result, network = outcome.result, outcome.model.network
    assert teacher.fingerprint() == before
    assert result["metric"] == "accuracy" and result["teacher"]["accuracy"] == 1.0
    assert result["retained"] == result["student"]["accuracy"]
    assert result["teacher"].keys() == {"loss", "accuracy", "macro_f1", "parameters", "bytes", "tokens_per_second"}
    assert network.config.num_hidden_layers == 1 and network.config.id2label == {0: "no", 1: "yes"}
    assert result["history"]["student"][0].keys() >= {"accuracy", "task_loss", "response", "feature"}


def test_early_stopping_goes_back_to_the_highest_accuracy(reviews):
    task = {"objective": "sequence_classification", "data": reviews, "batch_size": 8, "validation": reviews}
    teacher = encoder(3)
    single_step("train", {**task, "adapt": "full", "steps": 30, "learning_rate": 0.003}, teacher)
    stopping = {"evaluate_every": 5, "early_stopping": {"metric": "accuracy", "patience": 2}}
    given = {**task, **stopping, "student": "layers:1", "steps": 400, "learning_rate": 0.001, "baseline": False}
    result = single_step("distill", given, teacher).result
    reached = [entry["accuracy"] for entry in result["evaluations"]["student"]]
    assert result["stopped_early"] and result["student"]["accuracy"] == max(reached) == reached[-3] > reached[0] - 1e-9


def test_a_teacher_must_have_learned_the_task(reviews):
    given = {"objective": "sequence_classification", "data": reviews, "student": "layers:1"}
    with pytest.raises(BadRequest, match="bert has not learned this task: it was a BertModel"):
        single_step("distill", given, encoder(2))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"student": "layers:3"}, "can't be taken from a teacher of 2"),
        ({"student": "nowhere"}, "There is no model 'nowhere'"),
        ({"teacher": "nowhere"}, "There is no model 'nowhere'"),
        ({"teachers": "multi"}, "at least two teachers"),
        ({"losses": []}, "nothing to be taught"),
        ({"steps": 2, "epochs": 1}, "Both steps and epochs"),
        ({"losses": {"feature": {"map": [[0, 9]]}}}, "has no layer 9"),
        ({"regularizers": {"kl_to_base": {}}}, "`full` changes the base's own weights"),
        ({"losses": {"respons": {}}}, "Did you mean 'response'"),
    ],
)
def test_bad_requests(folder, tiny_llama, more, sentence):
    with pytest.raises(BadRequest) as refused:
        single_step("distill", settings(folder, **more), tiny_llama, out=folder / "out")
    assert sentence in str(refused.value)
    assert not (folder / "out").exists()


def test_inputs_change_with_the_student(folder, tiny_llama, tmp_path):
    """A changed configuration file, teacher folder or data set is another step."""
    from posttrain.pipeline.steps import Context

    context = Context(
        load=lambda name: tiny_llama, folder=tmp_path, seed=0, model_name="m", results={}, keys={"base": "k"},
        current=lambda: tiny_llama,
    )  # fmt: skip
    (folder / "c.json").write_text("{}")
    given = settings(folder, student=str(folder / "c.json"), teacher=["base", str(folder / "model")])
    first = Distill.parse(given).inputs(context)
    assert first["teacher_0"] == "k" and len(first["teacher_1"]) == 64 and len(first["student"]) == 64
    (folder / "c.json").write_text('{"a": 1}')
    assert Distill.parse(given).inputs(context)["student"] != first["student"]


def test_speed_of_reading(monkeypatch):
    """The best of two rounds over 30 tokens: 3 and 2 seconds are 15 tokens a second."""
    from posttrain.pipeline import speed

    class Batch:
        tokens = 15

    moments = iter([0.0, 3.0, 3.0, 5.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(moments))
    read = []
    assert pass_tokens_per_second(read.append, [Batch(), Batch()], repeats=2) == 15
    assert len(read) == 4
