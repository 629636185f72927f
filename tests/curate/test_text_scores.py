"""Scores of texts: the class's own loss on each text alone, answers given prompts, and going on after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from measure.masked_toy import make_tiny_masked
from posttrain.core.errors import BadRequest, Failure
from posttrain.curate import text_scores
from posttrain.curate.text_scores import TextScore, conditions, score_texts, signature
from posttrain.data.record import Chat, Completion, Labelled, Preference, Text
from posttrain.models.language_model import LanguageModel

TEXTS = ["The quick brown fox jumps.", "é", "Rain fell all night, and the river rose over the road again."]


def expected(model: LanguageModel, text: str) -> float:
    """Nats of all its tokens behind the token that begins a text."""
    ids = torch.tensor([[model.tokenizer.bos_token_id, *model.tokenizer(text)["input_ids"]]])
    with torch.no_grad():
        return float(model.network(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)


def test_a_text_is_scored_whole(tiny_llama: LanguageModel) -> None:
    """All bytes of it, so bits per byte are those of the text; é alone has a probability too."""
    found = score_texts(tiny_llama, [Text(text) for text in TEXTS])
    assert [score.nats for score in found] == pytest.approx([expected(tiny_llama, text) for text in TEXTS], rel=1e-5)
    assert [score.bytes for score in found] == [len(text.encode()) for text in TEXTS]
    assert found[0].bits_per_byte == pytest.approx(expected(tiny_llama, TEXTS[0]) / math.log(2) / 26, rel=1e-5)
    assert found[1].perplexity == pytest.approx(math.exp(found[1].nats / found[1].tokens))
    labelled = score_texts(tiny_llama, [Labelled(TEXTS[0], "a"), Labelled("The quick", 1, "brown")])
    assert labelled[0].nats == pytest.approx(found[0].nats, rel=1e-5)
    assert labelled[1].nats == pytest.approx(expected(tiny_llama, "The quick\nbrown"), rel=1e-5)


def test_neither_order_nor_batches_change_a_score(tiny_llama: LanguageModel) -> None:
    records = [Text(text) for text in TEXTS * 3]
    whole = score_texts(tiny_llama, records)
    for tokens_per_pass in (1, 64):
        other = score_texts(tiny_llama, records[::-1], tokens_per_pass=tokens_per_pass)[::-1]
        assert [score.nats for score in other] == pytest.approx([score.nats for score in whole], rel=1e-6)


def test_of_prompts_with_answers_the_answers_count(tiny_llama: LanguageModel) -> None:
    tokenizer = tiny_llama.tokenizer
    (found,) = score_texts(tiny_llama, [Completion("Who sleeps?", " The dog.")])
    ids = tokenizer("Who sleeps? The dog." + tokenizer.eos_token, return_tensors="pt").input_ids
    labels = ids.clone()
    labels[:, : len(tokenizer("Who sleeps?")["input_ids"])] = -100
    with torch.no_grad():
        mean = float(tiny_llama.network(input_ids=ids, labels=labels).loss)
    assert found.nats == pytest.approx(mean * found.tokens, rel=1e-5)
    assert (found.tokens, found.bytes) == (int((labels != -100).sum()), len(" The dog."))
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The dog."}]
    assert score_texts(tiny_llama, [Chat(turns)])[0].bytes == 8


class Killed(BaseException):
    """In place of kill -9."""


def test_an_interrupted_call_goes_on_bit_for_bit(
    tiny_llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two records; the process dies in the third part, and in the middle of writing a line of the second."""
    monkeypatch.setattr(text_scores, "_PART_RECORDS", 2)
    records = [Text(f"{text} {number}") for number in range(3) for text in TEXTS]
    whole = score_texts(tiny_llama, records)
    real, calls = text_scores.token_losses, []

    def dying(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*arguments, **more)

    store = tmp_path / "deep" / "scores"
    monkeypatch.setattr(text_scores, "token_losses", dying)
    with pytest.raises(Killed):
        score_texts(tiny_llama, records, store=store, key="k")
    lines = store.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3  # the key and two parts
    store.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert score_texts(tiny_llama, records, store=store, key="k") == whole
    assert len(calls) == 3 + 4  # one part of five was kept
    calls.clear()
    assert score_texts(tiny_llama, records, store=store, key="k") == whole
    assert not calls


@pytest.mark.parametrize("content", [b"", b"half a li", b'"other"\n[[1]]\n', b'"k'])
def test_what_is_not_this_work_is_dropped(tiny_llama: LanguageModel, tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "scores"
    store.write_bytes(content)
    found = score_texts(tiny_llama, [Text("a b")], store=store, key="k")
    assert store.read_text().splitlines()[0] == '"k"'
    assert [TextScore(**each) for each in json.loads(store.read_text().splitlines()[1])] == found


def test_what_can_not_be_scored_is_named(tiny_llama: LanguageModel) -> None:
    with pytest.raises(BadRequest, match="can't score texts"):
        score_texts(make_tiny_masked(), [Text("a")])
    with pytest.raises(BadRequest, match="x:7: a preference record has no answer"):
        score_texts(tiny_llama, [Preference("a", "b", "c", "x:7")])
    with pytest.raises(BadRequest, match="x:8: there is no answer"):
        score_texts(tiny_llama, [Chat([{"role": "user", "content": "a"}], origin="x:8")])
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.fill_(math.nan)
    with pytest.raises(Failure, match="x:9: the model's logits are not numbers"):
        score_texts(tiny_llama, [Text("a b", "x:9")])


def test_a_loss_without_a_perplexity_is_refused(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    """Thousands of nats a token are finite, but exp of them is no number; and a refused call leaves no file."""
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.mul_(1e5)
    with pytest.raises(Failure, match=r"x:9: .* that have a perplexity: [0-9.e+]+ nats a token"):
        score_texts(tiny_llama, [Text("a b", "x:9")], store=tmp_path / "scores", key="k")
    assert not list(tmp_path.iterdir())


def test_conditions_tell_apart_what_scores_depend_on(tiny_llama: LanguageModel) -> None:
    made = conditions(tiny_llama)
    assert (made["window"], made["stride"], made["chat"]) == (128, 64, "own")
    assert conditions(tiny_llama, window=64, chat=True) == {**made, "window": 64, "stride": 32, "chat": "true"}
    told = signature("domain", made)
    assert told.startswith(f"domain|model:{tiny_llama.fingerprint()[:12]}|tokenizer:") and "|window:128|" in told
