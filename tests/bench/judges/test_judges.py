"""Judges: every one on a tiny model, likelihoods against a plain forward pass, verdicts read from texts."""

from __future__ import annotations

import json
import math

import pytest
import torch

from posttrain.align.reward import model_reward
from posttrain.bench.judges import Contest, PointwiseJudge
from posttrain.bench.judges._request import filled, opened
from posttrain.bench.judges.likelihood import Likelihood
from posttrain.bench.judges.reward import Reward
from posttrain.bench.judges.score import Score
from posttrain.bench.judges.verdict import Verdict
from posttrain.bench.task_types import Effort
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.models import scalar_head
from posttrain.models.saving import save
from posttrain.models.sources import load
from tiny_models import make_tiny_bert

EFFORT = Effort(256, 4)
CONTESTS = [Contest("Who?", "The dog.", "A fox"), Contest([{"role": "user", "content": "Who?"}], "fox", "dog dog")]


@pytest.fixture
def reward_folder(tiny_llama, tmp_path):
    save(tiny_llama, tmp_path / "reward")
    head = scalar_head.attach(tiny_llama.network, scalar_head.REWARD_HEAD)
    torch.manual_seed(0)
    torch.nn.init.normal_(head.weight)
    head.chat = True
    scalar_head.save(head, tmp_path / "reward", scalar_head.REWARD_HEAD)
    scalar_head.detach(tiny_llama.network, scalar_head.REWARD_HEAD)
    return tmp_path / "reward"


@pytest.mark.parametrize("term", catalog.terms("judge"))
def test_every_judge(term, tiny_llama, reward_folder):
    """An opinion a contest, in [0, 1] or None; the same whatever is asked beside it; JSON-able."""
    tiny_llama.network.config.max_position_embeddings = 2048
    model = load(str(reward_folder), device="cpu") if term == "reward" else tiny_llama
    judge = catalog.build("judge", term)
    judge.prepare(model)
    found = judge.opinions(model, CONTESTS, "helpful", EFFORT)
    assert len(found) == 2
    for each in found:
        assert each.preference is None or 0 <= each.preference <= 1
        json.dumps(each.record)
    alone = judge.opinions(model, CONTESTS[:1], "helpful", Effort(7, 1))
    assert alone[0].preference == pytest.approx(found[0].preference, abs=1e-5)
    assert alone[0].preference is None or isinstance(alone[0].preference, float)
    if not judge.sees_both:
        swapped = judge.opinions(model, [CONTESTS[0].swapped()], "helpful", EFFORT)
        assert swapped[0].preference == pytest.approx(1 - found[0].preference, abs=1e-5)


@pytest.mark.parametrize("judge", [Likelihood(), Verdict(), Score()])
def test_a_masked_model_is_no_judge(judge):
    with pytest.raises(BadRequest, match="not a causal language model"):
        judge.prepare(make_tiny_bert())


def next_token(model, text, continuation):
    """P(first token of the continuation behind the text), by a plain forward pass."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = model.tokenizer(text + continuation, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model.network(torch.tensor([whole[:-1]])).logits[0].double()
    logprobs = logits.log_softmax(-1)
    return sum(float(logprobs[place - 1, whole[place]]) for place in range(len(ids), len(whole)))


def test_likelihoods_are_those_of_the_letters(tiny_llama):
    tiny_llama.network.config.max_position_embeddings = 2048
    judge = Likelihood(prompt="{{ prompt }}|{{ first }}|{{ second }}|{{ better }}", lead="Answer")
    request = "Who?|The dog.|A fox|more helpful"
    context = f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\nAnswer"
    assert opened(tiny_llama, request, "Answer", None) == context
    a, b = (next_token(tiny_llama, context, letter) for letter in (" A", " B"))
    (found,) = judge.opinions(tiny_llama, CONTESTS[:1], "helpful", EFFORT)
    assert found.preference == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-5)
    assert found.record["mass"] == pytest.approx(math.exp(a) + math.exp(b), rel=1e-4)


def test_what_is_too_long_gets_no_opinion(tiny_llama, reward_folder):
    """The tiny model reads 128 tokens."""
    long = [Contest("Who?", "fox " * 200, "dog")]
    for judge in (Likelihood(), Verdict(), Score()):
        (found,) = judge.opinions(tiny_llama, long, "overall", EFFORT)
        assert found.preference is None and found.record == {"too_long": True}
    model = load(str(reward_folder), device="cpu")
    judge = Reward()
    judge.prepare(model)
    assert judge.opinions(model, long, "overall", EFFORT)[0].preference is None


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Both are fine, A is shorter. [[A]]", 1.0),
        ("[[b]]", 0.0),
        ("My verdict: [[ C ]].", 0.5),
        ("[[tie]]", 0.5),
        ("It isn't [[A]]. The verdict is [[B]]", 0.0),  # the last one counts
        ("A is better", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_verdicts_in_texts(text, read):
    assert Verdict().read(text) == read


def test_a_pattern_for_json():
    judge = Verdict(pattern=r'"preference":\s*"(A|B|tie)"')
    assert judge.read('{"preference": "A", "reason": "It says more than Candidate Output B."}') == 1
    assert judge.read('{"preference": "tie"}') == 0.5
    with pytest.raises(BadRequest, match="one group"):
        Verdict.parse({"pattern": "[AB]"})


def test_expected_grades_by_hand():
    """P(1…) = 0.5, P(10) = 0.2 and P(2) = 0.5: 1 alone has 0.3, so 0.3 · 1 + 0.5 · 2 + 0.2 · 10 = 3.3."""
    logprobs = [math.log(p) if p else -100.0 for p in (0.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0.2)]
    longer = [[9], *([[]] * 9)]
    assert Score()._expected(logprobs, longer) == pytest.approx(3.3)


def test_numbers_whose_tokens_begin_others(tiny_llama):
    """The tiny tokenizer reads bytes, so 1 begins 10, and of a scale to 100 it begins 10, which begins 100."""
    pairs = [("x", f" {grade}") for grade in range(101)]
    longer = Score(lowest=0, highest=100)._longer(tiny_llama, pairs)
    assert longer[1] == list(range(10, 20)) and longer[10] == [100] and longer[100] == [] and longer[0] == []


def test_grades_and_margins(tiny_llama):
    class ByLength(PointwiseJudge):
        """Counts letters."""

        asked: list[str] = []

        def prepare(self, model):
            raise NotImplementedError

        def grades(self, model, answers, criterion, effort):
            self.asked.extend(answer for _, answer in answers)
            return [float(len(answer)) for _, answer in answers]

    judge = ByLength(asked=[])
    found = judge.opinions(
        tiny_llama, [Contest("p", "aa", "b"), Contest("p", "b", "aa"), Contest("p", "b", "c")], "", EFFORT
    )
    assert [each.preference for each in found] == [1, 0, 0.5]
    assert judge.asked == ["aa", "b", "c"]  # each once
    assert Score(margin=0.5).preference(3.0, 3.4) == 0.5
    assert Score(margin=0.5).preference(3.0, 3.6) == 0
    with pytest.raises(BadRequest, match="above"):
        Score.parse({"lowest": 5, "highest": 5})


def test_rewards_are_those_of_alignment(reward_folder):
    model = load(str(reward_folder), device="cpu")
    judge = Reward()
    judge.prepare(model)
    (found,) = judge.opinions(model, CONTESTS[:1], "overall", EFFORT)
    first, second = model_reward(load(str(reward_folder), device="cpu")).score(["Who?"] * 2, ["The dog.", "A fox"])
    assert found.record["grades"] == pytest.approx([first, second], abs=1e-5)
    assert found.preference == pytest.approx(1 / (1 + math.exp(second - first)), abs=1e-5)


def test_templates_say_what_they_know():
    assert filled("{{ good }}/{{ better }}", "honest", "p", answer="a") == "honest/more honest"
    assert "'kind'" in filled("{{ better }}", "kind", "p", answer="a")
    with pytest.raises(BadRequest, match="'answre' is undefined"):
        filled("{{ answre }}", "overall", "p", answer="a")
