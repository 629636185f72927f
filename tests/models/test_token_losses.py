"""Losses of tokens: windows by hand, values against transformers called on each window alone, every token once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.core import events
from posttrain.models.language_model import LanguageModel
from posttrain.models.token_losses import Window, target_losses, token_losses, windows
from posttrain.quantize.methods.dynamic import Dynamic


def test_windows_by_hand() -> None:
    """Ten tokens, windows of 4 by 2: 0-3 scores 1, 2, 3 (0 has no predecessor), then two new ones each."""
    assert windows(10, 4, 2) == [Window(0, 4, 3), Window(2, 6, 2), Window(4, 8, 2), Window(6, 10, 2)]
    # The last window ends with the text: 6-8 is shorter and scores token 8 only.
    assert windows(9, 4, 2) == [Window(0, 4, 3), Window(2, 6, 2), Window(4, 8, 2), Window(6, 9, 1)]
    assert windows(4, 4, 2) == [Window(0, 4, 3)]
    assert windows(5, 4, 1) == [Window(0, 4, 3), Window(1, 5, 1)]
    # Without overlap the token before a window is read as well: 3 predicts 4, 7 predicts 8.
    assert windows(10, 4, 4) == [Window(0, 4, 3), Window(3, 8, 4), Window(7, 10, 2)]
    assert windows(1, 4, 2) == []


def test_every_token_is_scored_once_with_enough_context() -> None:
    for length in range(1, 40):
        for window in range(2, 14):
            for stride in range(1, window + 1):
                scored: list[int] = []
                for w in windows(length, window, stride):
                    first = w.end - w.scored
                    scored += range(first, w.end)
                    read = w.end - 1 - w.begin
                    assert 0 <= w.begin < first
                    assert 1 <= read <= window
                    # Context of the first scored token, where the document has that much before it.
                    assert first - w.begin >= min(first, max(1, window - stride))
                assert scored == list(range(1, length))


def losses_by_call(network: Any, ids: list[int]) -> torch.Tensor:
    """float64 [len(ids) - 1]: a plain call, plain logits, plain log-softmax."""
    with torch.no_grad():
        logits = network(torch.tensor([ids])).logits[0, :-1].double()
    return -logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def losses_by_windows(network: Any, ids: list[int], window: int, stride: int) -> np.ndarray[Any, Any]:
    parts = [losses_by_call(network, ids[w.begin : w.end])[-w.scored :] for w in windows(len(ids), window, stride)]
    return torch.cat(parts).numpy() if parts else np.empty(0)


def sequences() -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 300, size=length).tolist() for length in (90, 31, 1, 2, 64, 0, 17)]


def test_values_are_those_of_every_window_alone(tiny_llama: LanguageModel) -> None:
    """A sequence of one token or none has nothing to score."""
    expected = [losses_by_windows(tiny_llama.network, ids, 40, 13) for ids in sequences()]
    for tokens_per_pass in (1, 40, 100, 100_000):
        found = token_losses(tiny_llama.network, sequences(), window=40, stride=13, tokens_per_pass=tokens_per_pass)
        assert [part.size for part in found] == [89, 30, 0, 1, 63, 0, 16]
        for ours, theirs in zip(found, expected):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=5e-6)


@pytest.mark.parametrize(("window", "stride"), [(128, 64), (20, 7), (9, 9)])
def test_wanted_tokens_are_the_same_as_among_all(tiny_llama: LanguageModel, window: int, stride: int) -> None:
    draw = np.random.default_rng(1)
    ids = [each for each in sequences() if each]
    wanted = [sorted(draw.choice(range(1, len(each)), size=len(each) // 4, replace=False).tolist()) for each in ids]
    everything = token_losses(tiny_llama.network, ids, window=window, stride=stride)
    heard: list[events.Event] = []
    with events.listen(heard.append), events.task("test") as progress:
        found = token_losses(tiny_llama.network, ids, window=window, stride=stride, wanted=wanted, progress=progress)
    for part, whole, places in zip(found, everything, wanted):
        np.testing.assert_allclose(part, whole[np.asarray(places, int) - 1], rtol=5e-6)
    assert heard[-2].fields["done"] == sum(map(len, wanted))


def test_windows_without_a_wanted_token_are_not_read(tiny_llama: LanguageModel, monkeypatch: Any) -> None:
    """Of 100 tokens in windows of 20 by 10, only token 55 is wanted: tokens 40 to 54 are read, 15 of them."""
    from posttrain.models import token_losses as module

    read: list[int] = []
    whole = module.hidden_states
    monkeypatch.setattr(
        module, "hidden_states", lambda network, ids, bounds: read.append(len(ids)) or whole(network, ids, bounds)
    )
    token_losses(tiny_llama.network, [list(range(100))], window=20, stride=10, wanted=[[55]])
    assert read == [15]


@pytest.mark.parametrize("places", [[0], [5], [3, 9]])
def test_places_outside_the_sequence_are_refused(tiny_llama: LanguageModel, places: list[int]) -> None:
    with pytest.raises(ValueError, match="places of wanted tokens"):
        token_losses(tiny_llama.network, [[1, 2, 3, 4, 5]], window=4, stride=2, wanted=[places])


def test_a_window_as_long_as_the_context_fits_learned_positions() -> None:
    """GPT-2 has no position 16, and disjoint windows of 16 need none."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)).eval()
    ids = torch.randint(0, 40, (50,)).tolist()
    for stride in (16, 8):
        (found,) = token_losses(network, [ids], window=16, stride=stride)
        expected = []
        for w in windows(50, 16, stride):
            first = w.end - w.scored
            with torch.no_grad():
                logits = network(torch.tensor([ids[w.begin : w.end - 1]])).logits[0, first - w.begin - 1 :]
            expected.append(-logits.log_softmax(-1)[torch.arange(w.scored), torch.tensor(ids[first : w.end])])
        np.testing.assert_allclose(found, torch.cat(expected).numpy(), rtol=1e-5)


def test_a_network_that_can_not_be_packed_gives_the_same() -> None:
    """Gemma 2 caps its attention's scores, so it is read in padded batches; its logits are capped too."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    network = Gemma2ForCausalLM(config).eval()
    ids = [torch.randint(1, 60, (length,)).tolist() for length in (30, 7, 12)]
    for ours, each in zip(token_losses(network, ids, window=16, stride=8), ids):
        np.testing.assert_allclose(ours, losses_by_windows(network, each, 16, 8), rtol=2e-5)


def test_a_network_in_training_is_measured_without_dropout_and_goes_on_training() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    network = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)).train()
    first, second = (token_losses(network, [list(range(16))], window=16, stride=8)[0] for _ in range(2))
    assert (first == second).all()
    assert network.training and network.transformer.drop.training


class _LargestLogits(TorchDispatchMode):
    """The most rows of any tensor [rows, vocabulary] that an operation returns, the vocabulary matrix aside."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.storage, self.vocabulary, self.rows = weight.untyped_storage().data_ptr(), weight.shape[0], 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            logits = isinstance(tensor, torch.Tensor) and tensor.dim() > 0 and tensor.shape[-1] == self.vocabulary
            if logits and tensor.untyped_storage().data_ptr() != self.storage:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return result


def test_logits_are_held_a_chunk_at_a_time(tiny_llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.models import token_losses as module

    monkeypatch.setattr(module, "_CHUNK", 16)
    ids = list(range(3, 120))
    with _LargestLogits(tiny_llama.network.lm_head.weight) as seen:
        token_losses(tiny_llama.network, [ids], window=128, stride=64)
    assert 0 < seen.rows <= 16
    Dynamic(targets="lm_head").quantize(tiny_llama)
    with _LargestLogits(tiny_llama.network.lm_head.weight) as seen:
        token_losses(tiny_llama.network, [ids], window=128, stride=64)
    assert 0 < seen.rows <= 16


# ------------------------------------------------------------------------------------------------------ encoder-decoder


def tiny_seq2seq(architecture: str) -> Any:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2,
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, max_position_embeddings=40, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(config).eval()


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_targets_have_the_losses_of_each_pair_alone(architecture: str) -> None:
    """The class's own loss on a pair is the mean over the target's tokens."""
    network = tiny_seq2seq(architecture)
    draw = np.random.default_rng(0)
    sources = [draw.integers(3, 60, size=size).tolist() for size in (9, 3, 14, 5)]
    targets = [draw.integers(3, 60, size=size).tolist() for size in (4, 11, 1, 6)]
    alone = []
    for source, target in zip(sources, targets):
        with torch.no_grad():
            alone.append(float(network(input_ids=torch.tensor([source]), labels=torch.tensor([target])).loss))
    for tokens_per_pass in (1, 12, 1000):
        found = target_losses(network, sources, targets, tokens_per_pass=tokens_per_pass)
        assert [part.size for part in found] == [4, 11, 1, 6]
        assert [float(part.mean()) for part in found] == pytest.approx(alone, rel=1e-5)
