"""Preference pairs: what is learned, how they are packed, their log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from alignment_toy import PAIRS

from posttrain.align.pairs import collate_pairs, encode_pairs, pair_metrics, segment_logprobs, summarize_pairs
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.packing import passes
from posttrain.train.objectives import Encoding


def test_both_answers_and_their_ends_are_learned(tiny_llama):
    tokenizer = tiny_llama.tokenizer
    batch = collate_pairs(encode_pairs(dataset.read(PAIRS[:2]), tokenizer, Encoding()))
    assert batch.segments == 4
    for number, (row, side) in enumerate((r, s) for r in PAIRS[:2] for s in ("chosen", "rejected")):
        own = slice(batch.boundaries[number], batch.boundaries[number + 1])
        assert tokenizer.decode(batch.input_ids[own]) == f"{row['prompt']}{row[side]}<|im_end|>"
        learned = batch.targets[own][batch.targets[own] >= 0]
        assert tokenizer.decode(learned).strip() == f"{row[side]}<|im_end|>"


def test_no_pass_parts_a_pair(tiny_llama):
    items = encode_pairs(dataset.read(PAIRS), tiny_llama.tokenizer, Encoding())
    parts = passes(items, 60)
    assert len(parts) > 2
    assert all(collate_pairs(part).segments == 2 * len(part) for part in parts)


def test_log_probabilities_of_answers(tiny_llama):
    """Against the network's own logits, one sequence at a time."""
    batch = collate_pairs(encode_pairs(dataset.read(PAIRS[:3]), tiny_llama.tokenizer, Encoding()))
    with torch.no_grad():
        found = segment_logprobs(tiny_llama.network, batch)
        lengths = batch.lengths.tolist()
        for ids, targets, own in zip(batch.input_ids.split(lengths), batch.targets.split(lengths), found):
            logprobs = tiny_llama.network(ids[None]).logits[0].log_softmax(-1)
            expected = sum(float(logprobs[i, t]) for i, t in enumerate(targets.tolist()) if t >= 0)
            assert float(own) == pytest.approx(expected, abs=1e-3)


def test_metrics_count_a_tie_half():
    found = pair_metrics(torch.tensor([2.0, -1.0, 0.0]))
    assert (found["margin"], found["accuracy"]) == (1.0, 1.5)


def test_calibration_by_hand():
    """Margins ln 3, -ln 3, ln 19 and 0 claim their order with 0.75, 0.75, 0.95 and 0.5; right are the first and third.

    In the bin of 0.75 one of two is right, 0.5 too much in sum; in that of 0.95 one of one, 0.05 too little; a tie is
    half right, as it claims. (0.5 + 0.05 + 0) / 4 = 0.1375, the same if the pairs come in two batches.
    """
    margins = torch.tensor([math.log(3), -math.log(3), math.log(19), 0.0])
    whole = summarize_pairs(pair_metrics(margins), 4)
    assert whole == pytest.approx({"margin": math.log(19) / 4, "accuracy": 0.625, "calibration_error": 0.1375})
    first, second = pair_metrics(margins[:1]), pair_metrics(margins[1:])
    assert summarize_pairs({key: first[key] + second[key] for key in first}, 4) == pytest.approx(whole)


def test_length_limits(tiny_llama):
    records, tokenizer = dataset.read(PAIRS), tiny_llama.tokenizer
    with pytest.raises(BadRequest, match=r"rows:\d+: \d+ tokens, but max_length is 20"):
        encode_pairs(records, tokenizer, Encoding(max_length=20))
    assert len(encode_pairs(records, tokenizer, Encoding(max_length=24, too_long="skip"))) < len(PAIRS)
    cut = encode_pairs(records, tokenizer, Encoding(max_length=20, too_long="truncate"))
    assert max(len(item) for item in cut) <= 40
    with pytest.raises(BadRequest, match="can't be split"):
        encode_pairs(records, tokenizer, Encoding(too_long="split"))
    with pytest.raises(BadRequest, match="need a chosen and a rejected answer"):
        encode_pairs(dataset.read([{"text": "a"}]), tokenizer, Encoding())
