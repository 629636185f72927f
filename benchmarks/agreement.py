"""Agreement with lm-evaluation-harness: the same items and weights through its own task files, item by item.

    python benchmarks/agreement.py --data DIR [--tasks boolq,mmlu_anatomy] [--items 20] [--texts 3] [--shots 2] [--show]

DIR holds tasks' data as `posttrain bench --data` takes it; without `--tasks` every task that is known here and has data
there is asked. The harness reads the same items in the hub's columns from JSON files. Of its task files only where the
data lies is changed, so its templates, examples, stops, filters and metrics are in force. It runs no program: of tasks
that write code only what is written is compared. Where the split that is asked is missing the training split stands in
for it on both sides. Prints one JSON line: by task the share of items with the same prompt, the same answer (choice or
text) and the same scores, the largest difference of a choice's log-probability, both values of each metric.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peers import child, environment

if TYPE_CHECKING:
    from posttrain.bench.item import Item
    from posttrain.bench.runner import Plan

PEERS = ["lm_eval[hf]==0.4.13", "transformers==5.24.0"]
BATCH = 8


@dataclass(frozen=True)
class Peer:
    """The harness's counterpart of a task.

    Attributes:
        file: Its file below the harness's folder of tasks; ``{member}`` stands for the member.
        kept: The hub's columns that posttrain's items have under the same name.
        made: The hub's other columns, expressions over posttrain's items.
        metrics: The harness's names of metrics that posttrain calls something else, with the filter behind a comma.
        reversed: Whether it lists the choices the other way round and has the labels wrong, so that its accuracy is 1
            less the right one.
    """

    file: str
    kept: str
    made: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    reversed: bool = False

    def columns(self) -> dict[str, str]:
        """All columns, with the expressions that make them."""
        return {name: name for name in self.kept.split()} | self.made

    def metric(self, name: str) -> str:
        """The harness's name of a metric, with its filter."""
        theirs = self.metrics.get(name, name)
        return theirs if "," in theirs else f"{theirs},none"


def classes(*names: str) -> dict[str, str]:
    """The column with the number of a class, which files hold as number, name or truth value."""
    return {"label": f"label | class_number({list(names)})"}


ANSWERED = "{'text': choices, 'label': labels}"
# A copy of the set in circulation numbers some choices and has letters for their keys.
KEY = "answerKey if answerKey in labels else labels['ABCDE'.index(answerKey)]"
CLOZE = {
    "activity_label": "query.split(': ', 1)[0]",
    "ctx_a": "query.split(': ', 1)[1]",
    "ctx_b": "''",
    "endings": "choices",
    "label": "label | int",
}
ENTAILS = {
    "sentence1": "sentence1 if sentence1 is defined else prompt.rsplit('\\nQuestion: ', 1)[0]",
    "sentence2": "sentence2 if sentence2 is defined else "
    "prompt.rsplit('\\nQuestion: ', 1)[1].removesuffix(' True or False?\\nAnswer:')",
    "label": "answer_index | class_number(['entailment', 'not_entailment'])",
}
TRUE = classes("False", "True")
FIRST_OR_LAST = {"strict_match": "exact_match,strict-match", "flexible_extract": "exact_match,flexible-extract"}
SOLVED = {"answer": "answer if answer is defined else none"}
STEREOTYPES = {
    "acc_ambiguous": "accuracy_amb",
    "acc_disambiguated": "accuracy_disamb",
    "bias_ambiguous": "amb_bias_score",
    "bias_disambiguated": "disamb_bias_score",
}
NEWS = {"passage": "text if text is defined else passage", "entities": "names"}

TASKS = {
    "aqua_rat": Peer("agieval/aqua-rat.yaml", "query choices", {"gold": "[right | int]"}),
    "arc_challenge": Peer("arc/arc_challenge.yaml", "question answerKey", {"choices": ANSWERED}),
    "arc_easy": Peer("arc/arc_easy.yaml", "question", {"choices": ANSWERED, "answerKey": KEY}),
    "bbh": Peer("bbh/cot_fewshot/{member}.yaml", "input target", {}, {"exact_match": "exact_match,get-answer"}),
    # Scores differ: the harness counts an answer wrong for the blank that a tokenizer writes before its first word.
    "bbh_fewshot": Peer("bbh/fewshot/{member}.yaml", "input target"),
    "bbq": Peer(
        "bbq/bbq_multiple_choice.yaml",
        "context question ans0 ans1 ans2 label question_polarity context_condition category answer_info "
        "additional_metadata",
        {},
        STEREOTYPES,
    ),
    "bigbench": Peer(
        "bigbench/multiple_choice/{member}.yaml",
        "",
        {
            "inputs": "asked",
            "multiple_choice_targets": "choices",
            "multiple_choice_scores": "grades",
            "targets": "[choices[grades.index(grades | max)]]",
        },
    ),
    "blimp": Peer("blimp/{member}.yaml", "sentence_good sentence_bad"),
    "boolq": Peer("super_glue/boolq/default.yaml", "passage question", TRUE),
    "cb": Peer("super_glue/cb/default.yaml", "premise hypothesis", classes("entailment", "contradiction", "neutral")),
    "cola": Peer("glue/cola/default.yaml", "sentence", classes("unacceptable", "acceptable")),
    "copa": Peer("super_glue/copa/default.yaml", "premise choice1 choice2 question", classes("choice1", "choice2")),
    "crows_pairs": Peer("crows_pairs/crows_pairs_english.yaml", "sent_more sent_less"),
    "gsm8k": Peer("gsm8k/gsm8k.yaml", "question answer", {}, FIRST_OR_LAST),
    "hellaswag": Peer("hellaswag/hellaswag.yaml", "", CLOZE),
    "humaneval": Peer("humaneval/humaneval.yaml", "prompt canonical_solution test entry_point"),
    "lambada_openai": Peer("lambada/lambada_openai.yaml", "text"),
    "lambada_standard": Peer("lambada/lambada_standard.yaml", "text"),
    "mbpp": Peer("mbpp/mbpp.yaml", "text code test_list"),
    "mgsm_cot": Peer("mgsm/native_cot/mgsm_native_cot_{member}.yaml", "question answer_number", SOLVED, FIRST_OR_LAST),
    "mgsm_direct": Peer(
        "mgsm/direct/mgsm_direct_{member}.yaml",
        "question answer_number",
        SOLVED,
        {"remove_whitespace": "exact_match,remove_whitespace", "flexible_extract": "exact_match,flexible-extract"},
    ),
    "mmlu": Peer("mmlu/default/mmlu_{member}.yaml", "question choices answer"),
    "mnli": Peer("glue/mnli/default.yaml", "premise hypothesis", classes("entailment", "neutral", "contradiction")),
    "mrpc": Peer("glue/mrpc/default.yaml", "sentence1 sentence2", classes("not_equivalent", "equivalent")),
    "multirc": Peer("super_glue/multirc/default.yaml", "paragraph question answer", TRUE, reversed=True),
    "piqa": Peer("piqa/piqa.yaml", "goal sol1 sol2", {"label": "label | int"}),
    "qnli": Peer("glue/qnli/default.yaml", "question sentence", classes("entailment", "not_entailment")),
    "qqp": Peer("glue/qqp/default.yaml", "question1 question2", classes("not_duplicate", "duplicate")),
    "record": Peer("super_glue/record/default.yaml", "query answers", NEWS),
    "rte": Peer("glue/rte/default.yaml", "", ENTAILS),
    "sst2": Peer("glue/sst2/default.yaml", "sentence", classes("negative", "positive")),
    "truthfulqa_mc1": Peer(
        "truthfulqa/truthfulqa_mc1.yaml", "question", {"mc1_targets": "{'choices': choices, 'labels': labels}"}
    ),
    "truthfulqa_mc2": Peer(
        "truthfulqa/truthfulqa_mc2.yaml",
        "question",
        dict.fromkeys(("mc1_targets", "mc2_targets"), "{'choices': choices, 'labels': labels}"),
        {"mc2": "acc"},
    ),
    "wic": Peer("super_glue/wic/default.yaml", "sentence1 sentence2 start1 end1", TRUE),
    "winogrande": Peer("winogrande/default.yaml", "sentence option1 option2 answer"),
    "wnli": Peer("glue/wnli/default.yaml", "sentence1 sentence2", classes("not_entailment", "entailment")),
    "wsc": Peer("super_glue/wsc/default.yaml", "text span1_text span2_text span2_index", TRUE),
}
# Of tasks with members, those that are asked when no task is named.
MEMBERS = {
    "bbh": ["boolean_expressions", "date_understanding", "snarks", "word_sorting"],
    "bbh_fewshot": ["boolean_expressions", "date_understanding", "snarks", "word_sorting"],
    "bbq": ["Religion"],
    "bigbench": ["date_understanding", "tracking_shuffled_objects"],
    "blimp": ["anaphor_gender_agreement", "causative", "npi_present_1"],
    "crows_pairs": ["age", "race_color"],
    "mgsm_cot": ["de", "en"],
    "mgsm_direct": ["de", "en"],
    "mmlu": ["anatomy", "philosophy"],
}


def asked(arguments: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What both sides are asked, a description of each task; and the tasks that can't be asked, with the reason."""
    from posttrain.bench.task import find
    from posttrain.core.errors import BadRequest

    names = [f"{name}_{member}" if member else name for name in TASKS for member in MEMBERS.get(name, [""])]
    found, missing = [], {}
    for name in arguments.tasks.split(",") if arguments.tasks else names:
        selection = find(name)
        writes = hasattr(selection.type, "max_new_tokens")
        examples = selection.task.examples
        free = examples is not None and examples.number == 0
        case: dict[str, Any] = {
            "name": name,
            "task": selection.file.stem,
            "reference": name,
            "limit": arguments.texts if writes else arguments.items,
            "shots": arguments.shots if free else None,
            "chat": arguments.chat,
        }
        try:
            try:
                plan = planned(case, arguments.data)
            except BadRequest:
                if "train" not in selection.task.data:
                    raise
                case["reference"] = str(folder / f"{name}.yaml")
                Path(case["reference"]).write_text(f"extends: {name}\nsplit: train\n", encoding="utf-8")
                plan = planned(case, arguments.data)
        except BadRequest as error:
            missing[name] = error.problem
            continue
        found.append(case | data_of(plan, TASKS[case["task"]], folder / name))
    return found, missing


def planned(case: dict[str, Any], data: str) -> Plan:
    """A task with its data read."""
    from posttrain.bench.runner import prepare

    (plan,) = prepare([case["reference"]], data, case["limit"], case["shots"], case["chat"])
    return plan


def data_of(plan: Plan, peer: Peer, path: Path) -> dict[str, Any]:
    """Write a task's items and examples in the hub's columns; which files those are, and how the harness reads them."""
    (part,) = plan.parts
    items = [question.item for question in part.questions]
    pool = part.examples.items
    rows = {"items": pool if part.examples.own_split else items, "examples": pool or items}
    for kind, each in rows.items():
        lines = (json.dumps(row(item, peer)) for item in each)
        path.with_suffix(f".{kind}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {
        "file": peer.file.format(member=part.member),
        **{kind: str(path.with_suffix(f".{kind}.jsonl")) for kind in rows},
        "own_split": part.examples.own_split,
        "count": len(items),
    }


def row(item: Item, peer: Peer) -> dict[str, Any]:
    """An item in the hub's columns."""
    return {name: item.value(expression, name) for name, expression in peer.columns().items()}


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """What posttrain's runner records."""
    from posttrain.bench.runner import evaluate
    from posttrain.models.sources import load

    model = load(arguments.folder)
    found = {}
    for case in json.loads(Path(arguments.cases).read_text(encoding="utf-8")):
        (result,) = evaluate(model, [planned(case, arguments.data)]).values()
        found[case["name"]] = {
            "items": [
                {
                    "prompts": item.get("contexts") or [item["prompt"]],
                    "logprobs": item.get("logprobs") or [item[key] for key in ("logprob",) if key in item],
                    "text": item["samples"][0]["text"] if "samples" in item else item.get("text"),
                    "scores": item["scores"],
                }
                for item in result.items
            ],
            "scores": {name: figure.value for name, figure in result.figures.items()},
        }
    return found


def theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the harness records; run inside its environment."""
    sys.modules["evaluate"] = NoPrograms("evaluate")
    from lm_eval import simple_evaluate, tasks
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    model = HFLM(pretrained=arguments.folder, device="cpu", dtype="float32", batch_size=BATCH)
    found = {}
    for case in json.loads(Path(arguments.cases).read_text(encoding="utf-8")):
        file = Path(tasks.__file__).parent / case["file"]
        try:
            known = load_yaml(file)
        except ImportError as error:  # of what a task needs besides
            found[case["name"]] = {"missing": str(error)}
            continue
        asked = known.get("test_split") or known["validation_split"]
        splits = {known.get(key) for key in ("training_split", "validation_split", "fewshot_split", "test_split")}
        config = {
            **known,
            "task": case["name"],
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: case["items" if split == asked else "examples"] for split in splits if split}
            },
        }
        if case["own_split"] and known.get("test_split"):
            config["fewshot_split"] = asked
        run = simple_evaluate(
            model=model,
            tasks=[config],
            task_manager=tasks.TaskManager(include_defaults=False),
            num_fewshot=case["shots"],
            limit=case["count"],
            bootstrap_iters=0,
            apply_chat_template=case["chat"],
            confirm_run_unsafe_code=True,
        )
        found[case["name"]] = recorded(run["samples"][case["name"]], run["results"][case["name"]])
    return found


class NoPrograms(ModuleType):
    """Stands in for the package from which the harness's code tasks load what runs programs."""

    def load(self, *_: Any) -> NoPrograms:
        """The metric."""
        return self

    def compute(self, **_: Any) -> tuple[dict[str, float], None]:
        """Runs nothing, so nothing passes."""
        return {"pass@1": 0.0}, None


def recorded(samples: Sequence[dict[str, Any]], scores: dict[str, Any]) -> dict[str, Any]:
    """The harness's samples, one for each item and filter, as items."""
    items: dict[int, dict[str, Any]] = {}
    for sample in sorted(samples, key=lambda each: each["doc_id"]):
        replies = [replies[0] for replies in sample["resps"]]
        written = isinstance(replies[0], str)
        item = items.setdefault(
            sample["doc_id"],
            {
                "prompts": list(dict.fromkeys(str(arguments[0]) for arguments in sample["arguments"])),
                "logprobs": [] if written else [float(reply[0]) for reply in replies],
                "text": replies[0] if written else None,
                "scores": {},
            },
        )
        for metric in sample["metrics"]:
            if isinstance(sample[metric], (int, float)):
                item["scores"][f"{metric},{sample['filter']}"] = float(sample[metric])
    return {
        "items": list(items.values()),
        "scores": {name: value for name, value in scores.items() if isinstance(value, (int, float))},
    }


def compared(first: dict[str, Any], second: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Both sides of one task."""
    mine, others = first["items"], second["items"]
    if peer.reversed:
        others = [turned(item) for item in others]
        mine = [{**item, "logprobs": beside_the_first(item["logprobs"])} for item in mine]
    pairs = list(zip(mine, others, strict=True))
    shared = {name: peer.metric(name) for name in first["scores"] if peer.metric(name) in second["scores"]}
    differences = [abs(x - y) for a, b in pairs for x, y in zip(a["logprobs"], b["logprobs"], strict=True)]
    return {
        "items": len(pairs),
        "same_prompt_share": None if peer.reversed else fmean([a["prompts"] == b["prompts"] for a, b in pairs]),
        "same_answer_share": fmean([answer(a) == answer(b) for a, b in pairs]),
        "same_score_share": fmean([same_scores(a["scores"], b["scores"], shared) for a, b in pairs]),
        "largest_difference": max(differences) if differences else None,
        "scores": {
            name: [first["scores"][name], 1 - second["scores"][other] if peer.reversed else second["scores"][other]]
            for name, other in shared.items()
        },
    }


def answer(item: dict[str, Any]) -> Any:
    """The number of the chosen choice, or the text."""
    return item["logprobs"].index(max(item["logprobs"])) if item["logprobs"] else item["text"]


def same_scores(mine: dict[str, Any], others: dict[str, float], shared: dict[str, str]) -> bool:
    """Whether the metrics that both have of an item are equal; nats, of perplexities, but for their sign."""
    both = [(mine[a], others[b]) for a, b in shared.items() if mine.get(a) is not None and b in others]
    return all(abs(abs(a) - abs(b)) < 1e-3 for a, b in both)


def turned(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a reversed task in posttrain's order."""
    scores = {name: 1 - value for name, value in item["scores"].items()}
    return {**item, "logprobs": beside_the_first(item["logprobs"][::-1]), "scores": scores}


def beside_the_first(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities less the first one, in which texts that all choices begin with cancel out."""
    return [each - logprobs[0] for each in logprobs]


def show(name: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Print the items whose prompt, choice or text differs, to stderr."""
    for place, (a, b) in enumerate(zip(first["items"], second["items"])):
        if a["prompts"] != b["prompts"] or answer(a) != answer(b):
            for side, item in (("posttrain", a), ("harness", b)):
                print(f"{name}[{place}] {side}: {json.dumps(item, ensure_ascii=False)}", file=sys.stderr)


def main() -> None:
    """Run both and print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder below which tasks' data lies")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tasks", help="their names, with commas between them")
    parser.add_argument("--items", type=int, default=20, help="of each task that compares choices")
    parser.add_argument("--texts", type=int, default=3, help="items of each task in which the model writes")
    parser.add_argument("--shots", type=int, help="examples before each item, where a task has no number of its own")
    parser.add_argument("--chat", action="store_true", help="ask through the model's chat template")
    parser.add_argument("--show", action="store_true", help="print the items that differ, to stderr")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--cases", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps({"ours": ours, "theirs": theirs}[arguments.side](arguments)))
        return

    from posttrain.core.runtime import machine
    from posttrain.models import saving
    from posttrain.models.sources import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"  # the same float32 weights and tokenizer for both
        saving.save(load(arguments.model), folder)
        cases, missing = asked(arguments, Path(scratch))
        listed = Path(scratch) / "cases.json"
        listed.write_text(json.dumps(cases), encoding="utf-8")
        shared = ["--data", arguments.data, "--folder", str(folder), "--cases", str(listed)]
        first = child(sys.executable, Path(__file__), "--side", "ours", *shared)
        second = child(environment("lm-eval", PEERS), Path(__file__), "--side", "theirs", *shared)
    missing |= {name: side["missing"] for name, side in second.items() if "missing" in side}
    cases = [case for case in cases if case["name"] not in missing]
    if arguments.show:
        for case in cases:
            show(case["name"], first[case["name"]], second[case["name"]])
    report = {
        "benchmark": "agreement",
        "tasks": {
            case["name"]: compared(first[case["name"]], second[case["name"]], TASKS[case["task"]]) for case in cases
        },
        "missing": missing,
        "peer": {"name": "lm-evaluation-harness", "packages": PEERS, "batch_size": BATCH},
        "machine": machine(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
