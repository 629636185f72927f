"""What each perturbation makes of a text, written out by hand."""

from __future__ import annotations

from random import Random

import pytest

from posttrain.bench.perturbations._names import known_names, names_by_group
from posttrain.bench.perturbations._words import drawn, like
from posttrain.bench.perturbations.typos import _neighbours
from posttrain.core import catalog
from posttrain.core.errors import BadRequest


def changed(block, text, seed=0):
    return catalog.build("perturbation", block).apply(text, Random(seed))


EXPANDED = [
    ("I don't know, can't say and won't ask.", "I do not know, cannot say and will not ask."),
    ("Don't you think it's late?", "Do you not think it is late?"),
    ("It's been long. Let's go!", "It has been long. Let us go!"),
    ("I'm sure they'll say we've won.", "I am sure they will say we have won."),
    ("IT'S OK, I'M HERE", "IT IS OK, I AM HERE"),
    ("John's book; she'd know", "John's book; she'd know"),
    ("Isn\N{RIGHT SINGLE QUOTATION MARK}t it?", "Is it not?"),
]
CONTRACTED = [
    ("I do not know and cannot say.", "I don't know and can't say."),
    ("We will not go; they are late.", "We won't go; they're late."),
    ("I am here, and I know what it is.", "I'm here, and I know what it is."),
    ("I have a dog. I have never seen it.", "I have a dog. I've never seen it."),
    ("It is not true that she will come.", "It isn't true that she'll come."),
    ("THAT IS TRUE", "THAT'S TRUE"),
]


@pytest.mark.parametrize(("text", "expected"), EXPANDED)
def test_expanded(text, expected):
    assert changed("contractions", text) == expected


@pytest.mark.parametrize(("text", "expected"), CONTRACTED)
def test_contracted(text, expected):
    assert changed({"contractions": {"to": "contracted"}}, text) == expected


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        ("end", "It works.", "It works"),
        ("end", "It works", "It works."),
        ("end", "Does it?!  ", "Does it  "),
        ("end", 'He said "yes"', 'He said "yes"'),
        ("drop", "Well, it costs 3.50, or .5; don't ask...", "Well it costs 3.50 or .5 don't ask"),
        ("drop", "a.,b (c.)", "a.,b (c)"),
        ("repeat", "Stop! Now.", "Stop! Now..."),
        ("repeat", "no mark", "no mark"),
    ],
)
def test_punctuation(change, text, expected):
    assert changed({"punctuation": {"change": change}}, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He gave his sister her book.", "She gave her brother his book."),
        ("She knows him; he knows her.", "He knows her; she knows him."),
        ("The book is his. Is it hers?", "The book is hers. Is it his?"),
        ("I saw her yesterday with her father", "I saw him yesterday with his mother"),
        ("HE AND HIS WIFE", "SHE AND HER HUSBAND"),
        ("Mr. Todd met Mrs. Smith, and I miss her.", "Ms. Katie met Mr. Smith, and I miss him."),
        ("The actress herself met Priya.", "The actor himself met Rahul."),
        ("The chairman heard the human theme.", "The chairwoman heard the human theme."),
    ],
)
def test_gender_swap(text, expected):
    assert changed("gender_swap", text) == expected


def test_genders_come_back():
    """Where no word stands for two, a second exchange undoes the first."""
    text = "Emily told her brother that Jamal's mother is a waitress; he didn't know."
    other = "Andrew told his sister that Ebony's father is a waiter; she didn't know."
    assert changed("gender_swap", text) == other
    assert changed("gender_swap", other) == text
    assert changed({"gender_swap": {"names": False}}, "Emily and her son") == "Emily and his daughter"


def test_names_keep_gender_and_stay_the_same_throughout():
    text = "Emily and Kevin came. EMILY left; Emily's bag didn't. Paris is a city."
    for seed in range(20):
        found = changed("name_swap", text, seed)
        first, _, second, *_ = found.split()
        assert known_names()[first].gender == "female"
        assert known_names()[second].gender == "male"
        assert {first, second}.isdisjoint({"Emily", "Kevin"})
        expected = f"{first} and {second} came. {first.upper()} left; {first}'s bag didn't. Paris is a city."
        assert found == expected
    arabic = changed({"name_swap": {"group": "arabic"}}, "Sarah met Paul").split()
    assert {known_names()[name].group for name in (arabic[0], arabic[2])} == {"arabic"}
    with pytest.raises(BadRequest, match=r"perturbation\.name_swap\.group.*there are names of english"):
        catalog.build("perturbation", {"name_swap": {"group": "klingon"}})


def test_the_list_of_names():
    """Both lists of a group pair by place, and no name stands twice: otherwise exchanging isn't undone."""
    every = [name for genders in names_by_group().values() for names in genders.values() for name in names]
    assert len(every) == len(set(every)) == len(known_names())
    assert all(len(genders["female"]) == len(genders["male"]) >= 10 for genders in names_by_group().values())
    assert all(name == name.capitalize() and name.isalpha() for name in every)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("If it rains, we stay at home.", "We stay at home if it rains."),
        ("Yes. When 3 come, he pays.", "Yes. He pays when 3 come."),
        ("If 3 come, we need 4 chairs.", "If 3 come, we need 4 chairs."),  # numbers keep their order
        ("If it rains, snows, or hails, we stay.", "If it rains, snows, or hails, we stay."),
        ("A big movie in order to amuse", "A large film to amuse"),
        ("He made an attempt; maybe a mistake.", "He made a try; perhaps an error."),
        ("BIG well-begun kids", "LARGE well-begun children"),
    ],
)
def test_paraphrase(text, expected):
    assert changed("paraphrase", text) == expected


def test_no_synonym_is_replaced_again():
    from posttrain.bench.perturbations.paraphrase import _OTHER

    assert not set(_OTHER) & set(_OTHER.values())


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("transposition", {"wrod"}),
        ("drop", {"wrd", "wod"}),
        ("double", {"woord", "worrd"}),
    ],
)
def test_typos_of_one_kind(kind, found):
    """Inside "word" the letters o and r; exchanged they are one slip."""
    made = {changed({"typos": {"kinds": [kind]}}, "word", seed) for seed in range(40)}
    assert made == found


def test_neighbouring_keys():
    assert set(_neighbours()["g"]) == set("ftyhvb")
    assert set(_neighbours()["q"]) == set("wa")
    assert all(key in _neighbours()[other] for key, others in _neighbours().items() for other in others)
    assert changed({"typos": {"kinds": ["neighbour"]}}, "WORD") in {f"W{a}RD" for a in "IPKL"} | {
        f"WO{b}D" for b in "ETDF"
    }


def test_typos_spare_short_words_and_numbers():
    assert changed({"typos": {"rate": 1.0}}, "the cat ran to B2B4ever in 2019") == "the cat ran to B2B4ever in 2019"
    assert changed({"typos": {"rate": 0.0, "at_least": 0}}, "several longer words") == "several longer words"
    spared = changed({"typos": {"rate": 1.0, "spare_capitals": True}}, "China, NATO or Peru")
    assert spared == "China, NATO or Peru"
    once = changed({"typos": {"rate": 0.0, "at_least": 1}}, "several longer words")
    assert sum(a != b for a, b in zip(once.split(), ["several", "longer", "words"])) == 1
    everything = changed({"typos": {"rate": 1.0}}, "several longer words").split()
    assert all(a != b for a, b in zip(everything, ["several", "longer", "words"]))


def test_whitespace():
    assert changed({"whitespace": {"rate": 1.0, "most": 2}}, "a b\nc  d") == "a  b\nc  d"
    assert changed({"whitespace": {"rate": 0.0, "at_least": 0}}, "a b") == "a b"
    assert "\t" in changed({"whitespace": {"rate": 1.0, "tabs": True}}, "a b c d e f g h")
    assert changed({"whitespace": {"rate": 1.0}}, "a b c d").split() == ["a", "b", "c", "d"]


def test_case():
    assert changed("case", "Straße 7 NATO") == "straße 7 nato"
    assert changed({"case": {"to": "upper"}}, "one Two") == "ONE TWO"
    assert changed({"case": {"to": "random", "rate": 1.0}}, "aBc 1") == "AbC 1"


def test_distractors():
    own = {"sentences": ["The sky is blue."]}
    assert changed({"add_distractor": own}, "What is 1 + 1?") == "The sky is blue. What is 1 + 1?"
    at_end = {"add_distractor": {**own, "place": "end"}}
    assert changed(at_end, "It is late\n") == "It is late. The sky is blue.\n"
    assert changed(at_end, "Is it?") == "Is it? The sky is blue."
    with pytest.raises(BadRequest, match="words and no digits"):
        catalog.build("perturbation", {"add_distractor": {"sentences": ["There are 2."]}})


def test_places_are_drawn():
    assert drawn("abc", 1.0, 0, Random(0)) == ["a", "b", "c"]
    assert drawn("abc", 0.0, 0, Random(0)) == []
    assert len(drawn("abc", 0.0, 2, Random(0))) == 2
    assert drawn("", 1.0, 3, Random(0)) == []
    share = sum(len(drawn(range(100), 0.3, 0, Random(seed))) for seed in range(50)) / 5000
    assert share == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("model", "expected"), [("THE", "WORD"), ("The", "Word"), ("the", "word"), ("I", "Word"), ("7", "word")]
)
def test_written_alike(model, expected):
    assert like(model, "word") == expected
