"""The task's head beside every adapter: trained whole, merged, saved, loaded, and PEFT's outputs in both directions."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.adapt import activate, adapter_layers
from posttrain.adapt._head import head_layers
from posttrain.core import catalog
from posttrain.core.errors import BadRequest
from posttrain.models import saving
from posttrain.models.heads import give_head, task_head
from posttrain.models.language_model import LanguageModel
from posttrain.models.sources import load
from tiny_models import make_tiny_bert, make_tiny_llama

IDS = torch.tensor([[2, 17, 40, 33, 50, 3], [2, 9, 41, 33, 28, 3]])
LABELS = ["bad", "fair", "good"]
KINDS = ["sequence_classification", "token_classification"]


def _scores(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=IDS).logits


def _disturb(network: torch.nn.Module) -> None:
    """Stand-in for training: move every trainable parameter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def _classifier(make=make_tiny_bert, kind: str = KINDS[0]) -> LanguageModel:
    torch.manual_seed(0)
    give_head(model := make(), kind, LABELS)
    return model


@pytest.fixture(params=catalog.terms("adapt"))
def adapter(request: pytest.FixtureRequest):
    cls = catalog.find("adapt", request.param)
    return cls(keep_base=True) if "keep_base" in cls.model_fields else cls()


@pytest.fixture(params=[(make, kind) for make in (make_tiny_bert, make_tiny_llama) for kind in KINDS])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return _classifier(*request.param)


def test_the_head_is_trained_with_every_adapter(adapter, model):
    network = model.network
    before, names = _scores(network), [name for name, _ in network.named_modules()]
    head = {f"{key}.{name}" for key, module in task_head(network).items() for name, _ in module.named_parameters()}
    adapter.apply(network)
    assert torch.equal(_scores(network), before)
    free = [name for name in adapter.trainable(network) if name.startswith(tuple(task_head(network)))]
    assert len(free) == len(head) > 0
    _disturb(network)
    adapted = _scores(network)
    assert not torch.allclose(adapted, before, atol=1e-4)
    with adapter.disabled(network):
        assert torch.equal(_scores(network), before)
    if adapter.mergeable:
        adapter.merge(network)
        torch.testing.assert_close(_scores(network), adapted, atol=1e-5, rtol=1e-5)
        assert [name for name, _ in network.named_modules()] == names


def test_saved_and_loaded_is_equal(adapter, model, tmp_path):
    fresh = deepcopy(model.network)
    adapter.apply(model.network)
    _disturb(model.network)
    adapter.save(model, tmp_path)
    type(adapter).load(fresh, tmp_path)
    assert torch.equal(_scores(fresh), _scores(model.network))


def test_an_adapter_brings_its_head_to_a_base_without_one(tmp_path):
    """As a folder: base and adapter apart; the base has no head, so the card says which one the adapter needs."""
    saving.save(make_tiny_bert(), tmp_path / "base")
    model = load(str(tmp_path / "base"))
    give_head(model, KINDS[0], LABELS, "single_label_classification")
    adapter = catalog.build("adapt", {"lora": {"rank": 2}})
    adapter.apply(model.network)
    _disturb(model.network)
    adapter.save(model, tmp_path / "adapter")
    saving.files.write_json(tmp_path / "adapter" / "posttrain.json", {"base": str(tmp_path / "base"), **model.card})
    again = load(str(tmp_path / "adapter"))
    assert again.network.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(_scores(again.network), _scores(model.network))


def test_two_adapters_have_a_head_each():
    model = _classifier()
    network = model.network
    adapter = catalog.build("adapt", {"lora": {"rank": 2}})
    base = _scores(network)
    adapter.apply(network, "one")
    _disturb(network)
    one = _scores(network)
    adapter.apply(network, "two")
    assert torch.equal(_scores(network), base)  # the second begins at the base's head
    assert set(head_layers(network)["classifier"].copies) == {"one", "two"}
    activate(network, "one")
    assert torch.equal(_scores(network), one)
    with pytest.raises(BadRequest, match="head for their task can't be combined"):
        type(adapter).combine(network, {"one": 1.0, "two": 1.0})
    adapter.merge_in_place(network, "one")
    torch.testing.assert_close(_scores(network), one, atol=1e-5, rtol=1e-5)


def test_rules_leave_the_head_out():
    model = _classifier()
    catalog.build("adapt", {"lora": {"targets": "all-linear", "rank": 2}}).apply(model.network)
    assert not any("classifier" in name for name, layer in adapter_layers(model.network).items() if hasattr(layer, "A"))
    with pytest.raises(BadRequest, match="only the task's head, which is trained whole"):
        catalog.build("adapt", {"lora": {"targets": "classifier", "rank": 2}}).apply(_classifier().network)


@pytest.mark.parametrize("term", ["lora", "adalora"])
def test_peft_computes_the_same(term, model, tmp_path):
    peft = pytest.importorskip("peft")
    base = deepcopy(model.network)
    settings = {"rank": 2} if term == "lora" else {"initial_rank": 3, "target_rank": 2}
    adapter = catalog.build("adapt", {term: {"targets": "attention", **settings}})
    adapter.apply(model.network)
    _disturb(model.network)
    adapter.save(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(deepcopy(base), tmp_path / "ours").eval()
    assert theirs.peft_config["default"].task_type == ("SEQ_CLS" if "Sequence" in type(base).__name__ else "TOKEN_CLS")
    torch.testing.assert_close(_scores(theirs), _scores(model.network), atol=1e-5, rtol=1e-5)
    # And back: what PEFT has written, with its own `modules_to_save`.
    theirs.save_pretrained(tmp_path / "theirs")
    type(adapter).load(base, Path(tmp_path / "theirs"))
    torch.testing.assert_close(_scores(base), _scores(model.network), atol=1e-5, rtol=1e-5)


def test_what_else_peft_trains_whole_is_refused(tmp_path):
    peft = pytest.importorskip("peft")
    network = make_tiny_llama().network
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    peft.get_peft_model(network, config).save_pretrained(tmp_path)
    with pytest.raises(BadRequest, match=r"trains '.*norm.*' whole, which isn't of a task's head"):
        catalog.find("adapt", "lora").load(make_tiny_llama().network, tmp_path)
