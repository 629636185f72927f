"""The step `align`: a reward model that judges, a policy that is judged, and pairs without a judge."""

from __future__ import annotations

import json

import pytest

from posttrain.align.reward import model_reward
from posttrain.core.errors import BadRequest
from posttrain.models.sources import load
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.single_step import single_step
from posttrain.pipeline.steps.align import Align


@pytest.fixture
def folder(tiny_llama, tmp_path):
    """A saved tiny model, pairs and prompts."""
    from posttrain.models.saving import save

    save(tiny_llama, tmp_path / "model")
    pairs = [{"prompt": f"Say {i}: ", "chosen": f"fox {i}", "rejected": f"dog {i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p["prompt"]}) + "\n" for p in pairs[:6]))
    (tmp_path / "toy_rewards.py").write_text("def length(texts):\n    return [len(text) for text in texts]\n")
    return tmp_path


def test_a_reward_model_then_a_policy_in_one_recipe(folder):
    """The judge is named by its step; the policy is made of the base, and merges like any other adapter."""
    shared = {"adapt": {"lora": {"rank": 2}}, "batch_size": 4, "max_new_tokens": 5, "tokens_per_pass": 64}
    judge = {"objective": "reward_model", "data": str(folder / "pairs.jsonl"), "steps": 20, "learning_rate": 0.01}
    ppo = {"ppo": {"rollout": {"episodes_per_rollout": 4}}}
    policy = {"objective": ppo, "data": str(folder / "prompts.jsonl"), "reward": "judge", "episodes": 8, "from": "base"}
    steps = [
        {"align": {**shared, **judge, "name": "judge"}},
        {"align": {**shared, **policy, "name": "policy"}},
        {"merge": {}},
    ]
    summary = run_recipe({"model": str(folder / "model"), "steps": steps}, out=folder / "run")
    results = {step["name"]: step["result"] for step in summary["steps"]}
    assert results["judge"]["accuracy"] >= 0.5 and results["judge"]["pairs_held_out"]
    assert results["judge"]["pairs_measured"] == 2 and results["judge"]["reward_before"] == 0.0
    assert results["judge"]["reward_after"] == results["judge"]["pairs_margin_after"] != 0.0
    assert results["judge"]["kl"] is None
    found = results["policy"]
    assert found["episodes"] == 8 and len(found["rollouts"]) == 2 and found["steps"] == 4
    assert found["kl"] >= 0 and found["episodes_per_minute"] > 0 and found["peak_memory_mb"] > 0
    assert found["reward_before"] != 0.0 and found["reward_after"] is not None
    kinds = [view["kind"] for view in summary["steps"][1]["views"]]
    assert kinds == ["note", "curve", "curve", "facts", "samples"]
    assert (folder / "run/steps/01-judge/model/reward_head/model.safetensors").exists()
    assert not (folder / "run/steps/02-policy/model/value_head").exists()
    again = run_recipe({"model": str(folder / "model"), "steps": steps}, out=folder / "run")
    assert all(step["skipped"] for step in again["steps"])


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_pairs_without_a_judge(folder, adapt, monkeypatch):
    monkeypatch.chdir(folder)
    settings = {
        "objective": {"dpo": {"beta": 0.5}},
        "data": str(folder / "pairs.jsonl"),
        "adapt": adapt,
        "steps": 8,
        "learning_rate": 0.01 if adapt == "lora" else 0.001,
        "max_new_tokens": 4,
        "evaluation_prompts": 2,
    }
    outcome = single_step("align", settings, str(folder / "model"), out=folder / "out")
    result = outcome.result
    assert result["reward_before"] == 0.0 and result["reward_after"] == result["pairs_margin_after"] > 0
    assert result["loss"] < result["first_loss"]
    assert (result["kl"] is None) == (adapt == "full")  # whose base's weights weren't kept
    assert load(str(folder / "out"), device="cpu").network is not None


def test_a_whole_model_as_judge(folder):
    """A reward model trained in place is a model of its own, and doesn't share memory with the policy."""
    judge = {"objective": "reward_model", "data": str(folder / "pairs.jsonl"), "adapt": "full", "steps": 2}
    single_step("align", judge, str(folder / "model"), out=folder / "judge")
    policy = {
        "objective": "ppo",
        "data": str(folder / "prompts.jsonl"),
        "reward": str(folder / "judge"),
        "adapt": {"full": {"keep_base": True}},
        "episodes": 4,
        "max_new_tokens": 3,
    }
    assert single_step("align", policy, str(folder / "model"), out=folder / "out").result["kl"] >= 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"objective": "ppo"}, "need a reward"),
        ({"objective": "ppo", "reward": "MODEL"}, "has no reward_head"),
        ({"objective": "ppo", "reward": "nowhere_to:f"}, "can't be imported"),
        ({"objective": "ppo", "reward": []}, "need a reward"),
        ({"objective": "ppo", "reward": "toy_rewards:length", "ensemble": {"combine": "min"}}, "several rewards"),
        ({"objective": "dpo", "steps": 1, "episodes": 1}, "Both steps and episodes"),
        ({"objective": "dpo", "max_new_tokens": 128}, "no room for a prompt"),
    ],
)
def test_bad_requests(folder, settings, sentence):
    data = "prompts.jsonl" if settings["objective"] == "ppo" else "pairs.jsonl"
    if settings.get("reward") == "MODEL":
        settings = {**settings, "reward": str(folder / "model")}
    with pytest.raises(BadRequest, match=sentence):
        single_step("align", {"data": str(folder / data), **settings}, str(folder / "model"), out=folder / "out")
    assert not (folder / "out").exists()


def test_an_ensemble_of_judges(folder):
    """Judges that differ in their seed disagree; a third one with the seed of the first says what the first does."""
    shared = {"adapt": {"lora": {"rank": 2}}, "batch_size": 4, "max_new_tokens": 5}
    judge = {"objective": "reward_model", "data": str(folder / "pairs.jsonl"), "steps": 6, "learning_rate": 0.01}
    policy = {"objective": "ppo", "data": str(folder / "prompts.jsonl"), "episodes": 4, "from": "base"}
    ways = {
        "alone": {"reward": "first"},
        "mean": {"reward": ["first", "second"]},
        "worst": {"reward": ["first", "second"], "ensemble": {"combine": "min"}},
        "careful": {"reward": ["first", "second"], "ensemble": {"combine": "mean_minus_std", "penalty": 3.0}},
        "twins": {"reward": ["first", "again"], "ensemble": {"combine": "mean_minus_std"}},
    }
    steps = [
        {"align": {**shared, **judge, "name": name, "seed": seed, "from": "base"}}
        for name, seed in (("first", 1), ("second", 2), ("again", 1))
    ]
    steps += [{"align": {**shared, **policy, **way, "name": name}} for name, way in ways.items()]
    summary = run_recipe({"model": str(folder / "model"), "steps": steps}, out=folder / "run")
    records = {step["name"]: step for step in summary["steps"]}
    found = {name: records[name]["result"] for name in ways}
    keys = {name: record["key"] for name, record in records.items()}
    inputs = records["mean"]["inputs"]
    assert (inputs["reward_0"], inputs["reward_1"]) == (keys["first"], keys["second"])
    assert "disagreement_before" not in found["alone"] and "disagreement" not in found["alone"]["rollouts"][0]
    assert found["twins"]["disagreement_before"] == 0 == found["twins"]["rollouts"][0]["disagreement"]
    assert found["twins"]["reward_before"] == pytest.approx(found["alone"]["reward_before"])
    apart = found["mean"]["disagreement_before"]
    assert apart > 0 and found["mean"]["disagreement_after"] > 0
    mean, worst, careful = (found[name]["reward_before"] for name in ("mean", "worst", "careful"))
    assert worst == pytest.approx(mean - apart)  # of two numbers the deviation is half of what is between them
    assert careful == pytest.approx(mean - 3 * apart)
    titles = [view.get("title") for view in records["mean"]["views"]]
    assert "Disagreement of the rewards" in titles


@pytest.mark.parametrize("objective", ["dpo", "reward_model", "ppo"])
def test_a_classifier_is_refused(folder, objective):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"objective": "sequence_classification", "data": str(folder / "labels.jsonl"), "steps": 1, "adapt": "full"}
    single_step("train", task, str(folder / "model"), out=folder / "classifier")
    data = "prompts.jsonl" if objective == "ppo" else "pairs.jsonl"
    given = {"objective": objective, "data": str(folder / data), "reward": "toy_rewards:length"}
    with pytest.raises(BadRequest) as refused:
        single_step("align", given, str(folder / "classifier"), out=folder / "out")
    assert "is a LlamaForSequenceClassification, which has a head for labels, `score`" in refused.value.problem
    assert "Start from the language model" in refused.value.suggestion


def test_a_body_without_a_head_may_judge_but_not_write(folder):
    from tiny_models import make_tiny_bert

    with pytest.raises(BadRequest, match="is a BertModel, which doesn't continue texts"):
        single_step("align", {"objective": "dpo", "data": str(folder / "pairs.jsonl")}, make_tiny_bert())
    given = {"objective": "reward_model", "data": str(folder / "pairs.jsonl"), "steps": 2}
    assert single_step("align", given, make_tiny_bert()).result["loss"] > 0


def test_built_in_data_is_the_default():
    assert Align.parse({"objective": "dpo"})._records.kind == "preference"
    assert Align.parse({"objective": "ppo"})._records.source == "builtin:prompts"


@pytest.mark.parametrize("chat", [True, None])
def test_a_judge_scores_answers_as_it_was_trained_on_them(folder, chat):
    """The margin measured in training is the difference of the scores that the saved judge gives, template or not."""
    pairs = folder / "pairs.jsonl"
    judge = {"objective": "reward_model", "data": str(pairs), "validation": str(pairs), "steps": 3}
    encoding = {"encoding": {"chat": chat}, "learning_rate": 0.01}
    found = single_step("align", {**judge, **encoding}, str(folder / "model"), out=folder / "judge").result
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    reward = model_reward(load(str(folder / "judge")))
    chosen, rejected = (
        reward.score([row["prompt"] for row in rows], [row[side] for row in rows]) for side in ("chosen", "rejected")
    )
    margin = sum(one - other for one, other in zip(chosen, rejected)) / len(rows)
    assert margin == pytest.approx(found["pairs_margin_after"], rel=1e-4)
