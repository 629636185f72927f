"""`posttrain.guard` and `posttrain.guard_data`: as the command, with instances, blocks and policies, and refusals."""

from __future__ import annotations

import json

import pytest

import posttrain
from posttrain.cli import main
from posttrain.core.errors import BadRequest
from posttrain.guard.personal_data import PersonalData

TEXTS = ["Mail jane.doe@example.org now", "", "I will k1ll you", "a good day"]


def test_texts_as_the_command(tmp_path, capfd):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    assert main(["guard", str(tmp_path / "texts.txt"), "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    found = posttrain.guard(TEXTS)
    assert [each.to_dict() for each in found] == lines
    assert [each.text for each in found] == ["Mail [EMAIL] now", "", "[VIOLENCE_THREAT]", "a good day"]
    (alone,) = posttrain.guard(TEXTS[0])
    assert alone == found[0] and alone.findings[0].category == "email"


@pytest.mark.parametrize(
    "guards",
    [
        *({"personal_data": {"style": "mask"}}, [{"personal_data": {"style": "mask"}}]),
        *(PersonalData.parse({"style": "mask"}), [PersonalData.parse({"style": "mask"})]),
    ],
)
def test_ways_to_name_guards(guards):
    assert posttrain.guard(TEXTS[0], guards)[0].text == "Mail ****.***@*******.*** now"
    assert posttrain.guard(TEXTS[2], guards)[0].action == "allow"


def test_a_policy(tmp_path):
    """It reaches the guards that take one, unless a block has its own."""
    for name, term in (("one", "good day"), ("two", "mail")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"categories:\n  own: {{terms: [{term}], action: flag, where: [output]}}\n")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    actions = lambda *given, **named: [each.action for each in posttrain.guard(TEXTS, *given, **named)]  # noqa: E731
    assert actions(policy=one) == ["redact", "allow", "allow", "flag"]
    assert actions(policy=one, where="input") == ["redact", "allow", "allow", "allow"]
    assert actions({"content_filter": {"policy": str(two)}}, policy=one) == ["flag", "allow", "allow", "allow"]


def test_a_data_set_as_the_command(tmp_path, capfd):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS if text))
    found = posttrain.guard_data(data, tmp_path / "clean.jsonl")
    assert found["actions"] == {"allow": 1, "flag": 0, "redact": 1, "block": 1}
    assert [json.loads(line)["text"] for line in (tmp_path / "clean.jsonl").read_text().splitlines()] == [
        *("Mail [EMAIL] now", "a good day")
    ]
    assert main(["guard", "--data", str(data), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == posttrain.guard_data(data) == {**found, "out": None}


@pytest.mark.parametrize(
    ("guards", "named", "sentence"),
    [
        ("content_filtr", {}, "Did you mean 'content_filter'"),
        (["personal_data", {"personal_data": {"stile": 1}}], {}, "Did you mean 'style'"),
        ([], {}, "There is no guard to look"),
        ({"memorization": {"canaries": "c"}}, {}, "memorization looks at models, not at texts"),
        (None, {"policy": "none.yaml"}, "no policy none.yaml"),
        (None, {"where": "inside"}, "where"),
        ([{"personal_data": {}, "content_filter": {}}], {}, "takes one method"),
    ],
)
def test_refusals(guards, named, sentence):
    with pytest.raises(BadRequest, match=sentence):
        posttrain.guard(TEXTS, guards, **named)


def test_the_data_itself_is_not_replaced(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    before = data.read_text()
    with pytest.raises(BadRequest, match="is the data itself"):
        posttrain.guard_data(data, data)
    with pytest.raises(BadRequest, match="is a folder"):
        posttrain.guard_data(data, tmp_path)
    assert data.read_text() == before


def test_settings_that_are_no_mapping():
    with pytest.raises(BadRequest, match="expects `key: value` settings, not 3"):
        posttrain.guard(TEXTS[0], {"personal_data": 3})
