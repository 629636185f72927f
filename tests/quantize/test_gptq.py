"""GPTQ on networks: closer than rounding to nearest on what it was calibrated on, in every way it can be set."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from posttrain.core.errors import BadRequest, Failure
from posttrain.models import sources
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.models.surgery import select
from posttrain.quantize.calibration import stages
from posttrain.quantize.methods.gptq import Gptq
from posttrain.quantize.methods.rtn import RoundToNearest

CALIBRATION = [[(7 * i * i + 11 * s) % 290 + 3 for i in range(48)] for s in range(12)]
WAYS = [
    {},
    {"act_order": False},
    {"static_groups": False},
    {"true_sequential": True},
    {"symmetric": True},
    {"clipping": True},
    {"group_size": -1},
]


def _logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.network(torch.tensor(CALIBRATION)).logits


@pytest.mark.parametrize("settings", WAYS, ids=str)
@pytest.mark.parametrize("bits", [3, 4])
def test_first_block_outputs_are_closer_than_by_rounding_to_nearest(
    tiny_llama: LanguageModel, settings: dict, bits: int
) -> None:
    """||(W - W') X|| of every layer with the inputs that it was calibrated on."""
    own = {"bits": bits, "targets": r".*layers\.0\..*", "group_size": 32, **settings}
    nearest = {key: value for key, value in own.items() if key in RoundToNearest.model_fields}
    layers = select(tiny_llama.network, own["targets"])
    inputs: dict[str, torch.Tensor] = {}
    (stage,) = stages(tiny_llama.network, CALIBRATION, layers)
    stage.observe(lambda names, x: inputs.update(dict.fromkeys(names, x)))
    errors = []
    for method in (Gptq(**own), RoundToNearest(**nearest)):
        model = deepcopy(tiny_llama)
        method.quantize(model, CALIBRATION)
        changes = {name: model.network.get_submodule(name).effective_weight() - layers[name].weight for name in layers}
        errors.append({name: float((change @ inputs[name].T).detach().norm()) for name, change in changes.items()})
    ours, theirs = errors
    if not own.get("true_sequential"):  # there, layers are fitted to other inputs than these
        assert all(ours[name] < theirs[name] for name in layers)
    assert sum(ours.values()) < 0.95 * sum(theirs.values())


@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_saved_and_loaded_is_equal(tiny_llama: LanguageModel, settings: dict, tmp_path: Path) -> None:
    Gptq(**settings).quantize(tiny_llama, CALIBRATION)
    save(tiny_llama, tmp_path / "small")
    loaded = sources.load(str(tmp_path / "small"), device="cpu")
    assert loaded.fingerprint() == tiny_llama.fingerprint()
    assert torch.equal(_logits(loaded), _logits(tiny_llama))


def test_the_same_again(tiny_llama: LanguageModel) -> None:
    fingerprints = set()
    for _ in range(2):
        model = deepcopy(tiny_llama)
        Gptq().quantize(model, CALIBRATION)
        fingerprints.add(model.fingerprint())
    assert len(fingerprints) == 1


def test_passes_and_blocks_change_next_to_nothing(tiny_llama: LanguageModel) -> None:
    """Sums come in another order; a rare weight on the boundary between two codes may fall the other way."""
    codes = []
    for settings in ({}, {"tokens_per_pass": 100, "block_size": 16}):
        model = deepcopy(tiny_llama)
        Gptq(targets=r".*layers\.0\..*", **settings).quantize(model, CALIBRATION)
        layers = select(model.network, r".*layers\.0\..*")
        codes.append(torch.cat([layer.weight.flatten() for layer in layers.values()]))
    assert (codes[0] == codes[1]).double().mean() > 0.97


def test_the_vocabulary_projection_can_be_a_target(tiny_llama: LanguageModel) -> None:
    exact = _logits(tiny_llama)
    Gptq(targets=["lm_head"], bits=8).quantize(tiny_llama, CALIBRATION)
    assert tiny_llama.network.get_input_embeddings().weight.dtype == torch.float32
    torch.testing.assert_close(_logits(tiny_llama), exact, rtol=0.05, atol=0.02)


def test_without_calibration_nothing_changes(tiny_llama: LanguageModel) -> None:
    before = tiny_llama.fingerprint()
    for calibration in (None, [], [[]]):
        with pytest.raises(BadRequest, match="calibrat"):
            Gptq().quantize(tiny_llama, calibration)
    assert tiny_llama.fingerprint() == before


def test_weights_and_activations_that_are_no_numbers_are_named(tiny_llama: LanguageModel) -> None:
    layer = tiny_llama.network.model.layers[1]
    with torch.no_grad():
        layer.input_layernorm.weight[0] = torch.inf
    with pytest.raises(Failure, match=r"layers\.1\.self_attn\.q_proj gets activations that are not numbers"):
        Gptq(targets=r".*layers\.1\..*").quantize(deepcopy(tiny_llama), CALIBRATION)
    with torch.no_grad():
        layer.mlp.up_proj.weight[0, 0] = torch.nan
    before = tiny_llama.fingerprint()
    with pytest.raises(Failure, match=r"layers\.1\.mlp\.up_proj has weights that are not numbers"):
        Gptq().quantize(tiny_llama, CALIBRATION)
    assert tiny_llama.fingerprint() == before
