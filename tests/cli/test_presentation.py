"""Results for people."""

from __future__ import annotations

from posttrain.cli.presentation import present, present_run


def shown(capsys, result, title=""):
    present(result, title)
    return capsys.readouterr().out.splitlines()


def test_figures_have_the_units_their_names_imply(capsys):
    assert shown(capsys, {"loss": 2.34567, "seconds": 75.0, "bytes": 538_000_000, "trainable_share": 0.0034}) == [
        "loss             2.346",
        "time             1 min 15 s",
        "size             538.0 MB",
        "trainable share  0.34 %",
    ]


def test_before_and_after_stand_side_by_side(capsys):
    # 20 -> 25 is +25 %; 400 -> 100 bytes is -75 %; a change from nothing has no percentage.
    result = {
        "perplexity_before": 20.0,
        "perplexity_after": 25.0,
        "bytes_before": 400,
        "bytes_after": 100,
        "x_before": 0,
        "x_after": 1,
        "only_before": 3,
    }
    lines = [line.split() for line in shown(capsys, result)]
    assert lines == [
        ["only", "before", "3"],
        ["before", "after", "change"],
        ["perplexity", "20", "25", "+25.0", "%"],
        ["size", "400", "bytes", "100", "bytes", "-75.0", "%"],
        ["x", "0", "1"],
    ]


def test_mappings_and_lists_of_mappings_get_tables_of_their_own(capsys):
    result = {
        "models": {"base": {"loss": 1.0}},
        "rows": [{"step": 1, "loss": 0.5}, {"step": 2}],
        "interval": [1.0, 2.0],
    }
    lines = shown(capsys, result)
    assert lines[0].split() == ["interval", "1", "to", "2"]
    assert lines[1:4] == ["models", "base", "loss  1"]
    assert [line.split() for line in lines[4:]] == [["rows"], ["step", "loss"], ["1", "0.5"], ["2", "–"]]


def test_nothing_is_cut_or_read_as_markup_in_a_file(capsys):
    (line,) = shown(capsys, {"signature": "x" * 500 + "[bold]"})
    assert line == "signature  " + "x" * 500 + "[bold]"


def test_a_run_is_shown_step_by_step(capsys):
    steps = [
        {
            "name": "before",
            "verb": "measure",
            "skipped": True,
            "seconds": 2.0,
            "result": {"perplexity": {"value": 9.5}},
        },
        {"name": "train", "verb": "train", "skipped": False, "seconds": 70.0, "result": {"loss": 1.5, "kind": "x"}},
        {"name": "note", "verb": "note", "skipped": False, "seconds": 0.0, "result": {}},
    ]
    present_run({"steps": steps, "report": "runs/x/report.html"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["step", "time", "result"],
        ["before", "unchanged", "2.0", "s", "value", "9.5"],
        ["train", "train", "1", "min", "10", "s", "loss", "1.5"],
        ["note", "note", "0", "s"],
        [],
        ["Report:", "runs/x/report.html"],
    ]
