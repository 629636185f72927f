"""The Python API: each verb on a tiny model, by reference and loaded, equals the layer below it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import posttrain
from posttrain.models import saving
from posttrain.pipeline.speed import tokens_per_second


@pytest.fixture
def folder(tiny_llama, tmp_path: Path) -> Path:
    saving.save(tiny_llama, tmp_path / "model")
    rows = [{"prompt": f"What is {i}?", "completion": f" It is {i}."} for i in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "text.txt").write_text("The river rose in the night. " * 20, encoding="utf-8")
    return tmp_path


def test_load_and_generate(folder, tiny_llama):
    model = posttrain.load(folder / "model")
    ours = posttrain.generate(model, "The river", max_new_tokens=5).generations[0]
    by_name = posttrain.generate(str(folder / "model"), ["The river"], max_new_tokens=5).generations[0]
    ids = tiny_llama.tokenizer("The river", return_tensors="pt")["input_ids"]
    theirs = tiny_llama.network.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert list(ours.token_ids) == list(by_name.token_ids) == theirs.tolist()
    drawn = [
        posttrain.generate(model, "The", search={"sampling": {"temperature": 2.0}}, seed=seed, max_new_tokens=8)
        for seed in (1, 1, 2)
    ]
    texts = [found.generations[0].text for found in drawn]
    assert texts[0] == texts[1] != texts[2]


def test_perplexity(folder, tiny_llama):
    """One window over the whole text is the network's own mean loss."""
    text = (folder / "text.txt").read_text(encoding="utf-8")
    ids = tiny_llama.tokenizer(text, return_tensors="pt")["input_ids"][:, :100]
    with torch.no_grad():
        loss = float(tiny_llama.network(ids, labels=ids).loss)
    found = posttrain.perplexity(folder / "model", folder / "text.txt", window=128, max_tokens=100)
    assert found.parts["nll"] == pytest.approx(loss, abs=1e-5)
    assert found.parts["tokens_scored"] == ids.shape[1] - 1


def test_train_quantize_and_audit(folder):
    model, numbers = posttrain.train(
        folder / "model", folder / "data.jsonl", steps=12, learning_rate=0.02, out=folder / "tuned"
    )
    assert numbers["loss"] < numbers["first_loss"]
    again = posttrain.load(folder / "tuned")
    assert again.adapter.rank == model.adapter.rank and again.fingerprint() == model.fingerprint()
    base = posttrain.load(folder / "model")
    small, found = posttrain.quantize(
        base, "dynamic", text=str(folder / "text.txt"), max_tokens=90, out=folder / "small", allow_slower=True
    )
    assert small is base and found["bytes_after"] < found["bytes_before"]
    assert posttrain.load(folder / "small").fingerprint() == small.fingerprint()
    assert posttrain.audit(folder / "data.jsonl", folder / "model")["rows"] == 8


def test_align(folder):
    """By default on built-in pairs; here on pairs of its own."""
    rows = [{"prompt": f"Say {i}: ", "chosen": f"fox {i}", "rejected": f"dog {i}"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model, found = posttrain.align(
        folder / "model",
        {"dpo": {"beta": 0.5}},
        folder / "pairs.jsonl",
        steps=6,
        learning_rate=0.002,
        max_new_tokens=3,
        out=folder / "aligned",
    )
    assert found["reward_before"] == 0.0 and found["loss"] < found["first_loss"]
    assert posttrain.load(folder / "aligned").fingerprint() == model.fingerprint()


def test_distill(folder):
    teacher = posttrain.load(folder / "model")
    student, found = posttrain.distill(
        teacher, "layers:1", folder / "data.jsonl", losses="feature", steps=3, out=folder / "student"
    )
    assert found["student"]["parameters"] == student.parameter_count() < teacher.parameter_count()
    assert found["teacher"]["parameters"] == teacher.parameter_count()
    assert posttrain.load(folder / "student").fingerprint() == student.fingerprint()


def test_full_fine_tuning_leaves_a_whole_model(folder):
    """In-place methods write an ordinary checkpoint, which transformers itself loads."""
    from transformers import AutoModelForCausalLM

    model, _ = posttrain.train(
        folder / "model", folder / "data.jsonl", adapt="full", steps=3, learning_rate=1e-3, out=folder / "tuned"
    )
    assert model.adapter is None
    theirs = AutoModelForCausalLM.from_pretrained(folder / "tuned")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model.network(ids).logits)


def test_bench(folder):
    """Records of all items go to a file; the score is the mean of theirs."""
    found = posttrain.bench(folder / "model", "handbook_quiz", limit=4, out=folder / "items.jsonl")["handbook_quiz"]
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found.n == len(lines) == 4
    assert found.score == sum(line["scores"]["acc_norm"] for line in lines) / 4
    again = posttrain.bench(posttrain.load(folder / "model"), ["handbook_quiz"], limit=4, num_fewshot=2)
    assert "shots:2" in again["handbook_quiz"].signature


def test_speed_counts_new_tokens(tiny_llama, monkeypatch):
    """The best of three runs: 24 tokens in 4, 2 and 3 seconds are 12 a second."""
    from posttrain.pipeline import speed

    seconds = iter([4.0, 2.0, 3.0])

    class Fake:
        def __init__(self) -> None:
            self.tokens_per_second = 24 / next(seconds)

    monkeypatch.setattr(speed, "generate", lambda *_, **__: Fake())
    assert tokens_per_second(tiny_llama) == 12


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = posttrain.nonsense
    assert set(posttrain.__all__) <= set(dir(posttrain))


def test_ways_of_decoding(folder):
    prompts = ["The dog", "The fox"]
    small = {"samples": 2, "max_new_tokens": 5, "chat": False}
    found = posttrain.compare_decoding(folder / "model", prompts, ["greedy", "top_p"], seed=3, **small)
    assert [row["method"] for row in found["methods"]] == ["greedy", "top_p"]
    assert found == posttrain.compare_decoding(folder / "model", prompts, ["greedy", "top_p"], seed=3, **small) | {
        "methods": found["methods"],  # speeds differ
        "energy": found["energy"],
    }
    swept = posttrain.temperature_sweep(folder / "model", prompts, (0, 2.0), **small)
    assert [row["temperature"] for row in swept["temperatures"]] == [0, 2]
    assert swept["recommended"] in (0, 2)


def test_next_token_distribution(tiny_llama):
    found = posttrain.next_token_distribution(tiny_llama, "The dog", [1, 0], 3)
    assert found["temperatures"] == [1, 0]
    assert [token["probabilities"][1] for token in found["tokens"]] == [1, 0, 0]
    ids = tiny_llama.tokenizer("The dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        shares = tiny_llama.network(ids).logits[0, -1].softmax(-1)
    for token in found["tokens"]:
        assert token["probabilities"][0] == pytest.approx(float(shares[token["token_id"]]), rel=1e-4)
