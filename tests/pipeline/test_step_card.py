"""The card step: figures that earlier steps measured, on the card of the model that came out."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.models import saving
from posttrain.pipeline.run import run_recipe


def test_the_card_shows_what_was_measured(tiny_llama, tmp_path: Path) -> None:
    saving.save(tiny_llama, tmp_path / "model")
    (tmp_path / "text.txt").write_text("The river rose in the night, and nobody was sorry. " * 4, encoding="utf-8")
    rows = [{"prompt": f"What is {i}? ", "chosen": f"A number, {i}.", "rejected": "No."} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    align = {"data": str(tmp_path / "pairs.jsonl"), "steps": 1, "batch_size": 2, "max_new_tokens": 2}
    text = str(tmp_path / "text.txt")
    recipe = {
        "name": "carded",
        "model": str(tmp_path / "model"),
        "steps": [
            {"measure": {"name": "before", "perplexity": {"text": text, "window": 32, "stride": 16}}},
            {"align": {"name": "judge", "objective": "reward_model", **align}},
            {
                "align": {
                    "name": "aligned",
                    "from": "base",
                    "objective": {"ppo": {"rollout": {"episodes_per_rollout": 2}}},
                    "reward": "judge",
                    **align,
                    "steps": None,
                    "episodes": 2,
                    "evaluation_prompts": 1,
                }
            },
            {"card": {"intended_use": "Nothing but tests.", "knowledge_cutoff": "1897"}},
        ],
    }
    summary = run_recipe(recipe, out=tmp_path / "run")
    card = summary["steps"][-1]
    text = Path(card["result"]["card"]).read_text(encoding="utf-8")
    value = summary["steps"][0]["result"]["perplexity"]["value"]
    assert card["result"]["figures"] == 1
    assert f"| before | perplexity | {value:.4g} |" in text
    assert "# aligned" in text
    assert "ends with 1897" in text
    assert "Nothing but tests." in text
    assert (tmp_path / "run/steps/03-aligned/model/README.md").read_text(encoding="utf-8").startswith("---\n")
    assert "Nothing but tests." in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    # The reward model went into the aligned one: the run's lineage says so.
    assert ["judge", "aligned", "reward"] in summary["lineage"]["edges"]
    # Nothing has changed, so nothing is done again.
    assert all(step["skipped"] for step in run_recipe(recipe, out=tmp_path / "run")["steps"])
