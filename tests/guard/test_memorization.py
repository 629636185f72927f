"""Exposure and verbatim extraction, on a tiny model trained to know one canary and one text by heart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from posttrain.core.errors import BadRequest
from posttrain.data.canaries import Canary, make_canaries, write_canaries
from posttrain.guard.memorization import Memorization, _exposure
from posttrain.models.language_model import LanguageModel
from tiny_models import make_tiny_llama

TEMPLATE = "The answer is {secret}."
KNOWN = Canary(TEMPLATE, "417", repeats=8)
UNKNOWN = Canary(TEMPLATE, "852")
TEXT = "The quick brown fox jumps over the lazy dog. A language model predicts the next token. What is the rank?"


@pytest.fixture(scope="module")
def trained() -> LanguageModel:
    model = make_tiny_llama()
    network = model.network.train()
    texts = [KNOWN.text, TEXT]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(120):
        for text in texts:
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            network(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    return model


@pytest.fixture
def canaries(tmp_path: Path) -> str:
    write_canaries([KNOWN, UNKNOWN], tmp_path / "canaries.jsonl")
    return str(tmp_path / "canaries.jsonl")


def bits_of(model: LanguageModel, text: str) -> float:
    """Log-perplexity by transformers' own loss: the mean nats a token times their number."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        loss = model.network(input_ids=ids, labels=ids).loss
    return float(loss) * (ids.shape[1] - 1) / math.log(2)


def test_the_exact_rank_among_all_secrets(trained, canaries):
    """Of 1,000 secrets the one that was learned is the likeliest: rank 1, log2 1000 = 9.97 bits."""
    found = Memorization(canaries=canaries, candidates=1000, exposure=8).inspect(trained)
    known, unknown = found.figures["exposures"]
    assert (known["rank"], known["of"], known["by"]) == (1, 1000, "rank")
    assert known["exposure"] == pytest.approx(math.log2(1000))
    own = bits_of(trained, UNKNOWN.text)
    others = [bits_of(trained, TEMPLATE.replace("{secret}", f"{n:03}")) for n in range(1000) if n not in (417, 852)]
    assert unknown["bits"] == pytest.approx(own, rel=1e-4)
    rank = 1 + sum(each <= own for each in others)
    assert abs(unknown["rank"] - rank) <= 1  # neighbours may change places by rounding
    assert unknown["exposure"] == pytest.approx(math.log2(1000) - math.log2(unknown["rank"]))
    (finding,) = found.findings
    assert (finding.category, found.action) == ("canary", "flag")
    assert KNOWN.text[finding.start : finding.end] == "417"
    assert found.figures["exposed_canaries"] == 1 and found.figures["exposed_share"] == 0.5


def test_beyond_a_sample_the_fitted_tail_goes_on(trained, canaries):
    """64 sampled secrets bound the rank's exposure by log2 65 = 6.02 bits; the tail says more, at most 9.97."""
    found = Memorization(canaries=canaries, candidates=64).inspect(trained)
    known, unknown = found.figures["exposures"]
    assert known["sampled_exposure"] == pytest.approx(math.log2(65))
    assert known["by"] == "skew-normal"
    assert math.log2(65) < known["exposure"] <= math.log2(1000)
    assert 0 < known["fit_distance"] < 0.3
    assert unknown["by"] == "sample" and unknown["exposure"] < 6


def test_a_model_that_never_saw_it_shows_nothing(tiny_llama, canaries):
    found = Memorization(canaries=canaries, candidates=256).inspect(tiny_llama)
    assert found.findings == [] and found.action == "allow"


def test_hand_worked_exposures():
    """R has 100 secrets. Of 3 others none or two are as likely, which gives the ranks 1 and 3."""
    canary = Canary("{secret}", "12")
    assert _exposure(canary, 1.0, [5.0, 6.0, 9.0], True)["exposure"] == pytest.approx(math.log2(100))
    assert _exposure(canary, 7.0, [5.0, 6.0, 9.0], True)["exposure"] == pytest.approx(math.log2(100 / 3))
    assert _exposure(canary, 6.0, [5.0, 6.0, 9.0], True)["rank"] == 3  # as likely counts
    sampled = _exposure(canary, 7.0, [5.0, 6.0, 9.0], False)
    assert sampled["exposure"] == sampled["sampled_exposure"] == pytest.approx(math.log2(4) - math.log2(3))
    alike = _exposure(canary, 5.0, [5.0, 5.0, 5.0], False)
    assert alike["exposure"] == 0.0 and alike["by"] == "sample"


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.jsonl"
    other = "Rain fell all night and the river rose until the bridge was gone and nobody could cross it anymore."
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (TEXT, other, "short")))
    return str(path)


def test_verbatim_extraction(trained, data):
    """Two records have a passage of 40 tokens after 8; the one that was learned comes out, the other doesn't."""
    found = Memorization(data=data, prefix_tokens=8, lengths=[4, 40]).inspect(trained)
    assert found.figures["verbatim_passages"] == 2
    assert found.figures["verbatim_share"] == found.figures["verbatim_40_share"] == 0.5
    assert found.figures["verbatim_4_share"] == 0.5
    assert found.figures["verbatim_longest_tokens"] == 40
    (finding,) = found.findings
    assert finding.category == "verbatim" and "data.jsonl:1" in finding.reason
    ids = trained.tokenizer(TEXT)["input_ids"]
    assert TEXT[finding.start : finding.end] == trained.tokenizer.decode(ids[8:48])


def test_a_long_text_has_many_passages(trained, tmp_path):
    """Passages of 5 tokens after 3 begin at 3, 11, 19 … of the n tokens and the end mark, as long as 5 are left."""
    (tmp_path / "text.txt").write_text(TEXT)
    tokens = len(trained.tokenizer(TEXT)["input_ids"]) + 1
    settings = {"data": str(tmp_path / "text.txt"), "prefix_tokens": 3, "lengths": [5]}
    found = Memorization(**settings).inspect(trained).figures
    assert found["verbatim_passages"] == len(range(3, tokens - 5 + 1, 8))
    assert Memorization(**settings, passages=2).inspect(trained).figures["verbatim_passages"] == 2


def test_of_records_with_a_prompt_the_answer_must_come_out(trained, tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": TEXT[:20], "completion": TEXT[20:]}, {"prompt": TEXT[:20], "completion": "nothing of the kind"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Memorization(data=str(path), prefix_tokens=8, lengths=[5]).inspect(trained)
    assert found.figures["verbatim_passages"] == 2 and found.figures["verbatim_share"] == 0.5


def test_nothing_long_enough(trained, data):
    with pytest.raises(BadRequest, match="goes on for 5000 tokens"):
        Memorization(data=data, lengths=[5000]).inspect(trained)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"data": "x", "lengths": [0]}, "none below 1"), ({"candidates": 3}, "16")],
)
def test_refusals(settings, told):
    with pytest.raises(BadRequest, match=told):
        Memorization.parse(settings)


def test_nothing_to_look_for(tiny_llama):
    for use in (Memorization().inputs, lambda: Memorization().inspect(tiny_llama)):
        with pytest.raises(BadRequest, match="Neither `canaries` nor `data`"):
            use()


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_other_kinds_of_records(tiny_llama, tmp_path, kind):
    write_canaries(make_canaries(1, length=2), tmp_path / "c.jsonl")
    found = Memorization(canaries=str(tmp_path / "c.jsonl"), kind=kind, candidates=128).inspect(tiny_llama)
    assert found.figures["exposures"][0]["of"] == 100
