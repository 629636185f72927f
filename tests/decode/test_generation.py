"""`generate` against transformers' own, and what it promises about text, endings, errors and progress."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure
from posttrain.decode.engine import Engine
from posttrain.decode.generation import generate
from posttrain.decode.processors import DecodeState, LogitsProcessor
from posttrain.decode.search.greedy import Greedy
from posttrain.decode.search.sampling import Sampling

PROMPTS = [
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    [20, 21],
    [33],
    [44, 45, 46, 47, 48, 49, 50, 51],
    [60, 61, 62],
]


class Forced(LogitsProcessor):
    """Makes every row say the same text."""

    tokens: list[int]

    def __call__(self, logits: torch.Tensor, state: DecodeState) -> torch.Tensor:
        forced = torch.full_like(logits, -torch.inf)
        for row, generated in enumerate(state.generated):
            forced[row, self.tokens[len(generated)]] = 0.0
        return forced


def transformers_greedy(model: Any, prompt: list[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.network.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "qwen2", "gemma2", "gpt_oss", "bloom"])
def test_greedy_equals_transformers_token_by_token(make_model: Any, architecture: str) -> None:
    """Unequal prompts, alone, all together, and with rows joining while others are in work."""
    model = make_model(architecture)
    expected = [transformers_greedy(model, prompt, 20) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) > 4
    for batch_size in (1, 3, 16):
        result = generate(model, PROMPTS, search=Greedy(), max_new_tokens=20, batch_size=batch_size)
        assert [g.token_ids for g in result.generations] == expected


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "qwen2"])
def test_usual_architectures_run_without_padding(make_model: Any, architecture: str) -> None:
    assert Engine(make_model(architecture)).joins


@pytest.mark.real_model
def test_greedy_equals_transformers_on_a_real_model(smollm2: Any) -> None:
    texts = [
        "The capital of France is",
        "def fibonacci(n):\n",
        "Once upon a time, in a village by the sea, there lived",
        "2, 4, 6, 8,",
        "Dear Sir or Madam,\n\nI am writing to",
        "Photosynthesis is the process by which green plants and some other organisms use sunlight to",
    ]
    prompts = [smollm2.tokenizer(text)["input_ids"] for text in texts]
    expected = [transformers_greedy(smollm2, prompt, 16) for prompt in prompts]
    together = generate(smollm2, texts, search=Greedy(), max_new_tokens=16)
    assert [g.token_ids for g in together.generations] == expected
    alone = generate(smollm2, texts[:2], search=Greedy(), max_new_tokens=16, batch_size=1)
    assert [g.token_ids for g in alone.generations] == expected[:2]
    assert [g.text for g in together.generations] == [
        smollm2.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected
    ]


def test_logprobs_are_the_models_own_before_processors(lively: Any) -> None:
    result = generate(lively, PROMPTS[:2], search=Sampling(temperature=2.0, top_k=5), max_new_tokens=8, ignore_eos=True)
    for prompt, generation in zip(PROMPTS, result.generations):
        with torch.no_grad():
            logits = lively.network(torch.tensor([prompt + generation.token_ids])).logits[0].double()
        reference = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        expected = [float(reference[i, token]) for i, token in enumerate(generation.token_ids)]
        assert generation.logprobs == pytest.approx(expected, abs=1e-4)
        assert generation.logprob == pytest.approx(sum(expected), abs=1e-3)


def test_counts_and_times(lively: Any) -> None:
    result = generate(lively, PROMPTS[:3], search=Greedy(), max_new_tokens=5, ignore_eos=True)
    assert result.new_tokens == 15
    assert result.prefill_seconds > 0
    assert result.tokens_per_second == pytest.approx(15 / result.decode_seconds)
    assert {g.finish_reason for g in result.generations} == {"length"}


def test_end_of_text_ends_a_sequence_and_belongs_to_its_tokens(lively: Any) -> None:
    forced = Forced(tokens=[*lively.tokenizer("fox")["input_ids"], 2, 70, 71, 72, 73, 74])
    count = len(forced.tokens) - 5
    (generation,) = generate(lively, ["The"], search=Greedy(), processors=[forced], max_new_tokens=8).generations
    assert generation.token_ids == forced.tokens[:count]
    assert (generation.text, generation.finish_reason) == ("fox", "eos")
    (generation,) = generate(
        lively, ["The"], search=Greedy(), processors=[forced], max_new_tokens=count + 2, ignore_eos=True
    ).generations
    assert generation.token_ids == forced.tokens[: count + 2]
    assert generation.finish_reason == "length"


def test_end_of_text_may_be_several_tokens_of_the_generation_config(lively: Any) -> None:
    lively.network.generation_config.eos_token_id = [70, 71]
    (generation,) = generate(
        lively, ["The"], search=Greedy(), processors=[Forced(tokens=[69, 71, 72])], max_new_tokens=3
    ).generations
    assert (generation.token_ids, generation.finish_reason) == ([69, 71], "eos")
    assert generation.text == lively.tokenizer.decode([69])


def test_stop_string_that_spans_tokens(lively: Any) -> None:
    """The text is cut before it, the tokens go on to the one that completes it, nothing of it is streamed."""
    tokens = lively.tokenizer("The dog sleeps. And the fox")["input_ids"]
    texts = ["".join(lively.tokenizer.decode(tokens[: i + 1])) for i in range(len(tokens))]
    completing = next(i for i, text in enumerate(texts) if "eeps. A" in text)
    pieces: list[str] = []
    (generation,) = generate(
        lively,
        ["x"],
        search=Greedy(),
        processors=[Forced(tokens=tokens)],
        max_new_tokens=len(tokens),
        stop=["nowhere", "eeps. A"],
        on_text=lambda index, text: pieces.append(text),
    ).generations
    assert generation.text == "The dog sl" == "".join(pieces)
    assert generation.token_ids == tokens[: completing + 1]
    assert generation.finish_reason == "stop"


def test_special_token_as_stop_string(lively: Any) -> None:
    (generation,) = generate(
        lively,
        ["x"],
        search=Greedy(),
        processors=[Forced(tokens=[70, 1, 71])],
        max_new_tokens=3,
        stop=["<|im_start|>"],
    ).generations
    assert (generation.token_ids, generation.finish_reason) == ([70, 1], "stop")
    assert generation.text == lively.tokenizer.decode([70])


def test_streamed_pieces_join_to_the_text_of_each_prompt(lively: Any) -> None:
    pieces: dict[int, list[str]] = {}
    result = generate(
        lively,
        PROMPTS,
        search=Sampling(temperature=3.0, num_samples=2),
        max_new_tokens=24,
        batch_size=3,
        on_text=lambda index, text: pieces.setdefault(index, []).append(text),
    )
    silent = generate(lively, PROMPTS, search=Sampling(temperature=3.0, num_samples=2), max_new_tokens=24, batch_size=3)
    assert len(result.generations) == 10
    for index, generation in enumerate(result.generations):
        assert "".join(pieces.get(index, [])) == generation.text == silent.generations[index].text
        assert all(pieces.get(index, ["-"]))  # no empty pieces


def test_chat_prompts_go_through_the_template(lively: Any) -> None:
    message = [{"role": "user", "content": "Hi"}]
    rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    expected = generate(lively, [rendered], search=Greedy(), max_new_tokens=6).generations[0].token_ids
    assert generate(lively, [message], search=Greedy(), max_new_tokens=6).generations[0].token_ids == expected
    assert generate(lively, ["Hi"], search=Greedy(), max_new_tokens=6, chat=True).generations[0].token_ids == expected
    begun = [*message, {"role": "assistant", "content": "The dog"}]
    expected = generate(lively, [rendered + "The dog"], search=Greedy(), max_new_tokens=6).generations[0].token_ids
    assert generate(lively, [begun], search=Greedy(), max_new_tokens=6).generations[0].token_ids == expected


def test_empty_prompt_begins_with_the_bos_token(lively: Any) -> None:
    expected = generate(lively, [[1]], search=Greedy(), max_new_tokens=4).generations[0].token_ids
    assert generate(lively, [""], search=Greedy(), max_new_tokens=4).generations[0].token_ids == expected
    lively.tokenizer.bos_token = None
    with pytest.raises(BadRequest, match="Prompt 2 is empty"):
        generate(lively, ["a", ""], search=Greedy(), max_new_tokens=4)


def test_needs_no_pad_token(make_model: Any) -> None:
    for architecture in ("llama", "bloom"):
        model = make_model(architecture)
        expected = generate(model, PROMPTS, search=Greedy(), max_new_tokens=4).generations
        model.tokenizer.pad_token = None
        model.network.config.pad_token_id = None
        assert generate(model, PROMPTS, search=Greedy(), max_new_tokens=4).generations == expected


def test_refusals(lively: Any) -> None:
    with pytest.raises(BadRequest, match=r"Prompt 2 has 120 tokens; with 9 .* 128 tokens"):
        generate(lively, [[5], [5] * 120], search=Greedy(), max_new_tokens=9)
    generate(lively, [[5] * 120], search=Greedy(), max_new_tokens=8)  # exactly fits
    for arguments in ({"max_new_tokens": 0}, {"batch_size": 0}, {"stop": [""]}, {"stop": "text"}):
        with pytest.raises(BadRequest):
            generate(lively, ["a"], search=Greedy(), **arguments)
    with pytest.raises(BadRequest, match="list"):
        generate(lively, "a", search=Greedy())
    lively.tokenizer.chat_template = None
    with pytest.raises(BadRequest, match=r"Prompt 1 .* no chat template"):
        generate(lively, ["a"], search=Greedy(), chat=True)


def test_no_prompts_no_generations(lively: Any) -> None:
    result = generate(lively, [], search=Greedy())
    assert (result.generations, result.new_tokens, result.tokens_per_second) == ([], 0, 0.0)


@pytest.mark.parametrize("search", [Greedy(), Sampling(temperature=0.8, top_k=5, top_p=0.9)])
def test_scores_that_are_not_numbers_fail_with_a_sentence(lively: Any, search: Any) -> None:
    with torch.no_grad():
        lively.network.model.norm.weight.fill_(math.nan)
    with pytest.raises(Failure, match="not numbers"):
        generate(lively, ["a"], search=search, max_new_tokens=4)


def test_progress_counts_tokens_and_ends_complete(lively: Any) -> None:
    seen: list[events.Event] = []
    with events.listen(seen.append):
        generate(lively, PROMPTS, search=Greedy(), processors=[Forced(tokens=[70, 71, 2, 70, 70])], max_new_tokens=5)
    assert seen[0].kind == "start"
    assert (seen[0].name, seen[0].fields["total"], seen[0].fields["unit"]) == ("Generate", 25, "tokens")
    advances = [event for event in seen if event.kind == "advance"]
    assert advances[-1].fields["done"] == advances[-1].fields["total"] == 15
    assert seen[-1].kind == "end"
    assert seen[-1].fields["ok"]


def test_interruption_propagates_and_leaves_the_model_as_it_was(lively: Any) -> None:
    lively.network.train()
    attention = lively.network.config._attn_implementation

    def interrupt(index: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(lively, ["The"], search=Greedy(), on_text=interrupt, max_new_tokens=50, ignore_eos=True)
    assert all(module.training for module in lively.network.modules())
    assert lively.network.config._attn_implementation == attention
    loss = lively.network(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()  # nothing made without gradients is left in the network
    assert lively.network.model.embed_tokens.weight.grad is not None


def test_dropout_is_off_while_generating(make_model: Any) -> None:
    model = make_model("gpt2")  # dropout 0.1
    expected = generate(model, PROMPTS, search=Greedy(), max_new_tokens=10).generations
    model.network.train()
    assert generate(model, PROMPTS, search=Greedy(), max_new_tokens=10).generations == expected
