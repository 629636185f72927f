"""`posttrain export`."""

from __future__ import annotations

import pytest


def test_json_shape_and_a_file_that_can_be_read(invoke, model, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "m.gguf"
    result = invoke("export", model, "--to", "gguf", "--out", place, "--json").json
    assert result["form"] == "gguf"
    assert result["path"] == str(place)
    assert result["bytes"] == place.stat().st_size
    assert invoke("generate", place, "The dog", "--max-new-tokens", 2, "--json").code == 0


def test_type_and_set_say_the_same(invoke, model, tmp_path):
    sizes = [
        invoke("export", model, "--to", "gguf", *options, "--out", tmp_path / "m.gguf", "--json").json["bytes"]
        for options in (["--type", "f32"], ["--set", "type=f32"], ["--set", "gguf.type=f32"], ["--type", "q8_0"])
    ]
    assert sizes[0] == sizes[1] == sizes[2] > sizes[3]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "gguv"], "There is no method 'gguv' in 'export'. Did you mean 'gguf'?"),
        (["--to", "gguf", "--type", "f17"], "'export.gguf.type' doesn't fit"),
        (["--to", "peft"], "carries no adapter"),
    ],
)
def test_bad_requests(invoke, model, tmp_path, words, sentence):
    assert sentence in invoke("export", model, *words, "--out", tmp_path / "out", "--json").refused(2)
    assert not (tmp_path / "out").exists()
