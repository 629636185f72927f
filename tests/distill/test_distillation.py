"""Distillation as an objective: how the losses add up, what is refused, and training with the one loop."""

from __future__ import annotations

import pytest
import torch
from distillation_toy import Classes, bert_classifier, labelled, language_batch, llama, sequences

from posttrain.core.errors import BadRequest
from posttrain.data.collate import Batches
from posttrain.data.packing import pack
from posttrain.distill.distillation import Distillation
from posttrain.distill.losses.feature import Feature
from posttrain.distill.losses.relation import Relation
from posttrain.distill.losses.response import Response
from posttrain.distill.teachers.single import Single
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Objective
from posttrain.train.objectives.language_modeling import LanguageModeling


def of(losses, teacher, task=None) -> Distillation:
    return Distillation(task=task or LanguageModeling(), losses=losses, teacher=Single(), models=[teacher])


def test_losses_add_up():
    """alpha of the task, the response's own factors, and twice the same term under numbered names."""
    student, teacher = llama(2, 32, 1), llama(3, 32, 2)
    objective = of([Response(alpha=0.3), Feature(weight=0.5), Feature(map="last", distance="cosine")], teacher)
    objective.attach(student)
    total, metrics = objective.loss(student.network, language_batch([5, 6]))
    parts = 0.3 * metrics["task_loss"] + metrics["response"] + metrics["feature"] + metrics["feature_2"]
    assert float(total.detach()) == pytest.approx(parts, rel=1e-5)
    task, _ = LanguageModeling().loss(student.network, language_batch([5, 6]))
    assert metrics["task_loss"] == pytest.approx(float(task.detach()), rel=1e-6)


def test_one_pass_of_the_student(monkeypatch):
    """The task and all losses look at the same pass."""
    student, teacher = llama(2, 32, 1), llama(3, 32, 2)
    objective = of([Response(), Feature(), Relation()], teacher)
    objective.attach(student)
    passes = []
    student.network.model.layers[0].register_forward_hook(lambda *_: passes.append("student"))
    teacher.network.model.layers[0].register_forward_hook(lambda *_: passes.append("teacher"))
    objective.loss(student.network, language_batch([5, 6]))
    assert sorted(passes) == ["student", "teacher"]


def test_the_task_summarises_its_own_metrics():
    class Squares(Classes):
        def summarize(self, sums, weight):
            assert "task_loss" not in sums and "response" not in sums
            return {"loss": sums["loss"] / weight, "accuracy": sums["accuracy"] ** 2}

    objective = of([Response()], bert_classifier(), Squares())
    found = objective.summarize({"loss": 6.0, "accuracy": 3.0, "task_loss": 4.0, "response": 2.0}, 2.0)
    assert found == {"loss": 3.0, "accuracy": 9.0, "task_loss": 2.0, "response": 1.0}


def test_learning_from_the_teacher_alone():
    """A student with the teacher's shape comes near to its probabilities, which the data alone don't hold."""
    student, teacher = llama(1, 32, 1), llama(1, 32, 2)
    objective = of([Response(alpha=0.0, temperature=1.0)], teacher)
    objective.attach(student)
    before = teacher.fingerprint()
    batches = Batches(sequences([12] * 16), 16, 512)
    result = train(student.network, objective, batches, Loop(steps=80, learning_rate=0.01))
    assert result.history[-1]["response"] < 0.2 * result.history[0]["response"]
    assert teacher.fingerprint() == before
    assert result.history[0]["loss"] == pytest.approx(result.history[0]["response"])


def test_projections_are_trained_faster_and_checkpointed(tmp_path):
    """They are in the loop's checkpoint; a resumed run ends where the uninterrupted one does."""
    teacher = llama(2, 32, 2)

    def trained(steps: int, checkpoint=None, stop: int | None = None):
        student = llama(1, 16, 1)
        torch.manual_seed(0)
        objective = of([Feature(projection_rate=5.0)], teacher)
        objective.attach(student)
        batches = Batches(sequences([6] * 8), 4, 512)
        if stop is not None:

            class Stopped(Distillation):
                def weight(self, batch):
                    if objective_calls.append(1) or len(objective_calls) > stop:
                        raise KeyboardInterrupt
                    return super().weight(batch)

            objective_calls: list[int] = []
            objective = Stopped(**dict(objective))
        train(
            student.network, objective, batches, Loop(steps=steps, learning_rate=0.01, checkpoint_every=1),
            checkpoint=checkpoint,
        )  # fmt: skip
        return student.network.state_dict()

    whole = trained(4)
    with pytest.raises(KeyboardInterrupt):
        trained(4, tmp_path / "c", stop=5)
    resumed = trained(4, tmp_path / "c")
    assert any(name.startswith("distillation.feature.") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_refusals():
    class Whole(Objective):
        def encode(self, dataset, model, encoding):
            raise NotImplementedError

        def weight(self, batch):
            raise NotImplementedError

        def loss(self, network, batch):
            raise NotImplementedError

    with pytest.raises(BadRequest, match="can't be distilled"):
        of([Response()], llama(), Whole()).attach(llama())
    with pytest.raises(BadRequest, match="nothing to be taught"):
        of([], llama()).attach(llama())
    other = llama()
    other.tokenizer.add_tokens(["<extra>"])
    with pytest.raises(BadRequest, match="different tokenizers"):
        of([Response()], llama()).attach(other)


def test_classes():
    """The weight is the number of sequences, and the task's own metrics are kept."""
    student, teacher = bert_classifier(1, 1), bert_classifier(2, 2)
    objective = of([Response(), Feature()], teacher, Classes())
    objective.attach(student)
    batch = pack(labelled([4, 5, 6]))
    assert objective.weight(batch) == 3
    _, metrics = objective.loss(student.network, batch)
    assert set(metrics) == {"accuracy", "task_loss", "response", "feature"}
