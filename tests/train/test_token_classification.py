"""Token classification: which token carries a tag, the loss, spans, windows, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from posttrain.adapt.full import Full
from posttrain.core import events
from posttrain.core.errors import BadRequest
from posttrain.data import dataset
from posttrain.data.collate import Batches
from posttrain.models.heads import label_names
from posttrain.train.loop import Loop, evaluate, train
from posttrain.train.objectives import Encoding
from posttrain.train.objectives.token_classification import TokenClassification
from tiny_models import make_tiny_bert, make_tiny_llama

ROWS = [
    {"tokens": ["The", "dog", "Rex", "sleeps"], "tags": ["O", "O", "B-PER", "O"]},
    {"tokens": ["New", "York", "is", "good", "!"], "tags": ["B-LOC", "I-LOC", "O", "O", "O"]},
    {"tokens": ["Rex"], "tags": ["B-PER"]},
]


def _prepared(make=make_tiny_bert, rows=ROWS, objective=None, **encoding):
    objective = objective or TokenClassification()
    model, read = make(), dataset.read(rows)
    torch.manual_seed(0)
    objective.prepare(model, read)
    return model, objective.encode(read, model, Encoding(**{"max_length": 64, **encoding}))


def test_the_first_piece_of_a_word_has_its_tag():
    """[CLS] the dog r ##e ##x s ##l … : only `r` of Rex is tagged; -100 on special tokens and later pieces."""
    model, items = _prepared()
    assert label_names(model.network) == ["B-LOC", "B-PER", "I-LOC", "O"]
    tokens = model.tokenizer.convert_ids_to_tokens(items[0].input_ids)
    assert tokens[:6] == ["[CLS]", "the", "dog", "r", "##e", "##x"]
    assert items[0].extras["tag"][:7] == [-100, 3, 3, 1, -100, -100, 3]
    assert items[0].extras["tag"][-1] == -100


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
def test_each_word_is_tagged_once_in_its_order(make):
    model, items = _prepared(make)
    names = label_names(model.network)
    assert [[names[tag] for tag in item.extras["tag"] if tag != -100] for item in items] == [r["tags"] for r in ROWS]


def test_alignment_is_that_of_pretokenized_words():
    """transformers' recipe, is_split_into_words with word_ids; an unprintable word gives no token in either."""
    model = make_tiny_bert()
    words = ["Dr.", "good-film", "\u200b", "x", "fox's", "2.5"]
    rows = [{"tokens": words, "tags": [str(i) for i in range(len(words))]}]
    seen: list[events.Event] = []
    with events.listen(seen.append):
        TokenClassification().prepare(model, dataset.read(rows))
        (item,) = TokenClassification().encode(dataset.read(rows), model, Encoding())
    theirs = model.tokenizer(words, is_split_into_words=True)
    expected, last = [], None
    for word in theirs.word_ids():
        expected.append(-100 if word is None or word == last else word)
        last = word
    assert item.input_ids == theirs["input_ids"] and item.extras["tag"] == expected
    assert any("1 words give no token" in event.name for event in seen)


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
def test_the_loss_is_transformers_own(make):
    """The class's forward sentence by sentence, labels and all: its loss is the mean over the tagged words."""
    model, items = _prepared(make)
    objective = TokenClassification()
    batch = objective.collate(items)
    prediction = objective.predict(model.network, batch, layers=True)
    value, sums = objective.loss_of(prediction, batch)
    total, logits = 0.0, []
    with torch.no_grad():
        for item in items:
            labels = torch.tensor([item.extras["tag"]])
            theirs = model.network(input_ids=torch.tensor([item.input_ids]), labels=labels)
            logits.append(theirs.logits[labels != -100])
            total += float(theirs.loss) * int((labels != -100).sum())
    torch.testing.assert_close(prediction.logits, torch.cat(logits), atol=1e-5, rtol=1e-5)
    assert float(value.detach()) == pytest.approx(total, abs=1e-4)
    assert objective.weight(batch) == 10 == len(prediction.targets) == len(prediction.hidden)
    assert len(prediction.layers) == 3 and len(prediction.layers[0]) == batch.tokens
    assert sums["accuracy"] == float((prediction.logits.argmax(1) == prediction.targets).sum())


def test_spans_by_hand():
    """Both Rex are found, and of New York only York without B: lenient 2 of 3 right and 2 of 3 found, strict 2 of 2."""
    model, items = _prepared()
    names = label_names(model.network)
    said = ["O", "O", "B-PER", "O", "O", "I-LOC", "O", "O", "O", "B-PER"]
    for strict, precision in ((False, 2 / 3), (True, 1.0)):
        objective = TokenClassification(strict=strict)
        batch = objective.collate(items)
        logits = functional.one_hot(torch.tensor([names.index(tag) for tag in said]), len(names)).float()
        prediction = objective.predict(model.network, batch)
        value, sums = objective.loss_of(type(prediction)(prediction.targets, logits, logits=logits), batch)
        found = objective.summarize({"loss": float(value), **sums}, 10)
        assert found["precision"] == pytest.approx(precision) and found["recall"] == pytest.approx(2 / 3)
        assert found["f1"] == pytest.approx(2 * precision * (2 / 3) / (precision + 2 / 3))
        assert found["accuracy"] == pytest.approx(0.9)


def test_plain_tags_have_no_spans():
    rows = [{"tokens": ["good", "dog"], "tags": ["ADJ", "NOUN"]}]
    model, items = _prepared(rows=rows)
    found = evaluate(model.network, TokenClassification(), [TokenClassification().collate(items)])
    assert found.keys() == {"loss", "accuracy"}
    assert TokenClassification().baseline(items) == {"accuracy": 0.5}


def test_baseline_is_the_most_frequent_tag():
    """O on six of ten words, and no span."""
    assert TokenClassification().baseline(_prepared()[1]) == {"f1": 0.0, "accuracy": 0.6}
    rows = [{"tokens": ["Rex", "is"], "tags": ["B-PER", "O"]}, {"tokens": ["Rex"], "tags": ["B-PER"]}]
    assert TokenClassification().baseline(_prepared(rows=rows)[1]) == {"f1": pytest.approx(0.8), "accuracy": 2 / 3}


@pytest.mark.parametrize("make", [make_tiny_bert, make_tiny_llama])
def test_it_learns_and_splitting_changes_nothing(make):
    results = []
    for budget in (4096, 12):
        model, items = _prepared(make)
        for module in model.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # two splits would draw different units
        Full().apply(model.network)
        objective = TokenClassification()
        found = train(
            model.network,
            objective,
            Batches(items, 3, budget, seed=0, collate=objective.collate),
            Loop(steps=30, learning_rate=5e-3),
        )
        results.append([entry["loss"] for entry in found.history])
        assert evaluate(model.network, objective, [objective.collate(items)])["f1"] == 1.0
    assert results[0][:5] == pytest.approx(results[1][:5], abs=1e-4)


def test_long_sentences():
    """`The dog Rex sleeps` is 1 + 1 + 3 + 6 pieces with two special tokens; windows hold whole words."""
    with pytest.raises(BadRequest, match="rows:1: 13 tokens, but max_length is 9"):
        _prepared(max_length=9)
    names = ["B-LOC", "B-PER", "I-LOC", "O"]
    _, windows = _prepared(max_length=9, too_long="split")
    tags = [[names[tag] for tag in item.extras["tag"] if tag != -100] for item in windows]
    assert [tag for part in tags for tag in part] == [tag for row in ROWS for tag in row["tags"]]
    assert all(len(item) <= 9 for item in windows) and len(windows) > 3
    _, cut = _prepared(max_length=9, too_long="truncate")
    assert [item.origin for item in cut] == ["rows:1", "rows:2", "rows:3"] and all(len(item) <= 9 for item in cut)
    assert [names[tag] for tag in cut[0].extras["tag"] if tag != -100] == ["O", "O", "B-PER"]
    _, left = _prepared(max_length=9, too_long="skip")
    assert [item.origin for item in left] == ["rows:3"]
    with pytest.raises(BadRequest, match="the word 'sleeps' alone is over max_length"):
        _prepared(max_length=7, too_long="split")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], "rows:1: 'tags' has 1 entries for 2 tokens"),
        ([{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["b"], "tags": ["O"]}], "All words of rows have the tag 'O'"),
        ([{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["b"], "tags": [1]}], "rows:2: the tag 1 isn't of the kind"),
        ([{"text": "a", "label": 1}], "rows:1: a labelled record has no tags"),
        ([{"tokens": ["a", "b"], "tags": ["O", "X"]}, {"tokens": ["\u200b"], "tags": ["O"]}], "rows:2: .* no token"),
    ],
)
def test_bad_data(rows, sentence):
    with pytest.raises(BadRequest, match=sentence):
        _prepared(rows=rows)


def test_tags_that_training_lacks():
    model, _ = _prepared()
    held_out = dataset.read([ROWS[0], {"tokens": ["a"], "tags": ["B-PERS"]}])
    with pytest.raises(BadRequest, match=r"rows:2: the tag 'B-PERS' isn't one of the model's\. Did you mean 'B-PER'"):
        TokenClassification().encode(held_out, model, Encoding())
    TokenClassification().prepare(model, dataset.read(ROWS[:1]))  # fewer of the model's tags are no other ones
    with pytest.raises(BadRequest, match="but the data has"):
        TokenClassification().prepare(model, dataset.read([{"tokens": ["a", "b"], "tags": ["O", "B-ORG"]}]))
