"""Paraphrase by rules: synonyms from a small list, set phrases in other words, and leading clauses moved to the end.

This is no paraphrase by a model: it knows some eighty words and phrases and one pattern of English, so most of a text
stays as it is and its style is untouched. It changes only what is the same in nearly every context. A clause is moved
("If it rains, we stay" becomes "We stay if it rains") only in a sentence with one comma that begins with one of a few
conjunctions and goes on with a pronoun or an article.
"""

from __future__ import annotations

import re
from random import Random

from pydantic import Field

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._words import drawn, like

# What becomes what. No word on the right stands on the left.
_LIST = """
big > large, bigger > larger, biggest > largest, begin > start, begins > starts, began > started, begun > started,
movie > film, movies > films, quick > fast, quickly > rapidly, buy > purchase, buys > purchases, bought > purchased,
almost > nearly, maybe > perhaps, choose > pick, chooses > picks, chose > picked, chosen > picked, glad > happy,
ill > sick, often > frequently, usually > normally, mostly > mainly, therefore > thus, mistake > error,
mistakes > errors, street > road, streets > roads, kid > child, kids > children, physician > doctor,
physicians > doctors, infant > baby, infants > babies, autumn > fall, clever > smart, wealthy > rich, awful > terrible,
horrible > terrible, wonderful > marvellous, amazing > incredible, dull > boring, funny > amusing, weird > strange,
incorrect > wrong, repair > fix, repairs > fixes, repaired > fixed, assist > help, assists > helps, assisted > helped,
require > need, requires > needs, required > needed, obtain > get, obtains > gets, obtained > got, attempt > try,
attempts > tries, attempted > tried, enormous > huge, ocean > sea, oceans > seas, photo > picture, photos > pictures,
car > automobile, cars > automobiles, gift > present, gifts > presents, scared > frightened, permitted > allowed,
demonstrate > show, demonstrates > shows, demonstrated > showed, utilize > use, utilizes > uses, utilized > used,
approximately > about, numerous > many, subsequently > later, nowadays > these days, in order to > to,
due to the fact that > because, at the moment > right now, is able to > can, are able to > can, was able to > could,
were able to > could, a large number of > many, prior to > before, in the event that > if, for example > for instance,
in spite of > despite, a great deal of > much, each and every > every
"""
_OTHER = {old: new for pair in " ".join(_LIST.split()).split(", ") for old, new in [tuple(pair.split(" > "))]}
_WORDS = "|".join(sorted(_OTHER, key=len, reverse=True))
_PLACE = re.compile(rf"(?<![\w-])(?:(an?) )?({_WORDS})(?![\w-])", re.IGNORECASE)

_CONJUNCTIONS = "If|When|Because|Although|While|Unless|Before|After"
_SUBJECTS = "I|you|he|she|it|we|they|the|a|an|this|that|there|my|your|his|her|our|their"
_CLAUSES = re.compile(
    rf"(?<![^\s])({_CONJUNCTIONS}) ([^.!?,;:()\"“”\n]+), ((?:{_SUBJECTS}) [^.!?,;:()\"“”\n]+)(?=[.!]|$)", re.MULTILINE
)


class Paraphrase(Perturbation):
    """Say the same in other words, by rules."""

    rate: float = Field(1.0, ge=0, le=1)
    """The share of the places where a rule fits that are changed."""

    at_least: int = Field(1, ge=0)
    """Change at least so many places of a text that has as many."""

    def apply(self, text: str, random: Random) -> str:
        moved = drawn([match for match in _CLAUSES.finditer(text) if _movable(match)], self.rate, 0, random)
        starts = {match.start() for match in moved}
        text = _CLAUSES.sub(lambda match: _moved(match) if match.start() in starts else match[0], text)
        places = drawn(list(_PLACE.finditer(text)), self.rate, max(0, self.at_least - len(moved)), random)
        starts = {match.start() for match in places}
        return _PLACE.sub(lambda match: _reworded(match) if match.start() in starts else match[0], text)


def _movable(match: re.Match[str]) -> bool:
    """Numbers keep their order, and the sentence must begin with the clause."""
    before = match.string[: match.start()].rstrip(" ")
    begins = not before or before[-1] in ".!?\n"
    return begins and not (any(map(str.isdigit, match[2])) and any(map(str.isdigit, match[3])))


def _moved(match: re.Match[str]) -> str:
    return f"{match[3][0].upper()}{match[3][1:]} {match[1].lower()} {match[2]}"


def _reworded(match: re.Match[str]) -> str:
    word = like(match[2], _OTHER[match[2].lower()])
    if match[1] is None:
        return word
    article = "an" if word[0].lower() in "aeiou" else "a"
    return f"{like(match[1], article)} {word}"
