"""Behavioural tests judged by hand on answers that are given, and run on tiny models of both kinds."""

from __future__ import annotations

import math

import pytest

from posttrain.bench import behaviour
from posttrain.bench.behaviour import Effort, run
from posttrain.bench.likelihood import likelihoods
from posttrain.bench.suite import Suite
from posttrain.core.errors import BadRequest
from posttrain.decode.labelling import Labelling
from posttrain.models.heads import give_head
from posttrain.ops.significance import share_interval
from tiny_models import make_tiny_bert, make_tiny_llama

BASE = {
    "summary": "s",
    "version": "1",
    "ask": {"prompt": "{{ text }} It was", "choices": {"positive": "good", "negative": "bad"}},
    "labels": {"positive": ["pos"], "negative": ["neg"]},
    "lexicons": {"word": ["fine", "great", "sad"]},
}


def suite(*tests):
    numbered = [{"name": f"t{i}", "capability": "c", **test} for i, test in enumerate(tests)]
    return Suite.parse({**BASE, "tests": numbered})


def classifier(labels=("neg", "pos"), problem="single_label_classification"):
    model = make_tiny_bert()
    give_head(model, "sequence_classification", labels, problem)
    return model


@pytest.fixture
def by_rule(monkeypatch):
    """A classifier that finds as much good in a text as it has the letter a: p = a / (a + e), one half without any."""

    def classify(model, texts, batch_size):
        found = []
        for text in texts:
            a, e = text.count("a"), text.count("e")
            share = a / (a + e) if a + e else 0.5
            found.append(Labelling(text, "pos" if share > 0.5 else "neg", {"neg": 1 - share, "pos": share}))
        return found

    monkeypatch.setattr(behaviour, "classify", classify)


def outcome(*tests, **settings):
    return run(classifier(), "own", suite(*tests), where="own.yaml", **settings)


def rates(*tests):
    return [(test.rate.failures, test.rate.n) for test in outcome(*tests).tests]


def test_minimum_functionality(by_rule):
    """ "fine" has no a, "great" one a and one e, "sad" one a: only "sad" is called positive."""
    found = outcome({"templates": ["{{ word }}"], "expect": "positive"})
    (test,) = found.tests
    assert (test.kind, test.rate.failures, test.rate.n, test.by_chance) == ("MFT", 2, 3, 0.5)
    failing = {case["texts"][0]: case for case in test.failing}
    assert set(failing) == {"fine", "great"}
    assert failing["great"] == {
        "texts": ["great"],
        "predictions": [{"label": "negative", "probabilities": {"negative": 0.5, "positive": 0.5}}],
        "expected": "positive",
    }


def test_invariance_and_its_tolerance(by_rule):
    """From "a ba e" (2/3 good) to "a b e" (1/2) the label changes and the probability moves by 1/6."""
    change = {"templates": ["a ba e"], "becomes": ["a b e"]}
    assert rates(change, {**change, "tolerance": 0.16}, {**change, "tolerance": 0.17}) == [(1, 1), (1, 1), (0, 1)]
    # A change that keeps the label is none, however far the probability moves.
    assert rates({"templates": ["a ba e"], "becomes": ["a"]}) == [(0, 1)]
    # Each of several changed texts must keep it.
    assert rates({"templates": ["a ba e"], "becomes": ["aaa", "a b e"]}) == [(1, 1)]


def test_directions(by_rule):
    """From "a e" (1/2) to "a a e" (2/3) the positive probability rises by 1/6, the negative falls."""

    def moved(label, to, by, becomes="a a e"):
        return {"templates": ["a e"], "becomes": [becomes], "moves": {"label": label, "to": to, "by": by}}

    rising = [moved("positive", "up", by) for by in (0.0, 0.16, 0.17)]
    assert rates(*rising) == [(0, 1), (0, 1), (1, 1)]
    assert rates(moved("negative", "down", 0.16), moved("negative", "up", 0.0)) == [(0, 1), (1, 1)]
    assert rates(*[moved("positive", "down", by) for by in (-0.16, -0.17)]) == [(1, 1), (0, 1)]


def test_capabilities_and_intervals(by_rule):
    tests = [
        {"capability": "one", "templates": ["{{ word }}"], "expect": "positive"},
        {"capability": "two", "templates": ["a"], "expect": "positive"},
        {"capability": "one", "templates": ["e"], "expect": "negative"},
    ]
    found = outcome(*tests)
    told = found.to_dict(examples=1)
    assert {name: (rate.failures, rate.n) for name, rate in found.capabilities().items()} == {
        "one": (2, 4),
        "two": (0, 1),
    }
    expected = share_interval(2, 5)
    assert (told["failure_rate"], told["interval"]) == (0.4, [expected.low, expected.high])
    assert [len(test["failing"]) for test in told["tests"]] == [1, 0, 0]
    assert told["signature"].startswith("own|version:1|suite:")
    assert "|cases:5|seed:0|" in told["signature"]


def test_labels_of_a_classifier(by_rule):
    own = suite({"templates": ["a"], "expect": "positive"})
    for model in (classifier(("NEG", "Positive")), classifier(("negative", "neutral", "positive"))):
        names = [model.network.config.id2label[i] for i in range(model.network.config.num_labels)]
        assert set(behaviour._own_names(own, "own.yaml", names, {}).values()) >= {"positive", "negative"}
    assert behaviour._own_names(own, "x", ["A", "B"], {"positive": "a", "negative": "B"}) == {
        "A": "positive",
        "B": "negative",
    }
    for known, labels, sentence in (
        (["A", "B"], {}, "has no label 'positive'; its labels are A, B"),
        (["A", "neg"], {"positve": "A"}, "has no label 'positve'"),
        (["pos", "neg"], {"positive": "C"}, "has no label 'positive'"),
        (["pos", "neg"], {"positive": "neg"}, "label 'neg' would be 'positive' and 'negative'"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            behaviour._own_names(own, "own.yaml", known, labels)


TESTS = (
    {"templates": ["The film is {{ word }}."], "expect": "positive"},
    {"templates": ["The film is {{ word }}."], "perturb": {"case": {"to": "upper"}}},
    {
        "templates": ["The film is {{ word }}."],
        "becomes": ["{{ text }} Good!"],
        "moves": {"label": "positive", "to": "up"},
    },
)


def test_a_classifier():
    found = run(classifier(), "own", suite(*TESTS), where="own.yaml")
    assert [test.rate.n for test in found.tests] == [3, 3, 3]


@pytest.mark.parametrize("chat", [False, True])
def test_a_model_that_continues_texts(chat):
    """Probabilities are those of transformers, whatever the cut of the work; a template's answer follows at once."""
    import torch

    model = make_tiny_llama()
    wrong = {"templates": ["The film is {{ word }}."], "expect": "negative"}
    right = {**wrong, "expect": "positive"}
    found = run(model, "own", suite(right, wrong), where="own.yaml", effort=Effort(chat=chat))
    again = run(model, "own", suite(right, wrong), where="own.yaml", effort=Effort(tokens_per_pass=5, chat=chat))
    assert [test.rate for test in again.tests] == [test.rate for test in found.tests]
    # Every text fails one of the two tests, so that all predictions are told.
    cases = [case for test in found.tests for case in test.failing]
    assert len(cases) == 3
    for case in cases:
        prompt, delimiter = f"{case['texts'][0]} It was", " "
        if chat:
            message = [{"role": "user", "content": prompt}]
            prompt = model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            # The blanks at the prompt's end belong to the continuation.
            prompt, delimiter = prompt.rstrip(), prompt[len(prompt.rstrip()) :]
        logprobs = []
        for word in ("good", "bad"):
            special = not prompt.startswith("<|im_start|>")
            before = model.tokenizer(prompt, add_special_tokens=special)["input_ids"]
            ids = model.tokenizer(prompt + delimiter + word, add_special_tokens=special)["input_ids"]
            with torch.no_grad():
                scores = model.network(torch.tensor([ids])).logits[0].log_softmax(-1)
            logprobs.append(sum(float(scores[i - 1, ids[i]]) for i in range(len(before), len(ids))))
        expected = torch.tensor(logprobs).softmax(0).tolist()
        shares = case["predictions"][0]["probabilities"]
        assert [shares["positive"], shares["negative"]] == pytest.approx(expected, abs=1e-5)


def test_choices_by_length():
    """Log-probabilities are divided by the continuations' characters, without the blank before them."""
    model = make_tiny_llama()
    choices = {"long": "good and very good indeed", "short": "bad"}
    test = {"templates": ["A film"], "ask": {"choices": choices, "by_length": True}}
    both = [{**test, "expect": label} for label in choices]
    told = [case for each in run(model, "own", suite(*both), where="own.yaml").tests for case in each.failing]
    assert len(told) == 1
    long, short = (each.logprob for each in likelihoods(model, [("A film", f" {text}") for text in choices.values()]))
    odds = math.exp(long / 25 - short / 3)
    assert told[0]["predictions"][0]["probabilities"]["long"] == pytest.approx(odds / (1 + odds), abs=1e-5)


def test_writing(monkeypatch):
    """What is expected is searched in the text; what must not change is the extracted answer."""
    ask = {"write": {"extract": r"answer (\w+)", "max_new_tokens": 4}}
    tests = (
        {"templates": ["{{ word }}"], "ask": ask, "expect": "^So.*{{ word }}"},
        {"templates": ["say"], "ask": ask, "perturb": {"case": {"to": "upper"}}},
        {"templates": ["what"], "ask": ask, "becomes": ["WHAT"]},
    )
    model = make_tiny_llama()
    said = {"fine": "So fine", "great": "great, So", "sad": "So\nso sad", "say": "an answer yes", "SAY": "answer yes!"}
    said |= {"what": "answer one", "WHAT": "answer two"}
    asked = []

    def generate(model, prompts, **settings):
        from posttrain.decode.generation import Generation, Generations

        texts = [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
        asked.extend(texts)
        assert (settings["max_new_tokens"], settings["seed"]) == (4, 0)
        return Generations([Generation(p, said[t], [], 0.0, [], "eos") for p, t in zip(prompts, texts)], 0, 0, 0)

    monkeypatch.setattr(behaviour, "generate", generate)
    found = run(model, "own", suite(*tests), where="own.yaml")
    assert [(test.rate.failures, test.rate.n) for test in found.tests] == [(2, 3), (0, 1), (1, 1)]
    assert found.tests[0].by_chance is None
    assert {case["texts"][0] for case in found.tests[0].failing} == {"great", "sad"}
    assert found.tests[2].failing[0]["predictions"] == [
        {"label": "one", "written": "answer one"},
        {"label": "two", "written": "answer two"},
    ]
    assert sorted(asked) == sorted(said)
    with pytest.raises(BadRequest, match=r"expects '\(', which is no regular expression"):
        run(model, "own", suite({"templates": ["say"], "ask": ask, "expect": "("}), where="own.yaml")


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        ({"templates": ["x"], "expect": "neutral"}, "'t0' expects 'neutral', which is none of the labels"),
        (
            {"templates": ["x"], "becomes": ["y"], "moves": {"label": "neutral", "to": "up"}},
            "'t0' moves 'neutral', which is none of the labels",
        ),
    ],
)
@pytest.mark.parametrize("make", [classifier, make_tiny_llama])
def test_unknown_labels(make, test, sentence):
    with pytest.raises(BadRequest, match=sentence):
        run(make(), "own", suite(test), where="own.yaml")


def test_models_that_do_not_fit():
    test = {"templates": ["x"], "expect": "positive"}
    without_labels = Suite.parse({**BASE, "labels": {}, "tests": [{"name": "t", "capability": "c", **test}]})
    without_ask = Suite.parse({**BASE, "ask": None, "tests": [{"name": "t", "capability": "c", **test}]})
    several = classifier(problem="multi_label_classification")
    single = {**test, "ask": {"choices": ["{{ word }}", "{{ word }}"]}}
    for model, own, sentence, effort in (
        (classifier(), without_labels, "asks a model that continues texts", None),
        (make_tiny_llama(), without_ask, "says nothing of how a model is asked", None),
        (several, suite(test), "a number or several labels at once", None),
        (make_tiny_llama(), suite(single), "has a case with a single choice", None),
    ):
        with pytest.raises(BadRequest, match=sentence):
            run(model, "own", own, where="own.yaml", effort=effort)
    plain = make_tiny_llama()
    plain.tokenizer.chat_template = None
    with pytest.raises(BadRequest, match="no chat template"):
        run(plain, "own", suite(test), where="own.yaml", effort=Effort(chat=True))
