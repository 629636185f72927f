"""`posttrain align`."""

from __future__ import annotations

import json

import pytest

KEYS = {"reward_before", "reward_after", "kl", "episodes_per_minute", "peak_memory_mb"}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "What is"}\n{"prompt": "The fox"}\n')
    return path


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {i}: ", "chosen": f"fox {i}", "rejected": f"dog {i}"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_function_as_reward(invoke, model, prompts, tmp_path, monkeypatch):
    (tmp_path / "command_rewards.py").write_text("def length(texts):\n    return [len(text) for text in texts]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--reward", "command_rewards:length", "--episodes", 4, "--max-new-tokens", 3, "--batch-size", 2]
    words = ["align", model, "--objective", "ppo", "--data", prompts, *options, "--set", "objective.ppo.clip=0.1"]
    result = invoke(*words, "--out", tmp_path / "out", "--json").json
    assert result.keys() >= KEYS
    assert result["episodes"] == 4 and result["reward_before"] > 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 8
    assert invoke("generate", tmp_path / "out", "Who?", "--max-new-tokens", 2, "--json").code == 0


@pytest.mark.parametrize("objective", ["dpo", "reward_model"])
def test_pairs(invoke, model, pairs, tmp_path, objective):
    words = ["align", model, "--objective", objective, "--data", pairs, "--validation", pairs, "--steps", 2]
    ran = invoke(*words, "--max-new-tokens", 4, "--out", tmp_path / "out", "--json")
    assert ran.json.keys() >= KEYS | {"accuracy"}
    assert ran.json["pairs_measured"] == 6


def test_human_form_leaves_the_curves_out(invoke, model, pairs, tmp_path):
    ran = invoke("align", model, "--objective", "reward_model", "--data", pairs, "--steps", 1, "--out", tmp_path / "o")
    assert ran.code == 0
    assert "accuracy" in ran.out and "gradient_norm" not in ran.out


def test_refusals(invoke, model, pairs, tmp_path):
    words = ["align", model, "--data", pairs, "--out", tmp_path / "o"]
    assert "required: --objective" in invoke(*words).refused(2)
    assert "Did you mean 'dpo'?" in invoke(*words, "--objective", "dop").refused(2)
    assert "need a reward" in invoke(*words, "--objective", "ppo").refused(2)
