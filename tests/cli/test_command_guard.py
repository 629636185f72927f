"""`posttrain guard`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

LINES = ["Mail jane.doe@example.org now", "", "I will k1ll you", "a good day"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n")
    return path


def objects(ran) -> list[dict]:
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def test_one_object_a_line(invoke, texts, monkeypatch):
    found = objects(invoke("guard", texts))
    assert [each["action"] for each in found] == ["redact", "allow", "block", "allow"]
    assert [each["text"] for each in found] == ["Mail [EMAIL] now", "", "[VIOLENCE_THREAT]", "a good day"]
    (finding,) = found[0]["findings"]
    assert LINES[0][finding["start"] : finding["end"]] == "jane.doe@example.org"
    assert finding["category"] == "email" and finding["reason"]
    assert objects(invoke("guard", texts, "--json")) == found
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(LINES)))
    assert objects(invoke("guard")) == found


def test_policy_guards_and_settings(invoke, texts, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("categories:\n  day: {terms: [good day], action: flag, where: [output]}\n")
    actions = lambda *words: [each["action"] for each in objects(invoke("guard", texts, *words))]  # noqa: E731
    assert actions("--policy", policy) == ["redact", "allow", "allow", "flag"]
    assert actions("--policy", policy, "--where", "input") == ["redact", "allow", "allow", "allow"]
    assert actions("--guards", "content_filter") == ["allow", "allow", "block", "allow"]
    found = objects(invoke("guard", texts, "--guards", "personal-data", "--set", "personal_data.style=mask"))
    assert found[0]["text"] == "Mail ****.***@*******.*** now"


def test_failing_is_asked_for(invoke, texts):
    ran = invoke("guard", texts, "--fail-on", "block")
    assert ran.code == 1 and len(ran.out.splitlines()) == 4
    assert "1 of 4 texts: block." in ran.err
    assert invoke("guard", texts, "--json", "--fail-on", "redact").code == 1
    assert invoke("guard", texts, "--guards", "personal_data", "--fail-on", "block").code == 0


def test_a_data_set(invoke, tmp_path):
    rows = [{"text": LINES[0]}, {"text": LINES[2]}, {"text": LINES[3]}]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "clean.jsonl"
    result = invoke("guard", "--data", data, "--out", out, "--json").json
    assert result["records"] == 3
    assert result["actions"] == {"allow": 1, "flag": 0, "redact": 1, "block": 1}
    assert result["categories"] == {"email": 1, "violence_threat": 1}
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["Mail [EMAIL] now", "a good day"]
    assert "1 of 3 records: block." in invoke("guard", "--data", data, "--fail-on", "block").err
    assert "email" in invoke("guard", "--data", data).out


def test_refusals(invoke, texts, tmp_path):
    assert "no policy none.yaml" in invoke("guard", texts, "--policy", "none.yaml").refused(2)
    assert "There is no file" in invoke("guard", tmp_path / "none.txt").refused(2)
    assert "Did you mean 'content_filter'" in invoke("guard", texts, "--guards", "content_filtr").refused(2)
    assert "Give them in one place" in invoke("guard", texts, "--data", texts).refused(2)
    assert "--out needs --data" in invoke("guard", texts, "--out", tmp_path / "x").refused(2)
    told = invoke("guard", texts, "--guards", "memorization", "--set", "memorization.canaries=c").refused(2)
    assert "looks at models" in told


def test_it_starts_without_torch(texts):
    code = (
        "import sys; from posttrain.cli import main; code = main(['guard', sys.argv[1], '--quiet']); "
        "sys.exit(code or ('torch' in sys.modules) * 3)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(texts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
