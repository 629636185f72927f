"""The regularizers: the contract on every one the folder holds, hand-worked values, and what each refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from posttrain.adapt import Adapter
from posttrain.adapt.bottleneck import Bottleneck
from posttrain.adapt.full import Full
from posttrain.adapt.head_only import HeadOnly
from posttrain.adapt.lora import Lora
from posttrain.core import catalog, events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.data.packing import Packed, pack
from posttrain.models.language_model import LanguageModel
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding, Objective, Prediction, Supervised
from posttrain.train.objectives.language_modeling import LanguageModeling
from posttrain.train.regularized import regularize
from posttrain.train.regularizers import Beginning, Regularizer, Term
from posttrain.train.regularizers.kl_to_base import KlToBase
from posttrain.train.regularizers.l2_sp import L2Sp
from posttrain.train.regularizers.replay import Replay

ROWS = [{"prompt": f"What is {i} and {i}?", "completion": f" It is {2 * i}." + " Yes." * (i % 4)} for i in range(12)]
GENERAL = [{"text": "The fox runs. " * (1 + i % 3)} for i in range(5)]


@pytest.fixture(params=catalog.terms("regularizer"))
def regularizer(request: pytest.FixtureRequest, tmp_path: Path) -> Regularizer:
    """Every regularizer; one that needs data gets a file of general text."""
    cls = catalog.find("regularizer", request.param)
    needed = {name: field for name, field in cls.model_fields.items() if field.is_required()}
    assert needed.keys() <= {"data"}, "give the new setting a value here"
    return cls(**{name: general_file(tmp_path) for name in needed})


def general_file(folder: Path) -> str:
    text = "".join(json.dumps(row) + "\n" for row in GENERAL)
    (folder / "general.jsonl").write_text(text, encoding="utf-8")
    return str(folder / "general.jsonl")


def items_of(model: LanguageModel) -> list:
    return LanguageModeling().encode(dataset.read(ROWS), model, Encoding())


def adapted(model: LanguageModel, adapter: Adapter, seed: int = 7) -> LanguageModel:
    """A copy that carries the adapter."""
    model = deepcopy(model)
    torch.manual_seed(seed)
    adapter.apply(model.network)
    return model


def beginning_of(model: LanguageModel, adapter: Adapter, objective: Objective | None = None, **more: Any) -> Beginning:
    return Beginning(model, objective or LanguageModeling(), lambda: adapter.disabled(model.network), **more)


def disturb(network: nn.Module) -> None:
    """Move what is trained away from where it began."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def run(model: LanguageModel, regularizers: list[Regularizer], adapter: Adapter, **options: Any) -> tuple:
    """A training of a copy; its network and result."""
    model = adapted(model, adapter)
    tokens = options.pop("tokens_per_pass", 4096)
    settings = Loop(**{"steps": 3, "learning_rate": 1e-2, "clip": None, **options.pop("loop", {})})
    batches = Batches(items_of(model), 4, tokens, seed=3)
    together = regularize(
        regularizers, batches, beginning_of(model, adapter, batch_size=4, tokens_per_pass=tokens, seed=3)
    )
    result = train(
        model.network, together.objective, together.batches, settings,
        parts={"adapter": adapter, **together.parts}, **options,
    )  # fmt: skip
    return model.network, result


# The contract.


@pytest.mark.parametrize("adapter", [Lora(rank=4), Full(keep_base=True)], ids=["lora", "full"])
def test_a_training_shows_and_obeys_it(regularizer, adapter, tiny_llama):
    """The first step's task loss is the same, its terms are in the history, and the training ends elsewhere."""
    plain, without = run(tiny_llama, [], adapter)
    network, result = run(tiny_llama, [regularizer], adapter)
    name = catalog.term_of(regularizer)
    assert result.history[0]["loss"] == pytest.approx(without.history[0]["loss"], abs=1e-6)
    added = result.history[0].keys() - without.history[0].keys()
    assert added and all(key.startswith(name) for key in added)
    assert all(torch.isfinite(torch.tensor(entry[key])) for entry in result.history for key in added)
    pairs = zip(network.parameters(), plain.parameters(), strict=True)
    assert any(not torch.equal(ours, theirs) for ours, theirs in pairs)


def test_splitting_the_batch_changes_nothing(regularizer, tiny_llama):
    results = [run(tiny_llama, [regularizer], Lora(rank=4), tokens_per_pass=tokens) for tokens in (4096, 40)]
    (one, first), (other, second) = results
    for ours, theirs in zip(first.history, second.history, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5, rel=1e-4)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter", [Lora(rank=4), Full(keep_base=True)], ids=["lora", "full"])
def test_recomputed_activations_change_nothing(regularizer, adapter, tiny_llama):
    """They are made anew after the base's pass, which must have left the network as it found it."""
    histories = [
        run(tiny_llama, [regularizer], adapter, loop={"activation_checkpointing": on})[1].history
        for on in (False, True)
    ]
    for ours, theirs in zip(*histories, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-4)


def test_autocast_stays_close(regularizer, tiny_llama):
    histories = [
        run(tiny_llama, [regularizer], Lora(rank=4), loop={"autocast": on, "learning_rate": 1e-3})[1].history
        for on in (False, True)
    ]
    for ours, theirs in zip(*histories, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-2, rel=5e-2)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_killed_run_goes_on_bit_for_bit(regularizer, tiny_llama, tmp_path, stop_after):
    """With dropout, over the end of an epoch of the task (three steps) and of further data."""

    def kill(event: events.Event) -> None:
        if event.kind == "advance" and event.fields["done"] == stop_after + 1:
            raise KeyboardInterrupt

    adapter = Lora(rank=4, dropout=0.3)
    loop = {"steps": 6, "checkpoint_every": 1}
    whole, expected = run(tiny_llama, [regularizer], adapter, loop=loop)
    with pytest.raises(KeyboardInterrupt), events.listen(kill):
        run(tiny_llama, [regularizer], adapter, loop=loop, checkpoint=tmp_path)
    resumed, found = run(tiny_llama, [regularizer], adapter, loop=loop, checkpoint=tmp_path)
    assert found.history == expected.history
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_takes_nothing_from_the_random_numbers_of_the_task(regularizer, tiny_llama):
    """The dropout of a step is the same with and without it; extra data come last and change that of later steps."""
    adapter = Lora(rank=4, dropout=0.5)
    tiny = regularizer.model_copy(update={"weight": 1e-12})
    ours, theirs = (run(tiny_llama, each, adapter)[1].history for each in ([tiny], []))
    steps = 1 if regularizer.further_data() else 3
    assert [e["loss"] for e in ours[:steps]] == pytest.approx([e["loss"] for e in theirs[:steps]], abs=1e-6)


def test_a_term_says_nothing_by_itself(tiny_llama):
    term = Term()
    assert term.penalty(tiny_llama.network) is None
    assert term.state(tiny_llama.network) == {}
    assert term.extra is None
    with pytest.raises(NotImplementedError):
        term.loss(tiny_llama.network, Prediction(torch.zeros(0), torch.zeros(0, 1)), None)


# L2-SP.


class Net(nn.Module):
    """Two linear maps, as much of a network as the penalty looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2, bias=False)
        self.score = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            self.score.weight.copy_(torch.tensor([[1.0, -2.0]]))


def penalty_of(settings: L2Sp, network: nn.Module, fresh: frozenset[str] = frozenset()) -> Term:
    model = LanguageModel(network=network, tokenizer=None, reference="", card={})  # type: ignore[arg-type]
    return settings.begin(Beginning(model, LanguageModeling(), nullcontext, fresh))


def test_l2_sp_by_hand():
    """The body moved by (1, 0; 0, -2): 0.1 / 2 * 5 = 0.25. The new head is (1, -2): 0.4 / 2 * 5 = 1."""
    network = Net()
    term = penalty_of(L2Sp(weight=0.1, head_weight=0.4), network, frozenset({"score.weight"}))
    start = term.penalty(network)
    assert start is not None
    assert start.item() == pytest.approx(1.0)
    with torch.no_grad():
        network.body.weight.add_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
    value = term.penalty(network)
    assert value is not None
    value.backward()
    assert value.item() == pytest.approx(1.25)
    assert network.body.weight.grad is not None and network.score.weight.grad is not None
    torch.testing.assert_close(network.body.weight.grad, torch.tensor([[0.1, 0.0], [0.0, -0.2]]))
    torch.testing.assert_close(network.score.weight.grad, torch.tensor([[0.4, -0.8]]))


def test_l2_sp_of_a_head_that_the_base_has():
    """Not fresh: it is pulled back to its own values, so that nothing is to be paid at the start."""
    network = Net()
    value = penalty_of(L2Sp(), network).penalty(network)
    assert value is not None
    assert value.item() == 0


def test_l2_sp_of_what_does_not_move():
    network = Net().requires_grad_(False)
    assert penalty_of(L2Sp(), network).penalty(network) is None


def test_l2_sp_of_lora_is_of_its_product(tiny_llama):
    """A = (1, 1, …) and B = (2, 2, …) of rank 1, alpha 3: every number moves by 6; q_proj has 64 x 64 of them."""
    model = adapted(tiny_llama, Lora(rank=1, alpha=3, targets=["layers.0.self_attn.q_proj"]))
    term = L2Sp(weight=0.01).begin(beginning_of(model, Lora()))
    start = term.penalty(model.network)
    assert start is not None
    assert start.item() == 0
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.requires_grad:
                parameter.fill_(1.0 if ".A." in name else 2.0)
    value = term.penalty(model.network)
    assert value is not None
    assert value.item() == pytest.approx(0.01 / 2 * 36 * 64 * 64, rel=1e-5)
    value.backward()
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:  # d/dB = 0.01 * 3 * 6 * sum of A over 64 inputs; d/dA with B = 2
            expected = 0.01 * 3 * 6 * 64 * (2 if ".A." in name else 1)
            torch.testing.assert_close(parameter.grad, torch.full_like(parameter, expected), rtol=1e-4, atol=0)


def test_l2_sp_of_a_bottleneck_is_of_new_weights(tiny_llama):
    model = adapted(tiny_llama, Bottleneck(width=4))
    disturb(model.network)
    trained = [p for p in model.network.parameters() if p.requires_grad]
    expected = 0.2 / 2 * sum(float(p.detach().double().square().sum()) for p in trained)
    value = L2Sp(weight=5, head_weight=0.2).begin(beginning_of(model, Bottleneck(width=4))).penalty(model.network)
    assert value is not None
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("fresh", "expected"), [(frozenset(), 0.0), (frozenset({"score.weight"}), 1.0)])
def test_l2_sp_of_a_head_trained_beside_the_old_one(fresh, expected):
    """A copy of the head (1, -2): of an old head it starts at no cost, of a new one at 0.4 / 2 * 5 = 1."""

    class Beside(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.copies = nn.ModuleDict({"default": deepcopy(base).requires_grad_(True)})

    network = Net()
    network.body.requires_grad_(False)
    network.score = Beside(network.score)
    term = penalty_of(L2Sp(weight=0.1, head_weight=0.4), network, fresh)
    value = term.penalty(network)
    assert value is not None
    assert value.item() == pytest.approx(expected)
    with torch.no_grad():
        network.score.copies["default"].weight.add_(torch.tensor([[2.0, 2.0]]))
    value = term.penalty(network)  # 0.1 / 2 * 8 away from (1, -2), or the new (3, 0): 0.4 / 2 * 9
    assert value is not None
    assert value.item() == pytest.approx(1.8 if fresh else 0.4)


# KL to the base.


def whole_logits(network: nn.Module, batch: Packed) -> torch.Tensor:
    """[N, V] of the learned positions, from the network's own forward pass, segment by segment; float64."""
    pieces = batch.input_ids.split(batch.lengths.tolist())
    return torch.cat([network(ids[None]).logits[0] for ids in pieces])[batch.targets >= 0].double()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(
    "adapter",
    [Lora(rank=4), Lora(rank=4, targets=["lm_head", "q_proj"]), Full(keep_base=True), HeadOnly()],
    ids=["lora", "lora-head", "full", "head"],
)
def test_kl_of_a_language_model(tiny_llama, adapter, direction):
    """Value and gradients equal those of whole float64 logits of the base's own copy and the network."""
    base = deepcopy(tiny_llama.network)
    model = adapted(tiny_llama, adapter)
    disturb(model.network)
    reference = deepcopy(model.network)
    batch = pack(items_of(model)[:5])
    task = LanguageModeling()
    term = KlToBase(direction=direction, temperature=1.5).begin(beginning_of(model, adapter))
    value = term.loss(model.network, task.predict(model.network, batch), batch)
    value.backward()
    with torch.no_grad():
        old = (whole_logits(base, batch) / 1.5).log_softmax(-1)
    new = (whole_logits(reference, batch) / 1.5).log_softmax(-1)
    p, q = (old, new) if direction == "forward" else (new, old)
    expected = (p.exp() * (p - q)).sum()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    for (name, ours), theirs in zip(model.network.named_parameters(), reference.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-3, atol=2e-4, msg=name)


def test_kl_is_zero_while_nothing_has_been_learned(tiny_llama):
    adapter = Lora(rank=4)
    model = adapted(tiny_llama, adapter)
    batch = pack(items_of(model)[:3])
    term = KlToBase().begin(beginning_of(model, adapter))
    value = term.loss(model.network, LanguageModeling().predict(model.network, batch), batch)
    assert value.item() == pytest.approx(0, abs=1e-5)


def test_the_base_has_no_dropout(tiny_llama):
    """With dropout of the adapter on, the network stays in training and the base is computed as it was."""
    adapter = Lora(rank=4)
    model = adapted(tiny_llama, adapter)
    modes = []
    task = LanguageModeling()

    class Watched(LanguageModeling):
        def predict(self, network, batch, *, layers=False):
            modes.append((network.training, torch.is_grad_enabled()))
            return super().predict(network, batch, layers=layers)

    batch = pack(items_of(model)[:3])
    term = KlToBase().begin(beginning_of(model, adapter, Watched()))
    model.network.train()
    term.loss(model.network, task.predict(model.network, batch), batch)
    assert modes == [(False, False)]
    assert model.network.training


class Classes(Supervised):
    """A classifier over the first token's embedding; predictions as logits."""

    targets: Any = (0, 0)
    """Of the two rows."""

    def encode(self, dataset, model, encoding):
        return []

    def weight(self, batch) -> float:
        return float(len(batch))

    def predict(self, network, batch, *, layers=False) -> Prediction:
        hidden = network.get_input_embeddings()(batch)
        return Prediction(torch.tensor(self.targets), hidden, logits=hidden[:, :3])

    def loss_of(self, prediction, batch):
        return functional.cross_entropy(prediction.logits, prediction.targets, reduction="sum"), {}


def test_kl_of_a_classifier_by_hand(tiny_llama):
    """Logits (0, 0, 0) in the base and (ln 2, 0, 0) now: KL(base || now) = ln(4/3) - 1/3 ln 2, of each of two rows."""
    adapter = Full(keep_base=True)
    model = deepcopy(tiny_llama)
    embedding = model.network.get_input_embeddings().weight
    with torch.no_grad():
        embedding[4:6, :3] = 0
    adapter.apply(model.network)
    with torch.no_grad():
        embedding[4:6, 0] = torch.tensor(2.0).log()
    batch, task = torch.tensor([4, 5]), Classes()
    term = KlToBase().begin(beginning_of(model, adapter, task))
    value = term.loss(model.network, task.predict(model.network, batch), batch)
    expected = torch.tensor(4 / 3).log() - torch.tensor(2.0).log() / 3
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    value.backward()  # softmax now less softmax then: (1/2, 1/4, 1/4) - (1/3, 1/3, 1/3)
    torch.testing.assert_close(embedding.grad[4, :3], torch.tensor([1 / 6, -1 / 12, -1 / 12]))


def test_kl_refusals(tiny_llama):
    class Whole(Objective):
        def encode(self, dataset, model, encoding):
            return []

        def weight(self, batch) -> float:
            return 1.0

        def loss(self, network, batch):
            return torch.zeros(()), {}

    full, kept = Full(), Full(keep_base=True)
    with pytest.raises(BadRequest, match="keep_base"):
        KlToBase().begin(beginning_of(adapted(tiny_llama, full), full))
    model = adapted(tiny_llama, kept)
    with pytest.raises(BadRequest, match=r"nothing to compare with: the base has no score\.weight"):
        KlToBase().begin(beginning_of(model, kept, fresh=frozenset({"score.weight"})))
    with pytest.raises(BadRequest, match="can't look at the predictions"):
        KlToBase().begin(beginning_of(model, kept, Whole()))
    batch = torch.tensor([0, 1])
    for targets in ((0.5, 1.5), ((0, 1, 1), (1, 0, 0))):  # numbers; several labels at once
        task = Classes(targets=targets)
        term = KlToBase().begin(beginning_of(model, kept, task))
        with pytest.raises(BadRequest, match="one class among several"):
            term.loss(model.network, task.predict(model.network, batch), batch)


# Replay.


@pytest.mark.parametrize(
    ("settings", "batch_size", "expected"),
    [
        ({"share": 0.25}, 6, 2),
        ({"share": 0.5}, 4, 4),
        ({"share": 0.01}, 8, 1),
        ({"records": 3}, 8, 3),
        ({"records": 30}, 8, 5),  # as many as there are
    ],
)
def test_replayed_records(tiny_llama, tmp_path, settings, batch_size, expected):
    replay = Replay(data=general_file(tmp_path), **settings)
    term = replay.begin(beginning_of(tiny_llama, Lora(), batch_size=batch_size))
    assert term.extra is not None
    steps: Iterator[list[Packed]] = iter(term.extra.batches)
    assert [sum(part.segments for part in next(steps)) for _ in range(4)] == [expected] * 4


def test_replay_cuts_long_texts(tiny_llama, tmp_path):
    (tmp_path / "long.txt").write_text("The dog sleeps, and the fox runs on. " * 40, encoding="utf-8")
    term = Replay(data=str(tmp_path / "long.txt")).begin(beginning_of(tiny_llama, Lora()))
    assert term.extra is not None
    longest = max(part.longest for part in next(iter(term.extra.batches)))
    assert longest == tiny_llama.context_length == 128  # below the 256 of the setting


def test_replay_needs_a_language_model(tmp_path):
    network = BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    model = LanguageModel(network=network, tokenizer=None, reference="", card={})  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="BertForSequenceClassification doesn't"):
        Replay(data=general_file(tmp_path)).begin(Beginning(model, LanguageModeling(), nullcontext))


def test_only_data_that_is_learned_counts_among_the_inputs(tmp_path):
    replay = Replay(data=general_file(tmp_path))
    assert replay.further_data().hash == dataset.read(general_file(tmp_path)).hash
    assert KlToBase().further_data() is None
