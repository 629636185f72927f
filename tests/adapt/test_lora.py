"""LoRA against hand-worked numbers and Hugging Face PEFT."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.adapt import activate, trainable_share
from posttrain.adapt.lora import Lora, LoraLayer
from posttrain.core.errors import BadRequest, Failure

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


def _randomize(network: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def _logits(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def _tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2)).eval()


def test_hand_worked():
    """W0 = 2x2 identity, A = [1, 2], B = [3, 4]^T, alpha 6, r 1: h = x + 6 * B (A x).

    x = (1, 1): A x = 3, B A x = (9, 12), times 6 is (54, 72), plus x gives (55, 73).
    """
    base = nn.Linear(2, 2, bias=False)
    base.weight.data = torch.eye(2)
    layer = LoraLayer(base)
    layer.add("default", rank=1, scaling=6.0, dropout=0.0)
    layer.A["default"].data = torch.tensor([[1.0, 2.0]])
    layer.B["default"].data = torch.tensor([[3.0], [4.0]])
    x = torch.tensor([1.0, 1.0])
    assert layer(x).tolist() == [1.0, 1.0]  # no adapter active
    layer.active = "default"
    assert layer(x).tolist() == [55.0, 73.0]
    assert (layer.effective_weight() @ x).tolist() == [55.0, 73.0]


def test_initialisation():
    """A uniform in ±1/sqrt(inputs) (Kaiming with a = sqrt(5)), B zero."""
    layer = LoraLayer(nn.Linear(400, 50))
    layer.add("default", rank=16, scaling=1.0, dropout=0.0)
    a = layer.A["default"]
    bound = 1 / math.sqrt(400)
    assert a.abs().max() <= bound
    assert abs(a.std().item() - bound / math.sqrt(3)) < 0.05 * bound
    assert not layer.B["default"].any()


def test_parameter_count(tiny_llama):
    """r (d + k) a matrix: q and o 64→64, k and v 64→32, two layers, r 4: 2 · 4 · (2 · 128 + 2 · 96) = 3584."""
    network = deepcopy(tiny_llama.network)
    total = sum(p.numel() for p in network.parameters())
    Lora(rank=4).apply(network)
    assert trainable_share(network) == (3584, 3584 / total)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("attention", 8),
        ("mlp", 6),
        ("all-linear", 14),
        (["q_proj", "v_proj"], 4),
        (r".*layers\.1\..*_proj", 7),
        ("model.layers.0.mlp.up_proj", 1),
        ("embeddings", 1),
        ("lm_head", 1),
    ],
)
def test_targets(tiny_llama, targets, count):
    network = deepcopy(tiny_llama.network)
    Lora(rank=2, targets=targets).apply(network)
    assert sum(isinstance(m, LoraLayer) for m in network.modules()) == count


def test_unknown_target_suggests(tiny_llama):
    with pytest.raises(BadRequest, match="q_proj"):
        Lora(targets="q_porj").apply(deepcopy(tiny_llama.network))


def test_rank_above_the_matrix_is_refused(tiny_llama):
    with pytest.raises(BadRequest, match="Rank 40"):
        Lora(rank=40).apply(deepcopy(tiny_llama.network))


def test_dropout_acts_only_in_training(tiny_llama):
    network = deepcopy(tiny_llama.network)
    Lora(rank=4, dropout=0.5).apply(network)
    _randomize(network)
    assert torch.equal(_logits(network), _logits(network))
    network.train()
    assert not torch.equal(_logits(network), _logits(network))


def test_merge_in_place_and_back(tiny_llama):
    network = deepcopy(tiny_llama.network)
    adapter = Lora(rank=4, targets="all-linear")
    adapter.apply(network)
    _randomize(network)
    adapted = _logits(network)
    adapter.merge_in_place(network)
    torch.testing.assert_close(_logits(network), adapted, atol=1e-5, rtol=1e-5)
    adapter.unmerge(network)
    torch.testing.assert_close(_logits(network), adapted, atol=1e-5, rtol=1e-5)


def test_merging_a_tied_embedding_leaves_the_head(tiny_llama):
    network = deepcopy(tiny_llama.network)
    adapter = Lora(rank=4, targets="embeddings")
    adapter.apply(network)
    _randomize(network)
    adapted = _logits(network)
    adapter.merge(network)
    torch.testing.assert_close(_logits(network), adapted, atol=1e-5, rtol=1e-5)
    assert network.lm_head.weight is not network.model.embed_tokens.weight


def test_several_adapters_on_one_base(tiny_llama):
    network = deepcopy(tiny_llama.network)
    base = _logits(network)
    outputs = {}
    for seed, name in enumerate(["first", "second"]):
        Lora(rank=4).apply(network, name)
        with torch.no_grad():
            for layer in (m for m in network.modules() if isinstance(m, LoraLayer)):
                layer.B[name].copy_(
                    0.1 * torch.randn(layer.B[name].shape, generator=torch.Generator().manual_seed(seed))
                )
        outputs[name] = _logits(network)
    activate(network, "first")
    assert torch.equal(_logits(network), outputs["first"])
    activate(network, None)
    assert torch.equal(_logits(network), base)
    assert not torch.allclose(outputs["first"], outputs["second"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_checkpoints_go_to_peft_and_back(family, tiny_llama, tmp_path):
    peft = pytest.importorskip("peft", reason="the independent reference")
    model = deepcopy(tiny_llama)
    if family == "gpt2":
        model.network = _tiny_gpt2()
    base = deepcopy(model.network)
    targets = ["c_attn", "c_proj"] if family == "gpt2" else ["q_proj", "v_proj", "embed_tokens"]
    adapter = Lora(rank=4, alpha=12, targets=targets)
    adapter.apply(model.network)
    _randomize(model.network)
    ours = _logits(model.network)
    adapter.save(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(deepcopy(base), tmp_path / "ours")
    torch.testing.assert_close(_logits(theirs), ours, atol=1e-5, rtol=1e-5)

    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(deepcopy(base), config)
    _randomize(wrapped, seed=3)
    wrapped.save_pretrained(tmp_path / "theirs")
    Lora.load(network := deepcopy(base), tmp_path / "theirs")
    torch.testing.assert_close(_logits(network), _logits(wrapped.eval()), atol=1e-5, rtol=1e-5)


def test_what_it_can_not_compute_is_refused(tiny_llama, tmp_path):
    model = deepcopy(tiny_llama)
    adapter = Lora()
    adapter.apply(model.network)
    adapter.save(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(BadRequest, match="use_dora"):
        Lora.load(deepcopy(tiny_llama.network), tmp_path)


def test_an_adapter_of_another_network_is_refused(tiny_llama, tmp_path):
    model = deepcopy(tiny_llama)
    adapter = Lora(rank=2)
    adapter.apply(model.network)
    adapter.save(model, tmp_path)
    with pytest.raises(Failure, match="doesn't have"):
        Lora.load(_tiny_gpt2(), tmp_path)


def _two_adapters(network: nn.Module) -> None:
    """Of different ranks, scales and targets: the second one is also on the feed-forward."""
    for seed, (name, adapter) in enumerate(
        {"a": Lora(rank=2, alpha=6), "b": Lora(rank=3, alpha=4, targets="all-linear")}.items()
    ):
        adapter.apply(network, name)
        _randomize(network, seed)


def test_combination_is_exact(tiny_llama):
    """The change of every weight is 0.5 times that of a less 2 times that of b; the rank is 2 + 3."""
    network = tiny_llama.network
    _two_adapters(network)
    adapter = Lora.combine(network, {"a": 0.5, "b": -2.0}, name="mix")
    assert (adapter.rank, adapter.alpha) == (5, 5)
    for layer in (m for m in network.modules() if isinstance(m, LoraLayer)):
        expected = -2.0 * layer.delta("b") + (0.5 * layer.delta("a") if layer.holds("a") else 0)
        torch.testing.assert_close(layer.delta("mix"), expected, atol=1e-6, rtol=1e-5)
        assert layer.active == "mix" and not layer.A["mix"].requires_grad


def test_combination_of_one_is_that_one(tiny_llama, tmp_path):
    """Also after saving, loading and merging."""
    model = deepcopy(tiny_llama)
    _two_adapters(model.network)
    activate(model.network, "b")
    expected = _logits(model.network)
    adapter = Lora.combine(model.network, {"b": 1.0, "a": 0.0})
    torch.testing.assert_close(_logits(model.network), expected, atol=1e-5, rtol=1e-5)
    adapter.save(model, tmp_path, "mix")
    loaded = Lora.load(network := deepcopy(tiny_llama.network), tmp_path)
    loaded.merge(network)
    torch.testing.assert_close(_logits(network), expected, atol=1e-5, rtol=1e-5)


def test_combination_equals_peft(tiny_llama, tmp_path):
    peft = pytest.importorskip("peft", reason="the independent reference")
    model = deepcopy(tiny_llama)
    for seed, name in enumerate(("a", "b")):
        adapter = Lora(rank=2 + seed, alpha=5)
        adapter.apply(model.network, name)
        _randomize(model.network, seed)
        adapter.save(model, tmp_path / name, name)
    Lora.combine(model.network, {"a": 0.3, "b": 0.7})
    theirs = peft.PeftModel.from_pretrained(deepcopy(tiny_llama.network), tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.3, 0.7], "mix", combination_type="cat")
    theirs.set_adapter("mix")
    torch.testing.assert_close(_logits(model.network), _logits(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "name", "complaint"),
    [
        ({"a": 1.0, "c": 1.0}, "mix", "no adapter 'c'"),
        ({"a": 1.0}, "b", "adapter already"),
        ({}, "mix", "no adapters to combine"),
    ],
)
def test_combinations_that_are_refused(tiny_llama, weights, name, complaint):
    _two_adapters(tiny_llama.network)
    with pytest.raises(BadRequest, match=complaint):
        Lora.combine(tiny_llama.network, weights, name)
