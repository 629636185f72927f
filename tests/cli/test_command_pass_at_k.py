"""`posttrain pass-at-k`, which is told of its work in tests/bench/test_pass_at_k.py."""

from __future__ import annotations

from posttrain.cli.commands import pass_at_k


def test_what_is_shown(capsys):
    pass_at_k.show(
        {
            "metrics": {"pass@1": {"value": 0.5, "stderr": 0.1, "interval": None}},
            "n": 2,
            "programs": 4,
            "failures": {"timeout": 2},
            "signature": "humaneval|version:1",
        }
    )
    shown = capsys.readouterr()
    assert "pass@1" in shown.out + shown.err
    assert "timeout 2" in shown.out + shown.err
