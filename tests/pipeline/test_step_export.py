"""The step `export`: a file in the step's folder or elsewhere, and a model that stays what it was."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader

from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import save
from posttrain.pipeline.run import run_recipe


def test_export_in_a_recipe(tiny_llama: LanguageModel, tmp_path: Path) -> None:
    save(tiny_llama, tmp_path / "model")
    recipe = {
        "name": "exports",
        "model": str(tmp_path / "model"),
        "steps": [
            {"export": {"gguf": {"type": "q8_0"}}},
            {"export": {"name": "elsewhere", "gguf": None, "out": str(tmp_path / "there" / "m.gguf")}},
        ],
    }
    summary = run_recipe(recipe, out=tmp_path / "run")
    first, second = (step["result"] for step in summary["steps"])
    assert first["form"] == "gguf"
    assert Path(first["path"]).parent == tmp_path / "run" / "steps" / "01-export"
    assert Path(first["path"]).stat().st_size == first["bytes"]
    assert second["path"] == str(tmp_path / "there" / "m.gguf")
    kinds = [{t.name: t.tensor_type.name for t in GGUFReader(each["path"]).tensors} for each in (first, second)]
    assert [kind["blk.0.attn_q.weight"] for kind in kinds] == ["Q8_0", "F16"]
    assert all(step["model"] is None for step in summary["steps"])
    again = run_recipe(recipe, out=tmp_path / "run")
    assert all(step["skipped"] for step in again["steps"])
