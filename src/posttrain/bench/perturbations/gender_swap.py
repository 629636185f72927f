"""Gender swap: he and she, his and her, father and mother, Andrew and Emily take each other's place.

The counterfactual of a text (Zhao et al., 2018, "Gender Bias in Coreference Resolution: Evaluation and Debiasing
Methods", section 4; Lu et al., 2018, "Gender Bias in Neural Natural Language Processing"), with words and names of a
list of our own. English has one word where it needs two: "her" is his or him, "his" is her or hers. Which is told from
the next word: before a noun, an adjective or another word that isn't in a short list of function words it is the
possessive. So "gave her flowers" becomes "gave his flowers". "She was a nurse" keeps the noun.
"""

from __future__ import annotations

import re
from random import Random

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._names import known_names, name_pattern, names_by_group
from posttrain.bench.perturbations._words import like

_PAIRS = """
he she, himself herself, man woman, men women, boy girl, boys girls, father mother, fathers mothers, son daughter,
sons daughters, brother sister, brothers sisters, husband wife, husbands wives, uncle aunt, uncles aunts,
nephew niece, nephews nieces, grandfather grandmother, grandfathers grandmothers, grandson granddaughter,
grandsons granddaughters, grandpa grandma, dad mom, dads moms, daddy mommy, stepfather stepmother,
stepbrother stepsister, boyfriend girlfriend, boyfriends girlfriends, gentleman lady, gentlemen ladies, guy gal,
guys gals, male female, males females, king queen, kings queens, prince princess, princes princesses, duke duchess,
actor actress, actors actresses, waiter waitress, waiters waitresses, heir heiress, widower widow,
groom bride, grooms brides, fiancé fiancée, mr ms, sir madam, policeman policewoman, policemen policewomen,
businessman businesswoman, businessmen businesswomen, chairman chairwoman, spokesman spokeswoman,
salesman saleswoman, fatherhood motherhood, masculine feminine
"""
_OTHER = {
    word: other
    for pair in _PAIRS.replace("\n", " ").split(",")
    for word, other in (pair.split(), reversed(pair.split()))
} | {"mrs": "mr", "miss": "mr", "him": "her", "hers": "his"}

# Behind these words "her" and "his" don't belong to a noun.
_FUNCTION_WORDS = """
a about across after again against all along alone although an and any are as at away back because been before behind
beside between but by down during every for from had has have he how if in into is it just next no not now of off on or
out over right she since so some than that the then there they through to today together tomorrow tonight too toward
towards under until up very was were we well what when where which while who why will with without would yesterday you
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split())

_WORDS = "|".join(sorted([*_OTHER, "her", "his"], key=len, reverse=True))
_WORD = re.compile(rf"(?<![\w-])(?:{_WORDS})(?![\w-])", re.IGNORECASE)
_NEXT = re.compile(r"\s+([^\W_]+)")
_TITLES = {"miss"}  # a verb too, unless written with a capital


class GenderSwap(Perturbation):
    """Exchange words and names of one gender for those of the other."""

    names: bool = True
    """Exchange given names as well, each for the one beside it in the list."""

    def apply(self, text: str, random: Random) -> str:
        swapped = _WORD.sub(_swapped, text)
        return name_pattern().sub(_other_name, swapped) if self.names else swapped


def _swapped(match: re.Match[str]) -> str:
    word = match[0].lower()
    if word in _TITLES and match[0] == word:
        return match[0]
    if word in ("her", "his"):
        following = _NEXT.match(match.string, match.end())
        owned = following is not None and following[1].lower() not in _FUNCTION
        other = ("his" if owned else "him") if word == "her" else ("her" if owned else "hers")
        return like(match[0], other)
    return like(match[0], _OTHER[word])


def _other_name(match: re.Match[str]) -> str:
    name = known_names()[match[0].capitalize()]
    other = "male" if name.gender == "female" else "female"
    return like(match[0], names_by_group()[name.group][other][name.place])
