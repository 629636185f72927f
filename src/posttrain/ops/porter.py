"""Porter's stemmer for English: words without their endings, so that `connected` and `connection` are one.

Porter (1980, "An algorithm for suffix stripping"), with the later rules and the irregular words of NLTK's default mode,
because scores published with stemming (ROUGE, METEOR) were mostly computed with that one. Whatever isn't a vowel of
English counts as a consonant, digits and other scripts too. Left out: other languages and NLTK's other two modes.
"""

from __future__ import annotations

import re
from functools import lru_cache

_VOWEL = re.compile("[aeiou]")
_VOWEL_THEN_CONSONANT = re.compile("[aeiou][^aeiou]")

_IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
    **{word: word for word in ("sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")},
}

# Endings that are replaced if what stands before them has a vowel and then a consonant (m > 0).
_STEP_2 = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "fulli": "ful",
}
_STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
# Endings that are dropped if that happens twice before them (m > 1).
_STEP_4 = frozenset(
    {"al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"}
    | {"ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"}
)
_ENDS_2 = (*_STEP_2, "alli", "logi")
_ENDS_3, _ENDS_4 = tuple(_STEP_3), tuple(_STEP_4)


@lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """The stem of a word in lower case; words of one or two letters are their own."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    if word[-1] == "s":
        word = _without_plural(word)
    if word.endswith(("ed", "ing")):
        word = _without_past_or_participle(word)
    if word[-1] == "y" and len(word) > 2 and not _VOWEL.match(_vowels_marked(word), len(word) - 2):
        word = word[:-1] + "i"
    if word.endswith(_ENDS_2):
        word = _step_2(word)
    if word.endswith(_ENDS_3):
        word = _replaced(word, _STEP_3)
    if word.endswith(_ENDS_4):
        word = _step_4(word)
    if word[-1] == "e":
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_consonant_vowel_consonant(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word[:-1]) > 1:
        word = word[:-1]
    return word


def _without_plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]  # dies, flies
    if word.endswith("sses"):
        return word[:-2]
    return word if word.endswith("ss") else word[:-1]


def _without_past_or_participle(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]  # died, spied
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    rest = word[:-2] if word.endswith("ed") else word[:-3]
    marked = _vowels_marked(rest)
    if not _VOWEL.search(marked):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and not _VOWEL.match(marked, len(rest) - 1):
        return rest if rest[-1] in "lsz" else rest[:-1]
    if _measure(rest) == 1 and _ends_consonant_vowel_consonant(rest):
        return rest + "e"
    return rest


def _step_2(word: str) -> str:
    if word.endswith("alli"):
        return _after_alli(word[:-2]) if _measure(word[:-4]) > 0 else word
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word  # the l counts as part of the stem
    return _replaced(word, _STEP_2)


def _after_alli(word: str) -> str:
    """`-alli` became `-al`, and what is left goes through the step again."""
    return _replaced(word, _STEP_2) if word.endswith(_ENDS_2) else word


def _replaced(word: str, endings: dict[str, str]) -> str:
    """The word with its longest ending replaced, if there is enough before it."""
    for length in range(min(7, len(word)), 2, -1):
        ending = word[-length:]
        if ending in endings:
            rest = word[:-length]
            return rest + endings[ending] if _measure(rest) > 0 else word
    return word


def _step_4(word: str) -> str:
    for length in range(min(5, len(word)), 1, -1):
        if word[-length:] in _STEP_4:
            rest = word[:-length]
            if _measure(rest) > 1 and (word[-length:] != "ion" or rest[-1] in "st"):
                return rest
            return word
    return word


def _vowels_marked(word: str) -> str:
    """The word with an i for each y that is a vowel: one that follows a consonant."""
    if "y" not in word:
        return word
    marked = ""
    for letter in word:
        marked += "i" if letter == "y" and marked and marked[-1] not in "aeiou" else letter
    return marked


def _measure(word: str) -> int:
    """Porter's m: how often a consonant follows a vowel."""
    return len(_VOWEL_THEN_CONSONANT.findall(_vowels_marked(word)))


def _ends_consonant_vowel_consonant(word: str) -> bool:
    """Whether a word ends so that a final e would be missed, as in hop(e), but not in w, x or y; or it is like `us`."""
    kinds = ["v" if _VOWEL.match(letter) else "c" for letter in _vowels_marked(word)[-3:]]
    return (kinds == ["c", "v", "c"] and word[-1] not in "wxy") or (len(word) == 2 and kinds == ["v", "c"])
