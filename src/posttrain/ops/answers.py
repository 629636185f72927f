"""Short answers compared as SQuAD compares them: without case, punctuation, articles and extra blanks.

Rajpurkar et al. (2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text"), section 6.1; where there is
nothing to answer, Rajpurkar et al. (2018). Left out: languages other than English.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def token_f1(predicted: str, actual: str) -> float:
    """F1 of the words that two answers share, each as often as in both; without any words, whether both have none."""
    ours, theirs = normalized(predicted).split(), normalized(actual).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs))
