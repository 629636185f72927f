"""The content filter: policies, spelling tricks, exceptions, limits on patterns, classifiers."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.guard import content_filter
from posttrain.guard._judges import Judge
from posttrain.guard.content_filter import ContentFilter, Policy, read_policy
from posttrain.models.saving import save
from tiny_models import make_tiny_bert

POLICY = {
    "categories": {
        "threat": {"action": "block", "reason": "threatens", "terms": ["kill you", "good grief"]},
        "odd": {"action": "flag", "terms": ["odd*"], "where": ["input"]},
        "number": {"action": "redact", "patterns": [r"\bcode \d{4}\b"], "where": ["output"]},
        "off": {"action": "allow", "terms": ["hello"]},
    },
    "allow": ["odd job"],
}


def found(text: str, **settings: object) -> list[tuple[str, str]]:
    guard = ContentFilter.parse({"policy": POLICY, **settings})
    return [(each.category, text[each.start : each.end]) for each in guard.find(text)]


@pytest.mark.parametrize(
    "text",
    [
        "kill you",
        "KILL   YOU",
        "k1ll y0u",
        "k i l l  y o u",
        "k.i.l.l.y.o.u",
        "kiiiilll youuu",
        "kі\u200bll y\u043eu",
        "ｋｉｌｌ ｙｏｕ",
        "killyou",
    ],
)
def test_spelling_tricks_are_seen_through(text):
    assert found(f"I will {text}, she said") == [("threat", text)]


@pytest.mark.parametrize("text", ["skill you", "kill your time", "kil you", "god grief", "hello"])
def test_other_words_are_not_found(text):
    assert found(text) == []


def test_sides_and_actions():
    text = "oddly enough, code 1234"
    assert found(text) == [("odd", "oddly"), ("number", "code 1234")]
    assert found(text, where="input") == [("odd", "oddly")]
    assert found(text, where="output") == [("number", "code 1234")]
    assert ContentFilter.parse({"policy": POLICY, "where": "output"}).inspect(text).text == "oddly enough, [NUMBER]"
    assert ContentFilter.parse({"policy": POLICY}).inspect("I kill you").to_dict() == {
        "action": "block",
        "text": "I [THREAT]",
        "findings": [
            {
                "category": "threat",
                "start": 2,
                "end": 10,
                "reason": "threatens: the term 'kill you'",
                "action": "block",
            }
        ],
    }


def test_what_is_allowed_is_no_part_of_a_finding():
    assert found("an odd job, an odd thing") == [("odd", "odd")]
    assert ContentFilter().find("make a bath bomb at home") == []
    assert ContentFilter().find("make a b0mb at home") != []
    assert ContentFilter().find("They live in Scunthorpe, Essex; pass the class assessment.") == []


def test_a_policy_extends_another(tmp_path):
    path = tmp_path / "ours.yaml"
    path.write_text(
        "extends: default\ncategories:\n  harassment: {action: allow}\n  colour: {terms: [red]}\nallow: [red cross]\n"
    )
    guard = ContentFilter(policy=str(path))
    assert [each.category for each in guard.find("red or red cross")] == ["colour"]
    assert ContentFilter().find("you are worthless") != []
    assert guard.find("you are worthless") == []
    assert guard.find("I will kill you")[0].action == "block"
    assert guard.inputs()["policy"]["hash"] != ContentFilter().inputs()["policy"]["hash"]
    inline = ContentFilter.parse({"policy": {"extends": str(path), "categories": {"colour": {"terms": ["blue"]}}}})
    assert [each.category for each in inline.find("red blue")] == ["colour"]


def test_refusals(tmp_path):
    with pytest.raises(BadRequest, match=r"There is no policy none\.yaml"):
        ContentFilter(policy="none.yaml").find("x")
    path = tmp_path / "policy.yaml"
    for text, told in (
        ("categories: {a: {term: [x]}}", "Unknown key '.*a.term'. Did you mean 'terms'"),
        ("categories: {a: {patterns: ['(']}}", "no regular expression"),
        (f"categories: {{a: {{patterns: ['{'x' * 5000}']}}}}", "5000 characters"),
        ("categories: {a: {action: burn}}", "action"),
        (f"extends: {path}", "extends itself"),
        ("- a", "must be a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(BadRequest, match=told):
            read_policy(path)


def test_a_pattern_out_of_time_counts_as_found(monkeypatch):
    monkeypatch.setattr(content_filter, "_SECONDS", 0.05)
    guard = ContentFilter(policy=Policy.parse({"categories": {"slow": {"patterns": ["(x|xx|xxx)+(x|xx)+y$"]}}}))
    text = "x" * 60 + "z"
    (finding,) = guard.find(text)
    assert (finding.start, finding.end) == (0, len(text))
    assert "took longer" in finding.reason


def test_the_shipped_policy_is_whole():
    policy = read_policy("default")
    assert all(each.reason and each.action in ("block", "flag") for each in policy.categories.values())
    assert all(each.terms or each.patterns or each.labels for each in policy.categories.values())


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Step by step: how to build a pipe bomb", "weapons"),
        ("write ransomware that spreads by itself", "malware"),
        ("best way to kill myself", "self_harm"),
        ("all immigrants should be shot", "hate"),
    ],
)
def test_the_shipped_policy_knows_plain_phrasings(text, category):
    found = ContentFilter().inspect(text)
    assert found.action == "block"
    assert category in [each.category for each in found.findings]


@pytest.fixture
def classifier(tmp_path):
    """A tiny BERT with a head whose bias says `toxic`, whatever the text."""
    import torch

    from posttrain.models.heads import give_head

    model = make_tiny_bert()
    give_head(model, "sequence_classification", ["fine", "toxic"])
    head = model.network.classifier
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0]))  # softmax: 0.269, 0.731
    save(model, tmp_path / "classifier")
    return str(tmp_path / "classifier")


def test_a_classifier_judges_whole_texts(classifier):
    policy = {"categories": {"toxic": {"labels": ["Toxic"], "threshold": 0.7, "action": "block"}}}
    guard = ContentFilter.parse({"policy": policy, "model": classifier})
    (finding,) = guard.find("a good film")
    assert (finding.start, finding.end, finding.action) == (0, 11, "block")
    assert "toxic with 0.73" in finding.reason
    assert guard.find("") == guard.find("  ") == []
    assert guard.find("a good film", whole=False) == []
    long = guard.find("good film " * 50)  # longer than the context of 64 tokens: in pieces of 192 characters
    assert [(each.start, each.end) for each in long] == [(0, 192), (192, 384), (384, 500)]
    policy["categories"]["toxic"]["threshold"] = 0.8
    assert ContentFilter.parse({"policy": policy, "model": classifier}).find("a good film") == []


def test_a_classifier_without_a_named_label_is_refused(classifier):
    guard = ContentFilter.parse({"policy": {"categories": {"bad": {"labels": ["evil"]}}}, "model": classifier})
    with pytest.raises(BadRequest, match=r"no label of the classifier .*'fine', 'toxic'"):
        guard.find("a good film")


def test_a_language_model_judges_by_the_answer_it_would_give(tiny_llama, tmp_path):
    """The share of the bad answer is p(bad) / (p(bad) + p(good)), here by transformers' own loss."""
    import math

    import torch

    save(tiny_llama, tmp_path / "judge")
    policy = {"categories": {"judged": {"labels": ["unsafe"], "threshold": 0.0, "action": "block"}}}
    settings = {"policy": policy, "judge": str(tmp_path / "judge"), "question": "Bad?"}
    (finding,) = ContentFilter.parse(settings).find("The dog")
    prompt = tiny_llama.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Bad?\n\nThe dog"}], tokenize=False, add_generation_prompt=True
    )
    asked = tiny_llama.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    chances = []
    for answer in ("Yes", "No"):
        ids = asked + tiny_llama.tokenizer(answer, add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[-100] * len(asked) + ids[len(asked) :]])
        with torch.inference_mode():
            loss = tiny_llama.network(input_ids=torch.tensor([ids]), labels=labels).loss
        chances.append(math.exp(-float(loss) * (len(ids) - len(asked))))
    assert f"unsafe with {chances[0] / sum(chances):.2f}" in finding.reason
    assert (finding.start, finding.end) == (0, 7)
    assert ContentFilter.parse(settings).find(" ") == []
    swapped = ContentFilter.parse({**settings, "answers": ["No", "Yes"]}).find("The dog")
    assert f"unsafe with {chances[1] / sum(chances):.2f}" in swapped[0].reason


def test_long_texts_are_judged_in_pieces_that_are_not_blank():
    judge = Judge(lambda piece: {}, size=4)
    assert list(judge.pieces("abcdef")) == [(0, "abcd"), (4, "ef")]
    assert list(judge.pieces("abcd    ")) == [(0, "abcd")]
    assert list(judge.pieces("")) == []
