"""AdaLoRA against hand-worked numbers and Hugging Face PEFT; the budget is met exactly, also after a kill."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.adapt import adapter_layers
from posttrain.adapt.adalora import AdaLora, AdaLoraLayer
from posttrain.core.errors import BadRequest, Failure
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.train.loop import Loop, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.language_modeling import LanguageModeling

IDS = torch.tensor([[5, 17, 40, 3, 99, 12]])


def _logits(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(IDS).logits


def _randomize(network: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def _layer() -> AdaLoraLayer:
    """W0 zero 2x2, P = [[1, 0], [1, 1]], values (2, 3), Q = [[1, 2], [0, 1]], scale 0.5."""
    base = nn.Linear(2, 2, bias=False)
    base.weight.data.zero_()
    layer = AdaLoraLayer(base)
    layer.add("default", rank=2, scaling=0.5, dropout=0.0)
    own = layer.of("default")
    own.P.data = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    own.values.data = torch.tensor([2.0, 3.0])
    own.Q.data = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    layer.active = "default"
    return layer


def test_hand_worked_output():
    """x = (1, 1): Q x = (3, 1), Λ Q x = (6, 3), P Λ Q x = (6, 9), times 0.5 is (3, 4.5)."""
    layer = _layer()
    x = torch.tensor([1.0, 1.0])
    assert layer(x).tolist() == [3.0, 4.5]
    assert (layer.effective_weight() @ x).tolist() == [3.0, 4.5]


def test_hand_worked_penalty():
    """P^T P = [[2, 1], [1, 1]], less I: 1 + 1 + 1 + 0 = 3. Q Q^T = [[5, 2], [2, 1]], less I: 16 + 4 + 4 + 0 = 24."""
    assert _layer().of("default").penalty().item() == 27.0


def test_hand_worked_scores():
    """One observation with gradients of one, decays 0.5 and 0.75: sensitivity I = |w|.

    Smoothed 0.5 I, deviation 0.25 · |I - 0.5 I| = 0.125 I, s = I² / 16.
    Triplet 1: λ 2 -> 4, column (1, 1) -> mean 1, row (1, 2) -> mean 2.5; sum 7.5 / 16.
    Triplet 2: λ 3 -> 9, column (0, 1) -> mean 0.5, row (0, 1) -> mean 0.5; sum 10 / 16.
    """
    own = _layer().of("default")
    for parameter in own.parameters():
        parameter.grad = torch.ones_like(parameter)
    own.observe(0.5, 0.75)
    assert own.scores().tolist() == [7.5 / 16, 10 / 16]


def test_budget():
    """From 24 to 8 between steps 10 and 90: all until 10; half way 16 · 0.5³ + 8 = 10; 8 from 90 on."""
    adapter = AdaLora(warmup=10, final=10)
    found = [adapter.budget(step, 100, 24, 8) for step in (1, 10, 11, 50, 89, 90, 100)]
    assert found == [24, 24, int(16 * (79 / 80) ** 3 + 8), 10, 8, 8, 8]
    assert AdaLora(warmup=0.1, final=0.1).budget(50, 100, 24, 8) == 10
    with pytest.raises(BadRequest, match="leave none"):
        AdaLora(warmup=5, final=5).budget(1, 10, 24, 8)


def _batches(model, tokens_per_pass: int = 4096) -> Batches:
    rows = [{"prompt": f"What is {i} and {i}?", "completion": f" It is {2 * i}."} for i in range(12)]
    items = LanguageModeling().encode(dataset.read(rows), model, Encoding())
    return Batches(items, 4, tokens_per_pass, seed=3)


@pytest.mark.parametrize("interval", [1, 3])
def test_the_rank_budget_is_met_exactly(tiny_llama, interval):
    """8 matrices: 8 · 6 triplets at first, 8 · 2 = 16 in the end, unevenly spread; dropped ones are zero."""
    adapter = AdaLora(initial_rank=6, target_rank=2, warmup=2, final=4, interval=interval)
    network = tiny_llama.network
    torch.manual_seed(0)
    adapter.apply(network)
    counts = []

    class Watched(AdaLora):
        def after_update(self, network, step, steps):
            super().after_update(network, step, steps)
            counts.append(sum(int((x.of("default").values != 0).sum()) for x in adapter_layers(network).values()))

    watched = Watched(**adapter.model_dump())
    settings = Loop(steps=14, learning_rate=1e-2)
    result = train(network, LanguageModeling(), _batches(tiny_llama), settings, parts={"adalora": watched})
    expected = [
        adapter.budget(step, 14, 48, 16) if step == 10 or (step % interval == 0 and 2 < step < 10) else 48
        for step in range(1, 11)
    ] + [16] * 4
    assert counts == expected
    ranks = [int(x.of("default").kept.sum()) for x in adapter_layers(network).values()]
    assert sum(ranks) == 16 and len(set(ranks)) > 1
    assert result.history[-1]["adalora"] < result.history[0]["adalora"]


def test_equal_scores_do_not_break_the_budget(tiny_llama):
    """Without any gradient all scores are zero; still exactly the budget is left."""
    adapter = AdaLora(initial_rank=4, target_rank=1, warmup=0, final=0)
    adapter.apply(tiny_llama.network)
    adapter.after_update(tiny_llama.network, 5, 5)
    assert sum(int(x.of("default").kept.sum()) for x in adapter_layers(tiny_llama.network).values()) == 8


def test_splitting_the_batch_changes_nothing(tiny_llama):
    """The penalty is added once a step, not once a micro-batch."""
    found = []
    for tokens in (4096, 40):
        network = deepcopy(tiny_llama.network)
        torch.manual_seed(0)
        adapter = AdaLora(initial_rank=4, target_rank=2, orthogonality=1.0)
        adapter.apply(network)
        settings = Loop(steps=1, learning_rate=1e-2, clip=None)
        batches = _batches(tiny_llama, tokens)
        result = train(network, LanguageModeling(), batches, settings, parts={"adalora": adapter})
        found.append((result.history[0]["adalora"], result.history[0]["gradient_norm"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_settings_that_do_not_fit_are_refused(tiny_llama):
    with pytest.raises(BadRequest, match="above initial_rank"):
        AdaLora(initial_rank=2, target_rank=4).apply(tiny_llama.network)
    with pytest.raises(BadRequest, match="Rank 40"):
        AdaLora(initial_rank=40).apply(tiny_llama.network)
    with pytest.raises(BadRequest, match="embedding"):
        AdaLora(targets="embeddings").apply(tiny_llama.network)
    assert not adapter_layers(tiny_llama.network)


def test_merging_into_a_tied_head_leaves_the_embedding(tiny_llama):
    network = tiny_llama.network
    adapter = AdaLora(initial_rank=4, target_rank=2, targets="lm_head")
    adapter.apply(network)
    _randomize(network)
    adapted = _logits(network)
    adapter.merge(network)
    torch.testing.assert_close(_logits(network), adapted, atol=1e-5, rtol=1e-5)
    assert network.lm_head.weight is not network.model.embed_tokens.weight


def _tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2)).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_checkpoints_go_to_peft_and_back(family, tiny_llama, tmp_path):
    """Whole, with dropped triplets (one matrix left without any), and written anew after loading."""
    peft = pytest.importorskip("peft", reason="the independent reference")
    model = deepcopy(tiny_llama)
    if family == "gpt2":
        model.network = _tiny_gpt2()
    base = deepcopy(model.network)
    targets = ["c_attn", "c_proj"] if family == "gpt2" else ["q_proj", "v_proj"]
    adapter = AdaLora(initial_rank=4, target_rank=2, alpha=12, targets=targets)
    adapter.apply(model.network)
    _randomize(model.network)

    def compare(folder, expected) -> None:
        theirs = peft.PeftModel.from_pretrained(deepcopy(base), folder)
        torch.testing.assert_close(_logits(theirs), expected, atol=1e-5, rtol=1e-5)
        loaded = deepcopy(model)
        loaded.network = deepcopy(base)
        again = AdaLora.load(loaded.network, folder)
        torch.testing.assert_close(_logits(loaded.network), expected, atol=1e-5, rtol=1e-5)
        if not folder.name.endswith("again"):
            again.save(loaded, folder.with_name(folder.name + "-again"))
            compare(folder.with_name(folder.name + "-again"), expected)

    adapter.save(model, tmp_path / "whole")
    compare(tmp_path / "whole", _logits(model.network))
    for index, layer in enumerate(adapter_layers(model.network).values()):
        layer.of("default").keep(torch.tensor([index != 1, index == 0, False, index > 1]))
    adapter.save(model, tmp_path / "dropped")
    compare(tmp_path / "dropped", _logits(model.network))


def test_what_peft_trained_is_read(tiny_llama, tmp_path):
    """Trained with PEFT's own allocator until its budget was met, saved with its rank pattern."""
    peft = pytest.importorskip("peft", reason="the independent reference")
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=1, total_step=6, lora_alpha=12, target_modules=["q_proj", "v_proj"]
    )
    wrapped = peft.get_peft_model(deepcopy(tiny_llama.network), config)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for step in range(1, 7):
        wrapped(IDS, labels=IDS).loss.backward()
        optimizer.step()
        wrapped.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    wrapped.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"]
    adapter = AdaLora.load(network := deepcopy(tiny_llama.network), tmp_path)
    assert (adapter.initial_rank, adapter.target_rank, adapter.alpha) == (4, 2, 12)
    torch.testing.assert_close(_logits(network), _logits(wrapped.eval()), atol=1e-5, rtol=1e-5)


def test_scores_and_choices_equal_peft(tiny_llama):
    """Three steps without updates (the order of update and score differs): equal scores, equal triplets dropped."""
    peft = pytest.importorskip("peft", reason="the independent reference")
    adapter = AdaLora(initial_rank=4, target_rank=2, alpha=12, targets=["q_proj", "v_proj"], warmup=1, final=0)
    ours = deepcopy(tiny_llama.network)
    adapter.apply(ours)
    _randomize(ours)
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=0, total_step=5, lora_alpha=12, target_modules=["q_proj", "v_proj"]
    )
    theirs = peft.get_peft_model(deepcopy(tiny_llama.network), config)
    modules = dict(theirs.base_model.model.named_modules())
    for key, layer in adapter_layers(ours).items():
        own, other = layer.of("default"), modules[key]
        other.lora_A["default"].data.copy_(own.Q.data)
        other.lora_B["default"].data.copy_(own.P.data)
        other.lora_E["default"].data.copy_(own.values.data[:, None])
    allocator = theirs.base_model.rankallocator
    for step in range(1, 4):
        ids = IDS + step
        for network in (ours, theirs.base_model.model):
            network.zero_grad()
            network(ids, labels=ids).loss.backward()
        adapter.before_update(ours, step, 5)
        adapter.after_update(ours, step, 5)
        allocator.update_and_allocate(theirs.base_model.model, step)
        for key, layer in adapter_layers(ours).items():
            torch.testing.assert_close(
                layer.of("default").get_buffer("sensitivity_Q"),
                allocator.exp_avg_ipt[f"{key}.lora_A.default"],
                atol=1e-7,
                rtol=1e-3,
            )
            kept = modules[key].lora_E["default"].flatten() != 0
            assert torch.equal(layer.of("default").values != 0, kept)


def test_an_adapter_that_does_not_fit_is_refused(tiny_llama, tmp_path):
    model = deepcopy(tiny_llama)
    adapter = AdaLora()
    adapter.apply(model.network)
    adapter.save(model, tmp_path)
    with pytest.raises(Failure, match="doesn't have"):
        AdaLora.load(_tiny_gpt2(), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "bias": "all"}))
    with pytest.raises(BadRequest, match="trains biases"):
        AdaLora.load(deepcopy(tiny_llama.network), tmp_path)
