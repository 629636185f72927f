"""Every example runs: the scripts on tiny models in this process with a step or two, the recipes with the fewest steps.

`make examples` runs them on the real models.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from copy import copy
from pathlib import Path

import pytest

import posttrain
from posttrain.models import sources
from posttrain.models.saving import save
from tiny_models import make_tiny_bert, make_tiny_llama

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if not path.name.startswith("_"))
RECIPES = sorted(EXAMPLES.glob("*.yaml"))

# What makes each script short, and a part of what it must print.
CALLS = {
    "adapters_compare": ("--steps 1", r"adalora +[\d,]+ +[\d.]+%"),
    "against_forgetting": ("--steps 1", r"replay +loss \d"),
    "benchmark": (
        "--steps 1 --limit 20",
        r"before: acc_norm [\d.]+, .* by chance 0\.250, 20 items\n(.*\n)*difference [+-].* \(mcnemar, two-sided\)\n\d",
    ),
    "decoding_methods": ("--tokens 4", r"== best of 4: \d+\.\d\d nats a token"),
    "distill_classifier": ("--steps 1 --student layers:1", r"student +[\d,]+ parameters, loss \d"),
    "distill_layers": ("--steps 1 --student layers:1", r"the teacher was worth [+-]\d"),
    "dpo": ("--steps 1", r"loss 0\.693 -> "),
    "evaluate_texts": ("--tokens 4", r"rouge +[\d.]+ +[\d.]+ +[+-][\d.]+ .* to "),
    "export_gguf": ("--tokens 64", r"the file: perplexity \d"),
    "finetune_chat": ("--steps 1", r"254 records; \d+% of their tokens"),
    "finetune_classifier": ("--steps 1", r"accuracy 0\.\d+, majority 0\.500"),
    "guard": ("--tokens 4", r"stream: Mail \[EMAIL\] about \[INTERNAL\] today, please\."),
    "lora": ("--steps 1", r"merged: "),
    "memorization": (
        "--steps 1 --candidates 16",
        r"after: \d of 4 secrets .*\n  planted  1 times: +[\d.]+ of 26\.6 bits",
    ),
    "ppo": ("--episodes 4", r"rollout 1: reward \d"),
    "qat": ("--steps 1 --tokens 64", r"trained with rounding: perplexity \d+\.\d\d, at 3 bits \d"),
    "quantize": ("--tokens 64 --rows 2", r"gptq, 4 bits +[\d,]+ +4\.\d\d "),
    "reward_model": ("--steps 1", r"loss 0\.693 -> "),
    "scorecard": ("--limit 2", r"accuracy handbook_quiz +[\d.]+ +[\d.]+"),
    "structured_output": ("", r"-> \{'name': .*'sights': \["),
    "temperature": ("--tokens 4 --prompts 2", r"recommended: [\d.]+; \d+% of"),
}

# Paths into a recipe that make it as short as it can be.
OVERRIDES = {
    "life": ["tuned.steps=1", "gate.fail=false", "safety.limit=2"],
    "rlhf": ["sft.steps=1", "judge.steps=1", "aligned.episodes=2", "aligned.evaluation_prompts=2"],
    "stages": ["domain.steps=1", "task.steps=1"],
}


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> dict[str, str]:
    """Tiny models that stand for the real ones and can read as much."""
    import torch
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models")
    llama, bert = make_tiny_llama(), make_tiny_bert()
    config = copy(bert.network.config)
    llama.network.config.max_position_embeddings = config.max_position_embeddings = 2048
    llama.tokenizer.model_max_length = bert.tokenizer.model_max_length = 2048
    torch.manual_seed(0)
    bert.network = BertModel(config).eval()
    found = {"smollm2": str(folder / "llama"), "minilm": str(folder / "bert")}
    for model, name in ((llama, "smollm2"), (bert, "minilm")):
        save(model, found[name])
    return found


@pytest.fixture(autouse=True)
def workplace(references, tmp_path, monkeypatch):
    """An empty working directory, examples importable as when one is run as a script."""
    monkeypatch.setattr(sources, "aliases", lambda: references)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(f"{EXAMPLES}{os.sep}"):
            del sys.modules[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path, monkeypatch, capsys):
    arguments, printed = CALLS[path.stem]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments.split()])
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(printed, capsys.readouterr().out)


def test_a_classifier_of_ones_own(tmp_path, monkeypatch, capsys):
    rows = ['{"text": "a good film", "label": "good"}', '{"text": "a bad film", "label": "bad"}']
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows), encoding="utf-8")
    call = ["finetune_classifier.py", "--data", "reviews.jsonl", "--text", "a very good film", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", call)
    runpy.run_path(str(EXAMPLES / "finetune_classifier.py"), run_name="__main__")
    assert re.fullmatch(r"a very good film -> (good|bad) \{'bad': [\d.]+, 'good': [\d.]+\}\n", capsys.readouterr().out)


def test_a_fresh_narrower_student(tmp_path, monkeypatch, capsys):
    config = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    text = json.dumps({**config, "intermediate_size": 64, "max_position_embeddings": 2048})
    (tmp_path / "narrow.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["distill_classifier.py", "--steps", "1", "--student", "narrow.json"])
    runpy.run_path(str(EXAMPLES / "distill_classifier.py"), run_name="__main__")
    assert re.search(r"\d\d\.\d% smaller than the teacher", capsys.readouterr().out)


def test_ppo_with_a_trained_judge(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reward_model.py", "--steps", "1", "--out", "judge"])
    runpy.run_path(str(EXAMPLES / "reward_model.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["ppo.py", "--episodes", "2", "--reward", "judge"])
    runpy.run_path(str(EXAMPLES / "ppo.py"), run_name="__main__")
    assert "rollout 1: reward" in capsys.readouterr().out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path):
    summary = posttrain.run(path, out="run", overrides=OVERRIDES[path.stem])
    assert [step["name"] for step in summary["steps"]]
    assert Path("run/report.html").exists()


def test_all_are_listed():
    listed = re.findall(r"^\| \[`([^`]+)`\]\(\1\) ", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in [*SCRIPTS, *RECIPES])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
