"""Every shipped task on made-up data in the layouts it reads: a solved item word by word, and a model's score.

Expected texts are those that lm-evaluation-harness 0.4.13 makes of the same rows, where it has the task; but for
MultiRC, whose yes and no it has the wrong way round.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.bench import task
from posttrain.bench.runner import evaluate, prepare
from posttrain.core import events

JSON = str | list[Any] | dict[str, Any]


def changed(question: str, answer: str, other: str, others_answer: str) -> dict[str, Any]:
    """A question of BoolQ's contrast set with one that was made of it."""
    return {
        "question": question,
        "answer": answer,
        "perturbed_questions": [{"perturbed_q": other, "answer": others_answer}],
    }


LETTERED = {
    "id": "1",
    "question": {"stem": "Why?", "choices": [{"text": "so", "label": "A"}, {"text": "thus", "label": "B"}]},
    "answerKey": "B",
}
SHEET = [
    "Q: 1 + 1 is\nA: Let's think step by step.\nOne and one. So the answer is 2.",
    "Q: 2 + 2 is\nA: Let's think step by step. Two and two. So the answer is 4.",
    "Q: 3 + 3 is\nA: Let's think step by step.\nThree\nand three. So the answer is 6.",
]
BBH = {
    "bbh/word_sorting.json": {"canary": "c", "examples": [{"input": "List: b a", "target": "a b"}]},
    "bbh/cot-prompts/word_sorting.txt": "canary\n-----\nSort a list of words.\n\n" + "\n\n".join(SHEET) + "\n",
}
BBQ = {
    "question_polarity": "neg",
    "context_condition": "disambig",
    "answer_info": {"ans0": ["Bob", "M-Black"], "ans1": ["Can't answer", "unknown"], "ans2": ["Ann", "F-White"]},
    "additional_metadata": {"stereotyped_groups": ["F", "White"]},
    "context": "C.",
    "question": "Who?",
    "ans0": "Bob",
    "ans1": "Can't answer",
    "ans2": "Ann",
    "label": 0,
}
PAIR = {"sentence1": "A b.", "sentence2": "C d.", "question": "Q?", "sentence": "S."}
BIGBENCH = {"task_prefix": "Now. ", "examples": [{"input": "I", "target_scores": {"a": 0, "b": 1}}]}
WRITTEN = {"example_input_prefix": "", "examples": [{"input": "I ", "target": ["x", "y"]}]}
PASSAGE = {"text": "Ann met Bob.\n@highlight\nThey met", "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}]}
ANSWERS = [{"text": "A", "label": 1}, {"text": "B", "label": 0}]
MULTIRC = {"text": "P.", "questions": [{"question": "Q?", "answers": ANSWERS, "idx": 4}]}
COPA = {"premise": "It fell.", "choice1": "It broke.", "choice2": "I did.", "question": "effect", "label": 1}
QUERY = {"query": "@placeholder came", "answers": [{"text": "Bob"}]}
STSB = "g\tf\ty\t1\t5.0\tA b.\tC\ng\tf\ty\t2\t1.5\tD\tE f\tl\tl\ng\tf\ty\t3\t2\tG\tH i j\n"
CROWS = ",sent_more,sent_less,bias_type\n0,A b.,C b.,race-color\n1,D,E,age\n"
TRUTH = {"question": "Q?", "mc1_targets": {"a": 0, "b": 1}, "mc2_targets": {"a": 1, "b": 1}}

# By the task asked for: its files, and what its first item is with the right answer.
CASES: dict[str, tuple[dict[str, JSON], str]] = {
    "aqua_rat": (
        {"aqua/aqua_test.json": [{"question": "x?", "options": ["A)1", "B)2"], "correct": "B"}]},
        "Q: x? Answer Choices: (A)1 (B)2\nA: Among A through E, the answer is (B)2",
    ),
    "arc_challenge": ({"arc/ARC-Challenge-Test.jsonl": LETTERED}, "Question: Why?\nAnswer: thus"),
    "arc_easy": ({"arc/ARC-Easy-Test.jsonl": LETTERED}, "Question: Why?\nAnswer: thus"),
    "bbh_word_sorting": (BBH, "Q: List: b a\nA: Let's think step by step.\na b"),
    "bbh_fewshot_word_sorting": (BBH, "Q: List: b a\nA: a b"),
    "bbq_SES": ({"bbq/SES.jsonl": BBQ}, "C.\n\nQ: Who?\nA: Bob"),
    "bigbench_dates": ({"bigbench/dates_task.json": BIGBENCH}, "Now. \nQ: I\n  choice: a\n  choice: b\nA: b"),
    "bigbench_generative_dates": ({"dates/task.json": WRITTEN}, "I \nA: x"),
    "blimp_passive_1": ({"blimp/passive_1.jsonl": {"sentence_good": "So.", "sentence_bad": "So so."}}, " So."),
    "boolq": (
        {"boolq/dev.jsonl": {"title": "T", "passage": "P.", "question": "is it", "answer": True}},
        "T -- P.\nQuestion: is it?\nAnswer: yes",
    ),
    "boolq_contrast": (
        {
            "boolq/boolq_perturbed.json": {
                "data": [
                    {"title": "Title", "paragraph": "P", **changed("Question", "Gold Answer", "Perturbed Q", "New")},
                    {"title": "T", "paragraph": "P.", **changed("q", "FALSE", "q then", "TRUE")},
                ]
            }
        },
        "T -- P.\nQuestion: q?\nAnswer: no",
    ),
    "cb": (
        {"CB/val.jsonl": {"premise": "P.", "hypothesis": "h", "label": "neutral"}},
        "P.\nQuestion: h. True, False, or Neither?\nAnswer: Neither",
    ),
    "cola": (
        {"cola/in_domain_dev.tsv": "x\t0\t*\tIt so.\n", "cola/out_of_domain_dev.tsv": "y\t1\t\tIt is.\n"},
        "It so.\nQuestion: Does this sentence make sense?\nAnswer: no",
    ),
    "copa": (
        {"COPA/val.jsonl": COPA},
        "It fell therefore  i did.",
    ),
    "crows_pairs_race_color": (
        {"crows-pairs/crows_pairs_anonymized.csv": CROWS},
        "A b.",
    ),
    "gsm8k": (
        {"gsm8k/test.jsonl": [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(6)]},
        "Question: 0?\nAnswer: #### 0",
    ),
    "handbook_quiz": ({}, ""),
    "hellaswag": ({"hellaswag/hellaswag_val_full.txt": "He\n2\na\nb\nc\nd\n"}, "He c"),
    "lambada_openai": ({"lambada/lambada_test.jsonl": {"text": "a b c"}}, "a b c"),
    "lambada_standard": ({"lambada/lambada_test_plain_text.txt": "a b c\n"}, "a b c"),
    "mgsm_direct_de": ({"mgsm/mgsm_de.tsv": "Wie viele?\t12\n"}, "Frage: Wie viele?\nAntwort:12"),
    "mgsm_cot_de": ({"mgsm/mgsm_de.tsv": "Wie viele?\t12\n"}, "Frage: Wie viele?\nSchritt-für-Schritt-Antwort: 12"),
    "mmlu_anatomy": (
        {"mmlu/test/anatomy_test.csv": "Where?,here,there,up,down,C\n"},
        "Where?\nA. here\nB. there\nC. up\nD. down\nAnswer: C",
    ),
    "mnli": (
        {"MNLI/dev_matched.tsv": "sentence1\tsentence2\tgold_label\nP.\th\tneutral\n"},
        "P.\nQuestion: h. True, False or Neither?\nAnswer: Neither",
    ),
    "mnli_mismatch": (
        {"MNLI/dev_mismatched.tsv": "sentence1\tsentence2\tgold_label\nP.\tH.\tentailment\n"},
        "P.\nQuestion: H. True, False or Neither?\nAnswer: True",
    ),
    "mrpc": (
        {"mrpc/validation.parquet": {**PAIR, "label": 1}},
        "Sentence 1: A b.\nSentence 2: C d.\nQuestion: Do both sentences mean the same thing?\nAnswer: yes",
    ),
    "multirc": (
        {"MultiRC/val.jsonl": {"idx": 0, "passage": MULTIRC}},
        "P.\nQuestion: Q?\nAnswer: A\nIs the answer correct? yes",
    ),
    "piqa": (
        {"piqa/dev.jsonl": {"goal": "Go", "sol1": "walk", "sol2": "fly"}, "piqa/dev-labels.lst": "1\n"},
        "Question: Go\nAnswer: fly",
    ),
    "qnli": (
        {"qnli/validation.parquet": {**PAIR, "label": 0}},
        "Q?\nS.\nQuestion: Does this response answer the question?\nAnswer: yes",
    ),
    "qqp": (
        {"QQP/dev.tsv": "question1\tquestion2\tis_duplicate\nA?\tB?\t0\n"},
        "Question 1: A?\nQuestion 2: B?\nQuestion: Do both questions ask the same thing?\nAnswer: no",
    ),
    "record": (
        {
            "ReCoRD/val.jsonl": {
                "passage": PASSAGE,
                "qas": [QUERY],
            }
        },
        "Ann met Bob.\n\n  - They met.\n   - Bob came",
    ),
    "rte": (
        {"rte/validation.parquet": {**PAIR, "label": 1}},
        "A b.\nQuestion: C d. True or False?\nAnswer: False",
    ),
    "sst2": (
        {"SST-2/dev.tsv": "sentence\tlabel\ngood film\t1\n"},
        "good film\nQuestion: Is this sentence positive or negative?\nAnswer: positive",
    ),
    "stereotype_pairs": ({}, ""),
    "stsb": (
        {"stsb/sts-test.csv": STSB},
        "",
    ),
    "truthfulqa_mc1": (
        {"truthfulqa/mc_task.json": [TRUTH]},
        "Q: Q?\nA: b",
    ),
    "truthfulqa_mc2": (
        {"truthfulqa/mc_task.json": [TRUTH]},
        "Q: Q?\nA: a",
    ),
    "wic": (
        {"WiC/val.jsonl": {"sentence1": "We run.", "sentence2": "A run", "start1": 3, "end1": 6, "label": False}},
        "Sentence 1: We run.\nSentence 2: A run\nQuestion: Is the word 'run' used in the same way in the two sentences "
        "above?\nAnswer: no",
    ),
    "winobias_type1": (
        {
            "winobias/pro_stereotyped_type1.txt.test": "1 [The nurse] said [she] ran.\n",
            "winobias/anti_stereotyped_type1.txt.test": "1 [The nurse] said [he] ran.\n",
        },
        "The nurse said she ran.",
    ),
    "winogrande": (
        {"winogrande/dev.jsonl": {"sentence": "A or _ ran.", "option1": "x", "option2": "y", "answer": "2"}},
        "A or y ran.",
    ),
    "wnli": (
        {"WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA b.\tC d.\t1\n"},
        "A b.\nQuestion: C d. True or False?\nAnswer: True",
    ),
    "wsc": (
        {
            "WSC/val.jsonl": {
                "text": 'Ann said " we do n\'t , so she left . "',
                "target": {"span1_text": "Ann", "span2_text": "she", "span2_index": 8},
                "label": True,
            }
        },
        'Passage: Ann said"we don\'t, so *she* left."\nQuestion: In the passage above, does the pronoun "*she*" refer '
        'to "*Ann*"?\nAnswer: yes',
    ),
}
# They run programs, so they have tests of their own.
PROGRAMS = {"humaneval", "humaneval_64", "humaneval_instruct", "mbpp", "mbpp_instruct", "mbpp_sanitized"}


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([content]), file)
    elif isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    elif name.endswith(".jsonl"):
        rows = content if isinstance(content, list) else [content]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text(json.dumps(content))


@pytest.fixture
def asked(request, tmp_path):
    """A task with its made-up data read."""
    files, expected = CASES[request.param]
    for name, content in files.items():
        write(tmp_path, name, content)
    return prepare([request.param], tmp_path)[0], expected


def test_every_task_has_its_data_here():
    covered = {task.find(name).file.stem for name in CASES}
    assert covered | PROGRAMS == set(task.names())


@pytest.mark.parametrize("asked", [name for name, (_, text) in CASES.items() if text], indirect=True)
def test_a_solved_item(asked):
    plan, expected = asked
    assert plan.selection.type.solved(plan.parts[0].questions[0].item).text == expected


@pytest.mark.parametrize("asked", CASES, indirect=True)
def test_a_model_gets_a_score(asked, tiny_llama):
    """In every metric that so few items have a value in; generative tasks want more tokens than the model can read."""
    plan, _ = asked
    if "max_new_tokens" in type(plan.selection.type).model_fields:
        plan = prepared_short(plan)
    with events.listen(lambda event: None):
        found = evaluate(tiny_llama, [plan])[plan.name]
    assert found.metric == plan.selection.task.metrics[0]
    assert set(found.figures) <= set(plan.selection.task.metrics)
    assert found.metric in found.figures
    json.dumps(found.to_dict(), allow_nan=False)


def prepared_short(plan):
    """A generative task that writes four tokens."""
    from dataclasses import replace

    selection = plan.selection
    type_ = selection.type.model_copy(update={"max_new_tokens": 4})
    return replace(plan, selection=replace(selection, task=selection.task.model_copy(update={"type": type_})))


@pytest.mark.parametrize("asked", ["bbh_word_sorting", "bbh_fewshot_word_sorting"], indirect=True)
def test_examples_of_big_bench_hard_come_from_its_sheets(asked):
    """With the thoughts, and without them."""
    plan, _ = asked
    if plan.name.startswith("bbh_fewshot"):
        examples = "".join(f"Q: {i} + {i} is\nA: {2 * i}\n\n" for i in (1, 2, 3))
    else:
        examples = "\n\n".join(SHEET).replace("step. Two", "step.\nTwo") + "\n\n"
    assert plan.parts[0].questions[0].preamble == "Sort a list of words.\n\n" + examples


@pytest.mark.parametrize("asked", ["bbq_SES"], indirect=True)
def test_which_answers_agree_with_a_stereotype(asked):
    """Of two answers `Ann` names a stereotyped group, in a bad light; her groups are told by F and White."""
    values = asked[0].parts[0].questions[0].item.values
    assert values["groups"] == [["bob", "m", "black"], ["can't answer", "unknown"], ["ann", "f", "white"]]
    assert values["agrees"] == [False, False, True]
    assert values["choices"][:3] == ["Bob", "Ann", "Unknown"] and len(values["choices"]) == 12
    assert values["labels"] == [1] + [0] * 11
