"""`posttrain.train` and `posttrain.quantize` stay callable however they are imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "first", ["import posttrain", "import posttrain.train.loop", "from posttrain.train import objectives"]
)
def test_package_and_verb(first):
    code = f"""
{first}
import sys, posttrain
assert ('torch' in sys.modules) == ({first!r} != 'import posttrain')
calls = []
import posttrain.pipeline.api as api
api.train = lambda *a, **k: calls.append((a, k))
posttrain.train('m', data='d')
import posttrain.train.loop as loop
posttrain.train('m', data='d')
assert calls == [(('m',), {{'data': 'd'}})] * 2
assert loop is posttrain.train.loop
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_verb_that_is_defined_elsewhere():
    """Guards look at texts without torch, and their package stays one."""
    code = """
import sys
from posttrain.guard import inspect
import posttrain
found = posttrain.guard("Mail jane.doe@example.org", "personal_data")
assert found[0].text == "Mail [EMAIL]" and posttrain.guard.inspect is inspect and 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
