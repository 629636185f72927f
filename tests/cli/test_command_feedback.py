"""`posttrain feedback`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import pytest

from posttrain.align.feedback import FeedbackStore
from posttrain.data import dataset

KEYS = {
    *("store", "criterion", "annotator", "items", "judged", "judgements"),
    *("pending", "agreement", "exported", "ties", "disagreements"),
}


@pytest.fixture
def pairs(tmp_path):
    """Four pairs; good answers begin with `good`."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Prompt {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def typed(monkeypatch):
    """Put lines on standard input."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_session_by_lines(invoke, pairs, tmp_path, typed):
    typed("a", "b", "nonsense", "=", "s", "q")
    store, out = tmp_path / "store.db", tmp_path / "out.jsonl"
    ran = invoke("feedback", store, "--pairs", pairs, "--annotator", "anna", "--export", out, "--json")
    assert ran.json == {
        "store": str(store),
        "criterion": "overall",
        "annotator": "anna",
        "items": 4,
        "judged": 3,
        "judgements": 3,
        "pending": 1,
        "agreement": None,
        "exported": 2,
        "ties": 1,
        "disagreements": 0,
    }
    assert set(ran.json) == KEYS
    assert "'nonsense' isn't understood. Allowed: a, b, = (tie), s (skip), u (undo the last), q (quit)." in ran.err
    assert "4 of 4" in ran.err
    written = dataset.read(out)
    assert written.kind == "preference" and len(written) == 2
    with FeedbackStore(store) as found:
        assert written.records == found.export().preferences


def test_the_letters_mean_what_was_shown(invoke, pairs, tmp_path, typed):
    """Who reads the answers and types the letter of the good one prefers it, on whichever side it stood."""
    invoke("feedback", tmp_path / "store.db", "--pairs", pairs)
    with FeedbackStore(tmp_path / "store.db") as store:
        letters = ["a" if q.answers[0].startswith("good") else "b" for q in store.pending("anna")]
    typed(*letters)
    assert invoke("feedback", tmp_path / "store.db", "--annotator", "anna", "--json").json["judged"] == 4
    with FeedbackStore(tmp_path / "store.db") as store:
        assert {pair.chosen for pair in store.export().preferences} == {f"good {i}" for i in range(4)}


def test_going_on_and_undoing(invoke, pairs, tmp_path, typed):
    store = tmp_path / "store.db"
    command = ["feedback", store, "--pairs", pairs, "--annotator", "anna", "--json"]
    typed("a", "q")
    assert invoke(*command).json["pending"] == 3
    typed("u", "b", "b", "u", "a", "q")  # nothing to undo yet, and then one
    ran = invoke(*command)
    assert "There is nothing to undo in this session." in ran.err
    assert "1 of 3" in ran.err
    assert (ran.json["judged"], ran.json["judgements"], ran.json["pending"]) == (2, 3, 1)
    typed("a")
    assert invoke(*command).json["pending"] == 0
    ran = invoke(*command)
    assert "anna has judged everything" in ran.err
    assert (ran.json["judged"], ran.json["items"], ran.json["judgements"]) == (0, 4, 4)


def test_the_end_of_input_keeps_what_was_judged(invoke, pairs, tmp_path, typed):
    typed("a", "b")
    ran = invoke("feedback", tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna", "--json")
    assert (ran.json["judged"], ran.json["pending"]) == (2, 2)


def test_limit(invoke, pairs, tmp_path, typed):
    typed("a", "a", "a")
    command = ["feedback", tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna", "--json"]
    assert invoke(*command, "--limit", 2).json["judged"] == 2
    assert invoke(*command, "--limit", 0).json["judged"] == 0


def test_two_annotators_who_agree(invoke, pairs, tmp_path, typed):
    store = tmp_path / "store.db"
    invoke("feedback", store, "--pairs", pairs)
    for name in ("anna", "ben"):
        with FeedbackStore(store) as opened:
            letters = []
            for question in opened.pending(name):
                # Both prefer the answer stored first in odd items, the other one in even items.
                place = question.order.index(0)
                letters.append("ab"[place if question.item % 2 else 1 - place])
        typed(*letters)
        result = invoke("feedback", store, "--annotator", name, "--json").json
    assert result["agreement"] == 1
    assert result["judgements"] == 8


def test_without_an_annotator_nobody_is_asked(invoke, pairs, tmp_path, typed):
    typed("a")
    result = invoke("feedback", tmp_path / "store.db", "--pairs", pairs, "--json").json
    assert (result["annotator"], result["judged"], result["pending"], result["exported"]) == (None, 0, 4, None)


def test_an_export_without_verdicts(invoke, pairs, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    ran = invoke("feedback", tmp_path / "store.db", "--pairs", pairs, "--export", out, "--json")
    assert ran.json["exported"] == 0
    assert f"Warning: No pair has a winner yet: {out} is empty." in ran.err
    assert out.read_text() == ""


def test_human_form(invoke, pairs, tmp_path, typed):
    typed("a")
    lines = invoke("feedback", tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna").out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert (shown["items"], shown["judged"], shown["pending"]) == ("4", "1", "3")
    assert "agreement" not in shown


def test_quiet_lines_show_nothing(invoke, pairs, tmp_path, typed):
    typed("a")
    ran = invoke("feedback", tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna", "--quiet", "--json")
    assert ran.json["judged"] == 1
    assert ran.err == ""


# Answers of a model.


def sampled(invoke, model, store, *options):
    command = ["--model", model, "--prompts", "builtin:prompts", "--max-new-tokens", 4, "--json"]
    return invoke("feedback", store, *command, *options)


def test_two_answers_of_a_model_to_each_prompt(invoke, model, tmp_path):
    assert sampled(invoke, model, tmp_path / "store.db", "--set", "limit=3").json["items"] == 3
    assert sampled(invoke, model, tmp_path / "store.db", "--set", "limit=3").json["items"] == 3  # the same again
    assert sampled(invoke, model, tmp_path / "store.db", "--set", "limit=3", "--seed", 1).json["items"] == 6
    prompts = {record.text for record in dataset.read("builtin:prompts").records[:3]}
    with FeedbackStore(tmp_path / "store.db") as store:
        questions = store.pending("anna")
    assert {question.prompt for question in questions} == prompts
    for question in questions:
        assert len(set(question.answers)) == 2
        assert all(isinstance(answer, str) for answer in question.answers)


def test_through_the_chat_template_items_are_messages(invoke, model, tmp_path):
    result = sampled(invoke, model, tmp_path / "store.db", "--chat", "--set", "limit=1", "--temperature", 2).json
    assert result["items"] == 1
    with FeedbackStore(tmp_path / "store.db") as store:
        (question,) = store.pending("anna")
    (prompt,) = question.prompt
    assert prompt["role"] == "user"
    assert [[message["role"] for message in answer] for answer in question.answers] == [["assistant"]] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "search.sampling.num_samples=2"], "several answers a prompt"),
        (["--set", "search.sampling.top_k=1"], "the same answer to every prompt"),
        (["--temperature", 0], "both answers to a prompt are the same"),
        (["--temperature", -1], "'generate.search.sampling.temperature' doesn't fit"),
        (["--set", "max_new_token=4"], "Did you mean 'max_new_tokens'?"),
    ],
)
def test_sampling_that_cant_be(invoke, model, tmp_path, options, sentence):
    assert sentence in sampled(invoke, model, tmp_path / "store.db", *options).refused(2)


# What is refused.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "There is no feedback store"),
        (["--export", "out.jsonl"], "There is no feedback store"),
        (["--pairs", "no/such/pairs.jsonl"], "pairs.jsonl doesn't exist"),
        (["--pairs", "builtin:handbook"], "make a record of kind preference"),
        (["--model", "m"], "--model needs --prompts."),
        (["--prompts", "builtin:prompts"], "--prompts needs --model"),
        (["--max-new-tokens", "3"], "--max-new-tokens needs --model"),
        (["--chat"], "--chat needs --model"),
        (["--set", "limit=3"], "--set needs --model"),
        (["--limit", "-1"], "--limit can't be -1."),
        (["--annotator", " "], "--annotator has no name."),
        (["--criterion", ""], "--criterion has no name."),
        (["--export", "out.csv"], "out.csv isn't named .jsonl"),
        (["--export", f"{__file__}/out.jsonl"], "test_command_feedback.py is no folder"),
        (["--seed", "-1"], "A seed is a whole number from 0 on, not -1."),
        (["--anotator", "x"], "Did you mean --annotator?"),
    ],
)
def test_bad_requests(invoke, tmp_path, options, sentence):
    assert sentence in invoke("feedback", tmp_path / "store.db", *options, "--json").refused(2)


def test_a_malformed_line_is_named_and_nothing_is_added(invoke, pairs, tmp_path):
    with pairs.open("a") as file:
        file.write('{"prompt": "p", "chosen": 3, "rejected": "x"}\n')
    error = invoke("feedback", tmp_path / "store.db", "--pairs", pairs).refused(2)
    assert f"{pairs}:5" in error and "'chosen'" in error
    with FeedbackStore(tmp_path / "store.db") as store:
        assert store.counts() == (0, 0)


def test_another_file_is_not_a_store(invoke, pairs):
    before = pairs.read_text()
    assert "is not a feedback store" in invoke("feedback", pairs, "--pairs", pairs).refused(2)
    assert pairs.read_text() == before


# In a process of its own: interruption, the terminal, what is imported.


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "posttrain", "feedback", *map(str, words)], text=True, **options)


def read_until(stream, text):
    seen = ""
    while text not in seen:
        line = stream.readline()
        assert line, seen
        seen += line
    return seen


def test_ctrl_c_keeps_what_was_judged(pairs, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna", **pipes) as process:
        process.stdin.write("a\n")
        process.stdin.flush()
        read_until(process.stderr, "2 of 4")
        read_until(process.stderr, "Which answer is better?")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert f"Interrupted; what was judged is kept in {tmp_path / 'store.db'}, in this session 1." in rest
    assert "Traceback" not in rest
    with FeedbackStore(tmp_path / "store.db") as store:
        assert store.counts() == (4, 1)


def test_one_key_on_a_terminal(pairs, tmp_path):
    """Keys pressed before the question is shown are discarded, so one is pressed again until it is taken."""
    terminal, end = os.openpty()
    # Standard error is the terminal's, where questions are shown.
    with start(tmp_path / "store.db", "--pairs", pairs, "--limit", 1, "--json", stdin=end, stdout=subprocess.PIPE,
               stderr=subprocess.PIPE, env={**os.environ, "LOGNAME": "carla"}) as process:  # fmt: skip
        read_until(process.stderr, "Which answer is better?")
        os.write(terminal, b"\n\x1b[A")  # Enter says nothing, an arrow isn't understood
        for _ in range(600):
            os.write(terminal, b"b")
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                continue
        out, err = process.stdout.read(), process.stderr.read()
    os.close(terminal)
    os.close(end)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert (result["judged"], result["annotator"], result["pending"]) == (1, "carla", 3)
    assert "B > A" in err


def test_ctrl_d_on_a_terminal_ends_normally(pairs, tmp_path):
    terminal, end = os.openpty()
    with start(tmp_path / "store.db", "--pairs", pairs, "--annotator", "anna", "--json", stdin=end,
               stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        read_until(process.stderr, "Which answer is better?")
        for _ in range(600):
            os.write(terminal, b"\x04")
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                continue
        out = process.stdout.read()
    os.close(terminal)
    os.close(end)
    assert process.returncode == 0
    assert json.loads(out)["judged"] == 0


def test_judging_needs_no_torch(pairs, tmp_path):
    program = (
        "import sys; from posttrain.cli import main;"
        "code = main(sys.argv[1:]); print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    words = ["feedback", str(tmp_path / "store.db"), "--pairs", str(pairs), "--annotator", "anna", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], input="a\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False False"
