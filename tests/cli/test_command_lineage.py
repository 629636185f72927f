"""`posttrain lineage`: as data, as a tree and drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest


def test_lineage_as_data_as_a_tree_and_drawn(invoke, model, rounded, tmp_path):
    found = invoke("lineage", rounded, "--svg", tmp_path / "lineage.svg", "--json").json
    assert [node["label"] for node in found["nodes"] if node["kind"] == "model"] == [str(model), "rounded"]
    root = ElementTree.parse(tmp_path / "lineage.svg").getroot()  # stands alone: it has a namespace and a style
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{http://www.w3.org/2000/svg}style") is not None
    shown = invoke("lineage", rounded).out
    assert "rounded  quantize" in shown
    assert invoke("lineage", "no-such-model", "--json").refused(2)


@pytest.mark.parametrize("summary", ["{}", "[]", '{"lineage": 3}', '{"lineage": {"nodes": []}}'])
def test_a_summary_of_something_else(invoke, tmp_path, summary):
    (tmp_path / "summary.json").write_text(summary)
    assert "isn't the summary of a run" in invoke("lineage", tmp_path, "--json").refused(2)
