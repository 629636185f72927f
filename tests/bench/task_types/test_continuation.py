"""Whether the model would write a continuation, and how likely it finds it."""

from __future__ import annotations

import pytest
import torch

from posttrain.bench.item import Item
from posttrain.bench.question import Question
from posttrain.bench.task_types import Effort
from posttrain.bench.task_types.continuation import Continuation


def test_accuracy_and_nats(tiny_llama):
    """The model's own next token is right with -log p nats; any other one isn't."""
    ids = tiny_llama.tokenizer("The dog")["input_ids"]
    with torch.no_grad():
        logprobs = tiny_llama.network(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    best, other = int(logprobs.argmax()), tiny_llama.tokenizer("q")["input_ids"][0]
    texts = [tiny_llama.tokenizer.decode([token]) for token in (best, other)]
    assert [tiny_llama.tokenizer("The dog" + text)["input_ids"] for text in texts] == [[*ids, best], [*ids, other]]
    type_ = Continuation.parse({"prompt": "The dog", "continuation": "{{ text }}", "delimiter": ""})
    asked = [Question(Item({"text": text}, "f:1", "t"), "") for text in texts]
    first, second = type_.ask(tiny_llama, asked, Effort(64, 1))
    assert first.scores == {"acc": 1.0, "perplexity": pytest.approx(-float(logprobs[best]), abs=1e-5)}
    assert second.scores == {"acc": 0.0, "perplexity": pytest.approx(-float(logprobs[other]), abs=1e-5)}
    assert first.chance is None
