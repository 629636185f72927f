"""Contractions: "do not" becomes "don't", or the other way round.

Both directions are perturbations of Liang et al., 2022, "Holistic Evaluation of Language Models", appendix D. Left
alone is what only its meaning could decide: 'd (had or would), 's behind a noun (is, has or the genitive), and forms
that English doesn't contract, as at the end of a sentence ("I know what it is").
"""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from posttrain.bench.perturbations import Perturbation
from posttrain.bench.perturbations._words import like

_PRONOUNS = "i|you|he|she|it|we|they"
_REGULAR = "is|are|was|were|do|does|did|has|have|had|could|would|should|must|need"
# Negations that change the verb's own form.
_OF_NEGATED = {"ca": "can", "wo": "will", "sha": "shall"}
_WHOLE = {"can": "cannot", "won": "will not", "shan": "shall not"}
_CONTRACTED = {"cannot": "can't", "can not": "can't", "will not": "won't", "shall not": "shan't"}
_BEFORE_IS = "it|that|what|he|she|there|who|here|where|how"
_ENDINGS = {"m": "am", "re": "are", "ve": "have", "ll": "will"}

_ASKED = re.compile(rf"\b({_REGULAR}|might|ca|wo|sha)n['’]t ({_PRONOUNS})\b", re.IGNORECASE)
_NEGATED = re.compile(rf"\b({_REGULAR}|might)n['’]t\b", re.IGNORECASE)
_NEGATED_WHOLE = re.compile(r"\b(can|won|shan)['’]t\b", re.IGNORECASE)
_LET_US = re.compile(r"\b(let)['’]s\b", re.IGNORECASE)
_IS = re.compile(rf"\b({_BEFORE_IS})['’]s\b(?:(?= (been|got)\b)|)", re.IGNORECASE)
_ENDED = re.compile(r"\b([a-z]+)['’](m|re|ve|ll)\b", re.IGNORECASE)

_NOT = re.compile(rf"\b({_REGULAR}) not\b", re.IGNORECASE)
_NOT_WHOLE = re.compile(r"\b(?:cannot|can not|will not|shall not)\b", re.IGNORECASE)
# Only before another word, and of "have" only the auxiliary: not "I have a dog".
_TO_HAVE = re.compile(r"\b(i|you|we|they) have(?= (?:been|got|never|always|already|just)\b)", re.IGNORECASE)
_TO_WILL = re.compile(rf"\b({_PRONOUNS}) will(?= \w)", re.IGNORECASE)
_TO_AM = re.compile(r"\b(i) am(?= \w)", re.IGNORECASE)
_TO_ARE = re.compile(r"\b(you|we|they) are(?= \w)", re.IGNORECASE)
_TO_IS = re.compile(rf"\b({_BEFORE_IS}) is(?= \w)", re.IGNORECASE)


class Contractions(Perturbation):
    """Contract or expand verbs with "not" and with pronouns."""

    to: Literal["expanded", "contracted"] = "expanded"
    """Write forms in full, or contract them."""

    @property
    def idempotent(self) -> bool:
        """In both directions."""
        return True

    def apply(self, text: str, random: Random) -> str:
        return _expanded(text) if self.to == "expanded" else _contracted(text)


def _expanded(text: str) -> str:
    text = _ASKED.sub(_in_question, text)
    text = _NEGATED.sub(lambda match: f"{match[1]} {_second('not', match)}", text)
    text = _NEGATED_WHOLE.sub(lambda match: like(match[0], _WHOLE[match[1].lower()]), text)
    text = _LET_US.sub(lambda match: f"{match[1]} {_second('us', match)}", text)
    text = _IS.sub(lambda match: f"{match[1]} {_second('has' if match[2] else 'is', match)}", text)
    return _ENDED.sub(lambda match: f"{match[1]} {_second(_ENDINGS[match[2].lower()], match)}", text)


def _in_question(match: re.Match[str]) -> str:
    """In full, "don't you" is "do you not"."""
    verb = _OF_NEGATED.get(match[1].lower(), match[1].lower())
    return f"{like(match[0], verb)} {match[2]} {_second('not', match)}"


def _contracted(text: str) -> str:
    text = _NOT.sub(lambda match: match[1] + _second("n't", match), text)
    text = _NOT_WHOLE.sub(lambda match: like(match[0], _CONTRACTED[match[0].lower()]), text)
    for pattern, ending in ((_TO_HAVE, "'ve"), (_TO_WILL, "'ll"), (_TO_AM, "'m"), (_TO_ARE, "'re"), (_TO_IS, "'s")):
        text = _with_ending(pattern, ending, text)
    return text


def _with_ending(pattern: re.Pattern[str], ending: str, text: str) -> str:
    return pattern.sub(lambda match: match[1] + _second(ending, match), text)


def _second(word: str, match: re.Match[str]) -> str:
    """A word that isn't the first: in capitals where all of the match is."""
    return word.upper() if match[0].isupper() else word
