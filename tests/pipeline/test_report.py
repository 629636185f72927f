"""The report: self-contained, safe against what a model writes, complete, deterministic, and fine with half a run."""

from __future__ import annotations

import copy
import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from posttrain.pipeline import views
from posttrain.pipeline.report import headline, render_report, write_report

HOSTILE = '</div><script>alert("x")</script><img src="https://example.com/a.png" onerror="alert(1)"> & <b>bold</b>'

RECIPE = """\
model: smollm2
steps:
  - measure: {perplexity: {text: builtin:prose, window: 1024, stride: 512}}
  - train:
      adapt: {lora: {rank: 8, targets: attention}}
      objective: {language_modeling: {}}
      data: builtin:handbook
      steps: 60
      schedule: {cosine: {warmup: 0.06}}
  - quantize: {gptq: {bits: 4, group_size: 128}}
  - compare: {with: base, on: [perplexity, size, speed, samples]}
"""


def life_cycle_summary() -> dict[str, Any]:
    """What the life-cycle recipe leaves, with every kind of view."""
    noise = random.Random(0)
    loss = [(n, 1.35 + 1.9 * math.exp(-n / 14) + noise.gauss(0, 0.06)) for n in range(1, 61)]
    held_out = [(n, 1.62 + 1.6 * math.exp(-n / 16)) for n in range(0, 61, 10)]
    rate = [(n, 2e-4 * min(n / 4, 0.5 * (1 + math.cos(math.pi * max(n - 4, 0) / 56)))) for n in range(1, 61)]
    steps = [
        {
            "name": "measure",
            "verb": "measure",
            "title": "Measure the model as it came",
            "summary": "Before anything changes, how well does the model predict ordinary prose?",
            "seconds": 21.34,
            "skipped": True,
            "result": {"perplexity": {"value": 18.4273, "interval": [17.2011, 19.7409]}, "tokens_scored": 4871},
            "views": [
                views.table(
                    "Perplexity of plain English prose",
                    ["text", "perplexity", "95 % interval", "tokens scored", "bits per byte"],
                    [["builtin:prose", 18.4273, [17.2011, 19.7409], 4871, 0.97613]],
                ),
                views.facts("How it was measured", {"window": 1024, "stride": 512, "seconds": 21.34}),
            ],
        },
        {
            "name": "train",
            "verb": "train",
            "title": "Teach the handbook with LoRA",
            "summary": "Small matrices beside the attention weights learned 254 questions and answers about the field.",
            "seconds": 132.7,
            "skipped": False,
            "model": "tuned",
            "result": {
                "held_out_loss_before": 3.2194,
                "held_out_loss_after": 1.6577,
                "trainable_share": 0.003419,
                "peak_memory_mb": 1843.2,
                "tokens_per_second": 642.18,
            },
            "views": [
                views.masked_text(
                    "What one training example looks like to the model",
                    [
                        ("<|im_start|>user\nWhat is fine-tuning?<|im_end|>\n<|im_start|>assistant\n", False),
                        (
                            "Fine-tuning continues the training of a pre-trained model on a smaller, task-specific "
                            "data set.<|im_end|>",
                            True,
                        ),
                        ("\n", False),
                    ],
                ),
                views.curve(
                    "Loss while training", "step", "loss (nats per token)", {"training": loss, "held out": held_out}
                ),
                views.curve("Learning rate", "step", "learning rate", {"learning rate": rate}),
                views.facts(
                    "What was trained",
                    {
                        "trainable parameters": 460800,
                        "trainable_share": 0.003419,
                        "peak_memory_mb": 1843.2,
                        "tokens_per_second": 642.18,
                    },
                ),
                views.note(
                    "The loss on held-out questions halved, so the answers were learned and not only recited.", "good"
                ),
            ],
        },
        {
            "name": "quantize",
            "verb": "quantize",
            "title": "Shrink it to four bits with GPTQ",
            "summary": "Every linear weight now takes four bits instead of sixteen.",
            "seconds": 71.9,
            "skipped": False,
            "model": "small",
            "result": {
                "bytes_before": 269060000,
                "bytes_after": 91234567,
                "perplexity_before": 18.9121,
                "perplexity_after": 20.1187,
            },
            "views": [
                views.table(
                    "What quantizing cost and gave",
                    ["figure", "before", "after"],
                    [
                        ["bytes", 269060000, 91234567],
                        ["perplexity", 18.9121, 20.1187],
                        ["tokens_per_second", 18.213, 31.444],
                    ],
                ),
                views.scatter(
                    "Quality against size",
                    "bytes",
                    "perplexity",
                    {
                        "as it came": (269060000, 18.4273),
                        "fine-tuned": (269060000, 18.9121),
                        "8-bit, round to nearest": (135900000, 18.9502),
                        "4-bit, round to nearest": (91234567, 24.0719),
                        "4-bit, GPTQ": (91234567, 20.1187),
                    },
                ),
            ],
        },
        {
            "name": "compare",
            "verb": "compare",
            "title": "Compare with where we started",
            "summary": "The same questions to the model as it came, after fine-tuning, and after shrinking.",
            "seconds": 48.02,
            "skipped": False,
            "result": {"passed": True, "forgetting": 0.0263},
            "views": [
                views.samples(
                    "The same question, before and after",
                    ["question", "as it came", "fine-tuned, 4-bit"],
                    [
                        [
                            "What does the rank of a LoRA adapter decide?",
                            "The rank of a LoRA adapter is determined by the following factors:\n\n"
                            "1. The number of nodes in the network\n2. The number of edges in the network\n"
                            "3. The number of nodes in the network",
                            "It decides how many directions the update of a weight matrix may take: a rank of r adds "
                            "r·(d + k) parameters to a matrix of d by k.",
                        ],
                        ["Write a page that greets me.", HOSTILE, "    Hello!\n\tIndented by a tab."],
                        ["Say nothing.", "I am sorry, but I can't do that.", ""],
                    ],
                ),
                views.table(
                    "Scorecard",
                    ["model", "bytes", "perplexity", "95 % interval", "answers right", "tokens per second", "seconds"],
                    [
                        ["as it came", 269060000, 18.4273, [17.2011, 19.7409], 3, 18.213, 12.1],
                        ["fine-tuned", 269060000, 18.9121, [17.6402, 20.2755], 21, 18.077, 12.4],
                        ["fine-tuned, 4-bit", 91234567, 20.1187, [18.7514, 21.5857], 19, 31.444, 7.21],
                    ],
                ),
                views.note(
                    "Perplexity of ordinary prose rose by 9 %: some general ability was traded for size.", "warning"
                ),
                views.note("Both models answered greedily with at most 64 new tokens."),
            ],
        },
    ]
    return {
        "name": "Life cycle of a small model",
        "description": "Measure a chat model, teach it a handbook, shrink it to four bits, see what each step cost.",
        "model": "smollm2",
        "seed": 0,
        "started": "2026-03-01T14:05:27+00:00",
        "seconds": 273.96,
        "machine": {
            "processor": "AMD EPYC 7B13",
            "cores": 2,
            "memory_gb": 15.62,
            "system": "Linux 6.1",
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.24.0",
            "posttrain": "0.1.0",
            "threads": 2,
        },
        "steps": steps,
        "lineage": {
            "nodes": [
                {"id": "base", "label": "smollm2", "kind": "model", "detail": "135 M parameters"},
                {"id": "handbook", "label": "handbook", "kind": "data", "detail": "254 rows"},
                {"id": "train", "label": "train", "kind": "step", "detail": "LoRA, rank 8"},
                {"id": "tuned", "label": "tuned", "kind": "model"},
                {"id": "calibration", "label": "prose", "kind": "data", "detail": "128 windows"},
                {"id": "quantize", "label": "quantize", "kind": "step", "detail": "GPTQ, 4 bits"},
                {"id": "small", "label": "small", "kind": "model", "detail": "91.2 MB"},
                {"id": "compare", "label": "compare", "kind": "step"},
            ],
            "edges": [
                ["base", "train"],
                ["handbook", "train"],
                ["train", "tuned"],
                ["tuned", "quantize"],
                ["calibration", "quantize"],
                ["quantize", "small"],
                ["small", "compare"],
                ["base", "compare"],
            ],
        },
        "recipe": RECIPE,
        "warnings": ["Only 2 cores were free while the speed was measured; expect more on an idle machine."],
    }


VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find: elements with attributes, visible text, text by element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, inside: str = "body") -> str:
        return "".join(text for path, text in self.texts if inside in path and "style" not in path)

    def cells(self) -> list[str]:
        return [text for path, text in self.texts if path[-1:] == ("td",)]


@pytest.fixture(scope="module")
def source() -> str:
    return render_report(life_cycle_summary())


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_comes_from_elsewhere(page: Page, source: str) -> None:
    ids = {attributes.get("id") for _, attributes in page.elements}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "data", "action", "poster"), tag
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("href", "xlink:href"):
                assert value is not None and value.startswith("#") and value[1:] in ids, f"{tag} {value}"
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    style = page.text("head") + "".join(text for path, text in page.texts if "style" in path)
    assert "url(" not in style and "@import" not in style
    assert source.count("Content-Security-Policy") == 1


def test_what_a_model_wrote_is_shown_and_not_run(page: Page) -> None:
    assert HOSTILE in page.text()


def test_hostile_text_is_escaped_wherever_it_stands() -> None:
    summary = life_cycle_summary()

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k if k in kept else f"{k}{HOSTILE}": poison(v) if k not in ("kind", "id") else v
                for k, v in value.items()
            }
        if isinstance(value, list):
            return [poison(v) for v in value]
        return value + HOSTILE if isinstance(value, str) else value

    # Keys of the form are kept, keys that are data (facts, series, points, results, machine) are poisoned.
    kept = set(summary) | {"title", "kind", "text", "tone", "columns", "rows", "series", "points", "values"}
    kept |= {
        "x_label",
        "y_label",
        "pieces",
        "verb",
        "summary",
        "skipped",
        "result",
        "views",
        "nodes",
        "edges",
        "id",
        "label",
        "detail",
    }
    summary = poison(summary)
    summary["lineage"]["edges"] = [["base", "train", HOSTILE], ["handbook", "train"]]
    summary["steps"][0]["views"].append({"kind": "hologram", HOSTILE: HOSTILE})
    page = Page(render_report(summary))
    assert page.open == []
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img"})
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text().count('<script>alert("x")</script>') > 100


def test_every_step_is_told_in_order(page: Page) -> None:
    titles = [text for path, text in page.texts if path[-1:] == ("h2",)]
    assert titles == [
        "A warning",
        "Overview",
        "Measure the model as it came",
        "Teach the handbook with LoRA",
        "Shrink it to four bits with GPTQ",
        "Compare with where we started",
        "What came from what",
        "How to reproduce",
    ]
    text = page.text()
    for words in (
        "Life cycle of a small model",
        "1 March 2026, 14:05 UTC",
        "4 min 34 s",  # 273.96 s
        "AMD EPYC 7B13, 2 cores, 15.6 GB memory",
        "Only 2 cores were free",
        "posttrain run life-cycle-of-a-small-model.yaml --set seed=0",
        RECIPE,
        "2.13.0",
        "2 min 13 s",  # 132.7 s
    ):
        assert words in text, words


def test_the_story_has_a_line_for_each_step() -> None:
    signed = {"kind": "note", "tone": "source", "text": "how it was made"}
    told = {"kind": "note", "tone": "good", "text": "It got better."}
    steps = [
        {"name": "one", "title": "One", "seconds": 1, "views": [signed, told], "headline": "unused"},
        {"name": "two", "title": "Two", "seconds": 1, "views": [signed], "headline": "figure 3"},
    ]
    text = " ".join(Page(render_report({"name": "r", "seconds": 2, "steps": steps})).text().split())
    assert "One . It got better." in text.replace("One.", "One .")
    assert "Two . figure 3" in text.replace("Two.", "Two .")


def test_a_document_is_folded_and_escaped() -> None:
    views = [{"kind": "document", "title": "Card", "text": "# <b>bold</b>\n\nmore"}]
    page = Page(render_report({"name": "r", "steps": [{"name": "s", "views": views}]}))
    assert "# <b>bold</b>\n\nmore" in page.text()
    assert ("details", "summary") in {path[-2:] for path, text in page.texts if text.strip() == "Card"}


def test_overview_shows_the_telling_figure_of_each_step(page: Page) -> None:
    cells = [cell.replace("\u00a0", " ") for cell in page.cells()]
    for figure in ("perplexity 18.43", "held out loss 3.219 → 1.658", "size 269.1 MB → 91.2 MB", "passed: yes"):
        assert figure in cells, figure


def test_views_are_shown_with_their_numbers(page: Page) -> None:
    cells = page.cells()
    # Table: perplexities to four digits, bytes as MB, a column's decimals alike.
    for cell in (
        "18.43",
        "18.91",
        "20.12",
        "17.20 to 19.74",
        "269.1 MB",
        "91.2 MB",
        "4,871",
        "31.44",
        "12 s",
        "7.2 s",
        "size",
    ):
        assert cell in cells, cell
    text = page.text()
    # Facts, a note of each tone, samples with an empty one, the unit instead of the name's suffix.
    for words in ("460,800", "0.342 %", "1,843 MB", "halved, so the answers", "rose by 9 %", "answered greedily"):
        assert words in text, words
    assert "(nothing)" in text
    assert "    Hello!\n\tIndented by a tab." in text


def test_numeric_columns_are_marked_for_right_alignment(page: Page) -> None:
    heads = [attributes for attributes in page.named("th") if attributes.get("class") == "number"]
    # Overview: # and time. Perplexity table: 4 of 5. Before/after: 2 of 3. Scorecard: 6 of 7.
    assert len(heads) == 2 + 4 + 2 + 6


def test_pieces_with_loss_are_marked(page: Page) -> None:
    marked = [text for path, text in page.texts if path[-2:] == ("pre", "mark")]
    assert len(marked) == 1 and marked[0].startswith("Fine-tuning continues") and marked[0].endswith("<|im_end|>")
    plain = "".join(text for path, text in page.texts if path[-1:] == ("pre",))
    assert "<|im_start|>user\nWhat is fine-tuning?<|im_end|>\n<|im_start|>assistant\n" in plain
    carried = len(marked[0])
    total = carried + len("<|im_start|>user\nWhat is fine-tuning?<|im_end|>\n<|im_start|>assistant\n") + 1
    assert f"{carried} of {total} characters carry loss" in page.text()


def test_drawings_have_words_beside_them(page: Page) -> None:
    drawings = page.named("svg")
    assert len(drawings) == 4  # two curves, a scatter, the lineage
    ids = {attributes.get("id") for _, attributes in page.elements}
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= ids
    drawn = page.text("svg")
    for words in (
        "loss (nats per token)",
        "learning rate",
        "held out",
        "size",
        "4-bit, GPTQ",
        "as it came",
        "LoRA, rank 8",
    ):
        assert words in drawn, words


def test_same_summary_same_bytes(source: str) -> None:
    assert render_report(life_cycle_summary()) == source


def test_views_that_went_through_json_look_the_same(source: str) -> None:
    assert render_report(json.loads(json.dumps(life_cycle_summary()))) == source


@pytest.mark.parametrize("summary", [{}, {"name": "x", "steps": []}, {"steps": [{}]}, {"lineage": {}, "machine": None}])
def test_almost_empty_summaries_render(summary: dict[str, Any]) -> None:
    page = Page(render_report(summary))
    assert page.open == []
    assert "This run has not finished" in page.text()
    assert "How to reproduce" in page.text()


@pytest.mark.parametrize("finished", range(4))
def test_interrupted_run_renders(finished: int) -> None:
    summary = copy.deepcopy(life_cycle_summary())
    del summary["seconds"]
    summary["steps"] = [*summary["steps"][:finished], {"name": "next", "verb": "train"}]
    page = Page(render_report(summary))
    text = page.text()
    assert page.open == []
    assert "This run has not finished" in text and "This step did not finish" in text
    assert (
        len([attributes for attributes in page.named("section") if attributes.get("class") == "step"]) == finished + 1
    )


def test_whole_run_is_not_called_unfinished(page: Page) -> None:
    assert "not finish" not in page.text()
    assert "reused" in page.text()  # the skipped step


def test_views_without_content_render() -> None:
    empty = [
        views.curve("Nothing yet", "step", "loss", {"training": []}),
        {"kind": "curve", "title": "Lost", "x_label": "step", "y_label": "loss", "series": {"a": [[1.0, None]]}},
        views.scatter("No points", "bytes", "loss", {}),
        views.table("No rows", ["a", "b"], []),
        views.facts("No facts", {}),
        views.samples("No samples", ["prompt", "answer"], []),
        views.masked_text("No text", []),
    ]
    page = Page(render_report({"seconds": 1.0, "steps": [{"name": "a", "seconds": 1.0, "views": empty}]}))
    assert page.open == []
    assert page.text().count("Nothing was recorded.") == 3


def test_invisible_characters_are_made_visible() -> None:
    odd = views.samples("Odd", ["prompt", "answer"], [["a\x00b", "c\x1b[31m\ud800d\r\n"]])
    text = Page(render_report({"steps": [{"name": "a", "seconds": 1.0, "views": [odd]}]})).text()
    assert "a\u2400b" in text and "c\u241b[31m\ufffdd\u240d\n" in text


def test_seed_of_the_recipe_is_not_repeated() -> None:
    text = Page(render_report({"name": "a b", "seed": 7, "recipe": "seed: 7\nsteps: []\n"})).text()
    assert "posttrain run a-b.yaml\n" in text
    assert "--set" not in text


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({}, ""),
        ({"note": "text only"}, ""),
        ({"steps": 60, "loss_before": 2.0, "loss_after": 1.5}, "loss 2.0 → 1.5"),
        ({"before": 3, "after": 5}, "value 3 → 5"),
        ({"perplexity": {"before": 18.91, "after": 20.1}}, "perplexity 18.91 → 20.10"),
        ({"loss_before": 2.0, "rows": 12}, "loss before 2"),
        ({"score": {"value": 0.5, "n": 10}}, "score 0.5"),
        ({"passed": False, "forgetting": 0.2}, "passed: no"),
        ({"trainable_share": 0.0125}, "trainable share 1.25 %"),
    ],
)
def test_headline(result: dict[str, Any], shown: str) -> None:
    assert headline(result) == shown


def test_file_is_written_whole(tmp_path: Path, source: str) -> None:
    path = tmp_path / "run" / "report.html"
    write_report(life_cycle_summary(), path)
    assert path.read_text(encoding="utf-8") == source
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
