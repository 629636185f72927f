"""`posttrain lineage`: as data, as a tree and drawn."""

from __future__ import annotations

from xml.etree import ElementTree


def test_lineage_as_data_as_a_tree_and_drawn(invoke, model, rounded, tmp_path):
    found = invoke("lineage", rounded, "--svg", tmp_path / "lineage.svg", "--json").json
    assert [node["label"] for node in found["nodes"] if node["kind"] == "model"] == [str(model), "rounded"]
    root = ElementTree.parse(tmp_path / "lineage.svg").getroot()  # stands alone: it has a namespace and a style
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{http://www.w3.org/2000/svg}style") is not None
    shown = invoke("lineage", rounded).out
    assert "rounded  quantize" in shown
    assert invoke("lineage", "no-such-model", "--json").refused(2)
