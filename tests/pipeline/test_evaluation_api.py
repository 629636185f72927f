"""The verbs of evaluation: each gives what the command of its name gives, and is documented to its last argument."""

from __future__ import annotations

import importlib
import inspect
import json
import re

import pytest
import yaml

import posttrain
from json_results import without_times
from posttrain.bench.sandbox import Sandbox
from posttrain.core.errors import BadRequest, Failure
from posttrain.models.saving import save
from tiny_models import make_tiny_llama

VERBS = {
    **dict.fromkeys(("compare_scores", "checklist", "contamination", "pass_at_k", "tune_decoding"), "evaluation_api"),
    **dict.fromkeys(("arena", "judge"), "arena_api"),
    **dict.fromkeys(("guard", "guard_data"), "guard_api"),
}


@pytest.fixture
def folder(tiny_llama, tmp_path):
    tiny_llama.network.config.max_position_embeddings = 2048
    tiny_llama.tokenizer.model_max_length = 2048
    save(tiny_llama, tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented(name):
    verb = getattr(importlib.import_module(f"posttrain.pipeline.{VERBS[name]}"), name)
    assert name in posttrain.__all__ and callable(getattr(posttrain, name))
    told = inspect.getdoc(verb) or ""
    assert re.search(rf"^ +>>> .*posttrain\.{name}\(", told, re.MULTILINE)
    members = [verb("x").add, verb("x").results] if name == "arena" else [verb]
    for each in members:
        arguments, _, rest = (inspect.getdoc(each) or "").partition("Args:\n")[2].partition("Returns:\n")
        assert "Raises:\n" in rest
        parameters = inspect.signature(each).parameters
        assert re.findall(r"^    \**(\w+): ", arguments, re.MULTILINE) == list(parameters)
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())


def test_checklist(folder, command):
    suite = {
        "summary": "s",
        "version": "1",
        "ask": {"choices": {"positive": "good", "negative": "bad"}},
        "lexicons": {"word": ["fine", "sad", "great"]},
        "tests": [
            {"name": "up", "capability": "words", "templates": ["{{ word }} film"], "expect": "positive"},
            {"name": "down", "capability": "words", "templates": ["{{ word }} film"], "expect": "negative"},
        ],
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    found = posttrain.checklist(posttrain.load(folder / "model"), folder / "own.yaml", samples=2, examples=1, seed=3)
    words = ("checklist", folder / "model", folder / "own.yaml", "--samples", 2, "--examples", 1, "--seed", 3)
    assert without_times(found) == command(*words)
    assert (found["n"], found["failures"]) == (4, 2)  # of the two labels of a text one is right
    with pytest.raises(BadRequest, match="There is no suite 'sentimant'"):
        posttrain.checklist("nosuch", "sentimant")
    with pytest.raises(BadRequest, match="There is no model 'nosuch'"):
        posttrain.checklist("nosuch", "sentiment")


def test_contamination(folder, command):
    rows = [{"text": " ".join(f"w{i}x{j}" for j in range(15))} for i in range(4)]
    (folder / "lambada").mkdir()
    (folder / "lambada" / "lambada_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text(json.dumps({"text": f"So {rows[2]['text']}."}) + "\n")
    found = posttrain.contamination("lambada_openai", [folder / "train.jsonl"], data=str(folder), rule="overlap")
    words = (
        "contamination",
        "lambada_openai",
        "--data",
        folder,
        "--train",
        folder / "train.jsonl",
        "--rule",
        "overlap",
    )
    assert without_times(found) == command(*words)
    assert (found["lambada_openai"]["share"], found["words"]) == (0.25, 16)
    alone = posttrain.contamination(["lambada_openai"], folder / "train.jsonl", data=str(folder))
    assert alone["lambada_openai"]["found"][0]["words"] == 15
    with pytest.raises(BadRequest, match="no file or folder"):
        posttrain.contamination("lambada_openai", folder / "none", data=str(folder))


def test_pass_at_k(folder, command):
    """Of three programs two are right: pass@1 is 2/3, and two of three hold a right one for sure."""
    try:
        Sandbox().check()
    except (BadRequest, Failure) as refused:
        pytest.skip(str(refused))
    settings = {
        "program": "{{ prompt }}{{ completion }}\n{{ test }}",
        "prompt": "{{ prompt }}",
        "answer": "    return 1",
    }
    (folder / "one.yaml").write_text(
        f"extends: humaneval\ndata: {{test: [{{files: [one.jsonl]}}]}}\ntype: {json.dumps({'code': settings})}\n"
    )
    problem = {"task_id": "t/0", "prompt": "def one():\n", "test": "assert one() == 1"}
    (folder / "one.jsonl").write_text(json.dumps(problem) + "\n")
    samples = {"t/0": ["    return 1", "    return 2", "    return 3 - 2"]}
    lines = [json.dumps({"task_id": "t/0", "completion": text}) + "\n" for text in samples["t/0"]]
    (folder / "samples.jsonl").write_text("".join(lines))
    task, out = folder / "one.yaml", folder / "items.jsonl"
    found = posttrain.pass_at_k(task, folder / "samples.jsonl", k=[1, 2], data=folder, out=out)
    assert without_times(found) == command("pass-at-k", task, folder / "samples.jsonl", "--data", folder, "--k", 1, 2)
    assert {name: each["value"] for name, each in found["metrics"].items()} == {
        "pass@1": pytest.approx(2 / 3),
        "pass@2": 1,
    }
    assert len(json.loads(out.read_text())["samples"]) == found["programs"] == 3
    given = posttrain.pass_at_k(task, samples, data=folder)
    assert given["score"] == found["score"] and given["failures"] == found["failures"]
    with pytest.raises(BadRequest, match="Sample 1 of 't/9': the task has no item 't/9'"):
        posttrain.pass_at_k(task, {"t/9": ["x"]}, data=folder)
    with pytest.raises(BadRequest, match="what was given has no samples"):
        posttrain.pass_at_k(task, {"t/0": []}, data=folder)
    with pytest.raises(BadRequest, match="is a folder, and a file is to be written"):
        posttrain.pass_at_k(task, samples, data=folder, out=folder)


def test_tune_decoding(folder, command):
    rows = [{"prompt": f"Say {i}: ", "completion": f"fox {i}"} for i in range(6)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    space = {"warm": {"search": {"sampling": {"temperature": [0.5, 0.9]}}}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    small = {"metric": "rouge", "max_new_tokens": 3, "chat": False}
    found = posttrain.tune_decoding(folder / "model", folder / "data.jsonl", space=space, seed=2, **small)
    words = ("tune-decoding", folder / "model", "--data", folder / "data.jsonl", "--metric", "rouge", "--seed", 2)
    words += ("--max-new-tokens", 3, "--space", folder / "space.yaml", "--set", "chat=false")
    assert without_times(found) == command(*words)
    assert len(found["candidates"]) == 3
    with pytest.raises(BadRequest, match="give either `metric` or `reward`"):
        posttrain.tune_decoding(folder / "model")


def test_scores_compared(folder, command):
    """As the command's --baseline, from results and from a file; the other way round the sign is another."""
    save(make_tiny_llama(seed=1), folder / "other")
    ours = posttrain.bench(folder / "model", "handbook_quiz", limit=24)
    theirs = posttrain.bench(folder / "other", "handbook_quiz", limit=24, out=folder / "items.jsonl")
    found = posttrain.compare_scores(ours, theirs, seed=5)["handbook_quiz"]
    words = ("bench", folder / "model", "handbook_quiz", "--limit", 24, "--baseline", folder / "items.jsonl")
    expected = command(*words, "--seed", 5)["handbook_quiz"]["comparison"]
    assert json.loads(json.dumps(found.to_dict())) == expected
    assert posttrain.compare_scores(ours, folder / "items.jsonl", seed=5)["handbook_quiz"] == found
    back = posttrain.compare_scores(theirs, ours)["handbook_quiz"].score
    assert (back.difference, back.p_value) == (-found.score.difference, found.score.p_value)
    assert found.score.value == ours["handbook_quiz"].score
    fewer = posttrain.bench(folder / "model", "handbook_quiz", limit=20)
    with pytest.raises(BadRequest, match="there are 20 items, and the baseline answered 24"):
        posttrain.compare_scores(fewer, theirs)
    with pytest.raises(BadRequest, match="There is no file"):
        posttrain.compare_scores(ours, folder / "none.jsonl")
