"""Another model as a judge: how it is loaded, known again, and what it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.decode.rerankers._judge import content, encoded, loaded
from posttrain.decode.rerankers.perplexity import Perplexity
from posttrain.decode.search.best_of_n import BestOfN
from posttrain.decode.sequence import Ending, Generated
from posttrain.models.saving import save
from tiny_models import make_tiny_llama

HEADER = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("prompt", "chat", "before", "after"),
    [
        ("Who?\n", None, "Who?\n", "<|im_end|>"),
        ("Who?", True, HEADER, "<|im_end|>\n"),
        ([{"role": "user", "content": "Who?"}], None, HEADER, "<|im_end|>\n"),
    ],
)
def test_the_answer_is_what_is_learned(
    tiny_llama: Any, prompt: Any, chat: bool | None, before: str, after: str
) -> None:
    tokenizer = tiny_llama.tokenizer
    answer = Generated(0, 0, [5], Ending(9, eos_ids=frozenset({2})), tokenizer)
    for token in [*tokenizer("fox")["input_ids"], 2]:
        answer.append(token, 0.0)
    (item,) = encoded(tiny_llama, prompt, [answer], chat)
    learned = [token for token, scored in zip(item.input_ids, item.loss_mask) if scored]
    assert tokenizer.decode(item.input_ids) == f"{before}fox{after}"
    assert tokenizer.decode(learned) == f"fox{after}"


def test_loaded_in_the_precision_of_the_model_that_answers(tiny_llama: Any, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "judge")
    tiny_llama.network.to(torch.bfloat16)
    assert loaded(str(tmp_path / "judge"), tiny_llama).network.dtype == torch.bfloat16


def test_a_folder_is_known_by_its_content(tiny_llama: Any, tmp_path: Path) -> None:
    """So that a step that looks at it is repeated when it has changed."""
    folder = tmp_path / "judge"
    save(tiny_llama, folder)
    search = BestOfN(reranker={"perplexity": {"model": str(folder)}})
    before = search.inputs()
    assert before == {"search": {}, "reranker": content(str(folder))}
    assert before["reranker"]["model"]
    save(make_tiny_llama(seed=1), folder)
    assert search.inputs() != before
    assert Perplexity(model="smollm2").inputs() == {}
