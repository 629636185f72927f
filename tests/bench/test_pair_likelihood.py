"""Log-likelihoods against a loop over single pairs in float64, and the rules by which texts become tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from posttrain.bench.likelihood import encode_pairs, encode_texts, first_token, likelihoods
from posttrain.core import events
from posttrain.core.errors import BadRequest, Failure

EXAMPLES = "The dog sleeps. What is the rate? The rate is three.\n\n"
PAIRS = [
    *((f"{EXAMPLES}What is the answer?", f" {ending}") for ending in ("The answer is forty-two.", "The fox.", "three")),
    *((f"{EXAMPLES}Who runs on?", f" {ending}") for ending in ("A", "B", "C")),
    ("What is the answer? ", "The fox."),
    ("", " a language model"),
    ("Who runs on?", " A"),
]


def loop(model, pairs):
    """Each pair alone, in float64: log-probability and whether every token is the likeliest."""
    network = copy.deepcopy(model.network).double()
    network.config._attn_implementation = "eager"
    found = []
    for each in encode_pairs(model, pairs):
        whole = [*each.ids, each.targets[-1]]
        with torch.no_grad():
            logprobs = network(torch.tensor([each.ids])).logits[0].log_softmax(-1)
        total, greedy = 0.0, True
        for i in range(len(whole) - len(each.targets), len(whole)):
            total += float(logprobs[i - 1, whole[i]])
            greedy &= int(logprobs[i - 1].argmax()) == whole[i]
        found.append((total, greedy))
    return found


@pytest.mark.parametrize("tokens_per_pass", [1, 40, 4096])
def test_a_loop_over_pairs_gives_the_same(tiny_llama, tokens_per_pass):
    found = likelihoods(tiny_llama, PAIRS, tokens_per_pass)
    expected = loop(tiny_llama, PAIRS)
    assert [each.logprob for each in found] == pytest.approx([total for total, _ in expected], abs=1e-5)
    assert [each.greedy for each in found] == [greedy for _, greedy in expected]
    assert not any(each.cut for each in found)


def test_a_greedy_continuation_is_found(tiny_llama):
    """The continuation that the model itself writes, and one that differs in the last token only."""
    ids = tiny_llama.tokenizer("What is the answer?")["input_ids"]
    with torch.no_grad():
        written = tiny_llama.network.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)[0, len(ids) :]
    text = tiny_llama.tokenizer.decode(written)
    pairs = [("What is the answer?", text), ("What is the answer?", text[:-1] + "#")]
    assert encode_pairs(tiny_llama, pairs)[0].targets == written.tolist()
    assert [each.greedy for each in likelihoods(tiny_llama, pairs)] == [True, False]


def test_equal_pairs_and_shared_tokens_are_read_once(tiny_llama):
    """Two pairs that are equal and four answers of a token each: the tokens of one sequence are read."""
    seen = []
    pairs = [(EXAMPLES + "Who?", f" {letter}") for letter in "ABCDA"]
    with events.listen(lambda event: seen.append(event)):
        found = likelihoods(tiny_llama, pairs)
    context = len(tiny_llama.tokenizer(EXAMPLES + "Who?")["input_ids"])
    longest = max(len(each.ids) for each in encode_pairs(tiny_llama, pairs))
    start = next(event for event in seen if event.kind == "start")
    assert context <= longest <= start.fields["total"] < context + 10
    assert found[0] == found[4]


def test_blanks_go_to_the_continuation(tiny_llama):
    """`is ` + `it` is read as `is` + ` it`: the tokens of the whole text behind those of the context without blanks."""
    first, second = encode_pairs(tiny_llama, [("What is ", "the answer"), ("What is", " the answer")])
    assert first == second
    tokenizer = tiny_llama.tokenizer
    assert first.ids + first.targets[-1:] == tokenizer("What is the answer")["input_ids"]
    assert len(first.ids) - len(first.targets) + 1 == len(tokenizer("What is")["input_ids"])


def test_the_first_token(tiny_llama):
    """An empty context is the token that begins texts, 1; a text that brings it along gets no second one."""
    assert first_token(tiny_llama) == 1
    (alone,) = encode_pairs(tiny_llama, [("", "fox")])
    fox = tiny_llama.tokenizer("fox")["input_ids"]
    assert (alone.ids, alone.targets) == ([1, *fox[:-1]], fox)
    (brought,) = encode_pairs(tiny_llama, [("", "<|im_start|>fox")])
    assert (brought.ids, brought.targets) == ([1, *fox[:-1]], fox)
    tiny_llama.tokenizer.bos_token = None
    assert first_token(tiny_llama) == tiny_llama.tokenizer.eos_token_id == 2
    tiny_llama.tokenizer.eos_token = None
    with pytest.raises(BadRequest, match="no token that begins a text"):
        first_token(tiny_llama)


def test_special_tokens_of_the_tokenizer(tiny_llama):
    """A tokenizer that adds its first token does so once, and in front of the context only."""
    from tokenizers.processors import TemplateProcessing

    tiny_llama.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    plain = tiny_llama.tokenizer("fox", add_special_tokens=False)["input_ids"]
    assert encode_texts(tiny_llama, ["fox", "<|im_start|>fox"]) == [[1, *plain]] * 2
    found = encode_pairs(tiny_llama, [("The dog", " sleeps"), ("", " sleeps")])
    assert [each.ids[0] for each in found] == [1, 1]
    assert all(1 not in each.targets for each in found)


def test_long_contexts_lose_their_beginning(tiny_llama):
    """Of a context that is too long the last tokens are read: as many as the model's 128 places leave."""
    context = "The dog sleeps. " * 40
    (each,) = encode_pairs(tiny_llama, [(context, " The fox")])
    ids = tiny_llama.tokenizer(context.rstrip() + "  The fox")["input_ids"]
    assert each.cut == len(ids) - 1 - 128
    assert [*each.ids, each.targets[-1]] == ids[-129:]
    (found,) = likelihoods(tiny_llama, [(context, " The fox")])
    assert found.cut == each.cut
    assert found.logprob == pytest.approx(loop(tiny_llama, [(context, " The fox")])[0][0], abs=1e-5)


def test_refusals(tiny_llama):
    with pytest.raises(BadRequest, match="adds no token"):
        encode_pairs(tiny_llama, [("The dog", "")])
    with pytest.raises(BadRequest, match="the model reads 128"):
        encode_pairs(tiny_llama, [("The", " dog" * 300)])
    with torch.no_grad():
        tiny_llama.network.model.norm.weight.fill_(float("nan"))
    with pytest.raises(Failure, match="not numbers"):
        likelihoods(tiny_llama, PAIRS[:1])


def test_only_causal_models(tiny_llama):
    from tiny_models import make_tiny_bert

    with pytest.raises(BadRequest, match="tiny-bert is not a causal language model"):
        likelihoods(make_tiny_bert(), PAIRS[:1])


def test_the_mode_is_put_back(tiny_llama):
    tiny_llama.network.train()
    likelihoods(tiny_llama, PAIRS[:1])
    assert tiny_llama.network.training
