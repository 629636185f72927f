"""Response distillation: hand-worked values, the factor T², and gradients against float64 autograd."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_toy import Classes, bert_classifier, labelled, language_batch, llama

from posttrain.core.errors import BadRequest
from posttrain.data.packing import pack
from posttrain.distill.distillation import Distillation
from posttrain.distill.losses import Comparison
from posttrain.distill.losses.response import Response
from posttrain.distill.teachers import Lesson
from posttrain.distill.teachers.single import Single
from posttrain.train.objectives import Prediction
from posttrain.train.objectives.language_modeling import LanguageModeling


def compared(loss: Response, student: list[list[float]], teacher: list[list[float]]) -> torch.Tensor:
    """The loss of classifiers with these logits."""
    targets, batch = torch.zeros(len(student), dtype=torch.long), pack(labelled([2] * len(student)))
    own, theirs = (
        Prediction(targets, torch.zeros(len(student), 1), logits=torch.tensor(x)) for x in (student, teacher)
    )
    return loss.loss(Comparison(own, Lesson(Single(), [theirs]), batch, len(student)), None)


def test_by_hand():
    """Teacher logits (2 ln 3, 0) at T = 2 are (3/4, 1/4), student's (0, 0) are (1/2, 1/2).

    KL(p || q) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812; times T² = 4 and 1 - alpha = 0.7: 0.366274.
    KL(q || p) = 1/2 ln(2/3) + 1/2 ln 2 = 0.143841; times 2.8: 0.402755.
    """
    teacher, student = [[2 * math.log(3), 0.0]], [[0.0, 0.0]]
    forward = compared(Response(temperature=2, alpha=0.3), student, teacher)
    assert float(forward) == pytest.approx(0.366274, abs=1e-6)
    reverse = compared(Response(temperature=2, alpha=0.3, divergence="reverse"), student, teacher)
    assert float(reverse) == pytest.approx(0.402755, abs=1e-6)
    # m = (5/8, 3/8): (3/4 ln(6/5) + 1/4 ln(2/3) + 1/2 ln(4/5) + 1/2 ln(4/3)) / 2 = 0.033821; times 2.8.
    js = compared(Response(temperature=2, alpha=0.3, divergence="js"), student, teacher)
    assert float(js) == pytest.approx(2.8 * 0.0338210, abs=1e-5)


def test_gradients_keep_their_size():
    """For small logits the gradient of T² KL tends to (z_student - z_teacher) / C, whatever T (Hinton, equation 4)."""
    student = torch.tensor([[0.02, -0.01, -0.01]])
    teacher = torch.tensor([[-0.03, 0.01, 0.02]])
    for temperature in (1.0, 4.0, 20.0):
        logits = student.clone().requires_grad_()
        own = Prediction(torch.zeros(1, dtype=torch.long), student, logits=logits)
        lesson = Lesson(Single(), [Prediction(own.targets, teacher, logits=teacher)])
        comparison = Comparison(own, lesson, pack(labelled([2])), 1)
        Response(temperature=temperature, alpha=0.0).loss(comparison, None).backward()
        torch.testing.assert_close(logits.grad, (student - teacher) / 3, atol=2e-4, rtol=0.0)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_a_language_model_against_float64(divergence):
    """Loss and gradients of the whole objective equal those of the formula on full float64 logits."""
    student, teacher = llama(2, 16, 1), llama(3, 32, 2)
    batch = language_batch([7, 5, 6])
    loss = Response(temperature=1.7, alpha=0.4, divergence=divergence, mixture=0.3)
    objective = Distillation(task=LanguageModeling(), losses=[loss], teacher=Single(), models=[teacher])
    objective.attach(student)
    total, _ = objective.loss(student.network, batch)
    total.backward()
    found = {name: p.grad.double() for name, p in student.network.named_parameters()}

    for network in (student.network, teacher.network):
        network.double()
        network.zero_grad()

    def logits(network):
        rows = [network(ids[None]).logits[0] for ids in batch.input_ids.split(batch.lengths.tolist())]
        return torch.cat(rows)[batch.targets >= 0]

    own, theirs = logits(student.network), logits(teacher.network).detach()
    task = torch.nn.functional.cross_entropy(own, batch.targets[batch.targets >= 0], reduction="sum")
    q, p = (own / 1.7).log_softmax(-1), (theirs / 1.7).log_softmax(-1)
    if divergence == "forward":
        value = (p.exp() * (p - q)).sum()
    elif divergence == "reverse":
        value = (q.exp() * (q - p)).sum()
    else:
        m = (0.3 * p.exp() + 0.7 * q.exp()).log()
        value = 0.3 * (p.exp() * (p - m)).sum() + 0.7 * (q.exp() * (q - m)).sum()
    expected = 0.4 * task + 0.6 * 1.7**2 * value
    expected.backward()
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    for name, parameter in student.network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_padded_vocabularies():
    """A teacher with 20 more rows in its embedding teaches the ids both have: as if those rows weren't there."""
    student, teacher, padded = llama(2, 16, 1), llama(2, 32, 2), llama(2, 32, 3, vocabulary=320)
    weights = teacher.network.state_dict()
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = torch.cat([weights[key], 100 * torch.ones(20, 32)])
    padded.network.load_state_dict(weights)
    batch = language_batch([7, 5])
    values = []
    for model in (teacher, padded):
        objective = Distillation(task=LanguageModeling(), losses=[Response()], teacher=Single(), models=[model])
        objective.attach(student)
        values.append(objective.loss(student.network, batch)[1]["response"])
        objective.detach(student.network)
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_the_teacher_alone():
    """Without a share of the task its loss is told but not learned."""
    student, teacher = llama(1, 16, 1), llama(2, 16, 2)
    objective = Distillation(
        task=LanguageModeling(), losses=[Response(alpha=0.0, temperature=1.0)], teacher=Single(), models=[teacher]
    )
    objective.attach(student)
    total, metrics = objective.loss(student.network, language_batch([6]))
    assert float(total) == pytest.approx(metrics["response"]) and metrics["task_loss"] > 0


def test_labels_must_agree():
    student, teacher = bert_classifier(labels=3), bert_classifier(labels=4)
    objective = Distillation(task=Classes(), losses=[Response()], teacher=Single(), models=[teacher])
    with pytest.raises(BadRequest, match="don't have the same labels"):
        objective.attach(student)
    objective = Distillation(task=Classes(), losses=[Response()], teacher=Single(), models=[bert_classifier(labels=1)])
    with pytest.raises(BadRequest, match="one number has no distribution"):
        objective.attach(bert_classifier(labels=1))
