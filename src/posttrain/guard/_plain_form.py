"""Texts as a filter should see them: what a reader takes for a letter is that letter, however it is written.

Lower case, compatibility forms (Unicode NFKD), accents, invisible characters, tag characters, lookalikes from other
scripts, digits and signs in the place of letters, letters set apart or repeated. Every character of a form knows where
it comes from, so that what is found in a form can be shown in the text. Left out: letters replaced by ``*`` (too many
words fit), words written backwards or encoded, and misspellings that are merely wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

# Letters of other scripts, small capitals and signs that are read as Latin letters and that NFKD leaves as they are.
_LOOKALIKES = {
    "a": "аɑαаᴀ∂", "b": "ЬвʙᏏᗷ", "c": "сϲᴄⅽ¢с", "d": "ԁᏧᴅɗđ", "e": "еєҽᴇɛ℮ε", "f": "ғƒϝꜰ", "g": "ɡցɢ",
    "h": "һհнʜħ", "i": "іıɩιɪӏ", "j": "јʝᴊ", "k": "кκᴋ", "l": "ⅼʟł", "m": "мᴍ", "n": "пոռηɴ",
    "o": "оοօσᴏø၀", "p": "рρᴘþ", "q": "ԛգ", "r": "гᴦʀ", "s": "ѕʂꜱ", "t": "тτᴛŧ", "u": "υսᴜ", "v": "ѵνᴠ",
    "w": "ԝωᴡш", "x": "хχ", "y": "уγүʏ", "z": "ᴢʐ", "'": "’‘ʼ`´",
}  # fmt: skip
_LATIN = {look: letter for letter, looks in _LOOKALIKES.items() for look in looks}
# Letters in boxes and of flags.
_LATIN |= {chr(start + i): chr(97 + i) for start in (0x1F150, 0x1F170, 0x1F1E6) for i in range(26)}

# Blanks and fillers that are no format characters but show nothing, or nothing but a gap.
_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_TAGS = range(0xE0020, 0xE007F)

_SIGNS = {
    "0": "o", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g", "@": "a", "$": "s",
    "€": "e", "£": "l",
}  # fmt: skip
# Signs that end sentences or stand alone as well: letters only where a letter follows in the same word.
_WEAK = {"!": "i", "|": "i", "+": "t", "(": "c", "<": "c"}
_EITHER = frozenset("1!|")  # read as i or as l
# Characters around a change that are read again with it: longer than what a policy looks for at once.
_AROUND = 200
_SIGN = re.compile(r"[0-9@$€£!|+(<]")
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"\S+")
# A letter's neighbours and what stands between letters exclude each other, so that neither pattern backtracks.
_APART = re.compile(r"(?<![^\W_])[^\W_](?:[\W_]{1,3}[^\W_]){2,}(?![^\W_])")
_INSIDE = re.compile(r"(?<=[^\W_])[._\-*'~^:,·]{1,2}(?=[^\W_])")
_RUN = re.compile(r"([^\W\d_])\1+")
_LONG_RUN = re.compile(r"([^\W\d_])\1\1")


@dataclass(frozen=True)
class Form:
    """One way to read a text.

    Attributes:
        text: The text in this form.
        starts: For each of its characters, where the original character begins in the text it was made of.
        ends: For each, where that one ends.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where ``text[start:end]``, at least one character, stands in the original."""
        return self.starts[start], self.ends[end - 1]

    def pick(self, characters: Iterable[tuple[int, str]]) -> Form:
        """The form of characters given by their position in this one and what they are read as."""
        chosen = list(characters)
        return Form(
            "".join(read for _, read in chosen),
            [self.starts[position] for position, _ in chosen],
            [self.ends[position] for position, _ in chosen],
        )


def plain(text: str) -> Form:
    """Lower case without accents and invisible characters, lookalikes as Latin letters; everything else as it is."""
    if text.isascii():
        return Form(text.lower(), range(len(text)), range(1, len(text) + 1))
    read: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for position, character in enumerate(text):
        as_read = character.lower() if character.isascii() else _plain_character(character)
        if not as_read and ends and unicodedata.combining(character):
            ends[-1] = position + 1  # an accent belongs to its letter
        for each in as_read:
            read.append(each)
            starts.append(position)
            ends.append(position + 1)
    return Form("".join(read), starts, ends)


@lru_cache(maxsize=1 << 14)
def _plain_character(character: str) -> str:
    if ord(character) in _TAGS:
        return chr(ord(character) - 0xE0000).lower()
    if character in _NOTHING or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return ""
    if character in _LATIN:
        return _LATIN[character]
    parts = unicodedata.normalize("NFKD", character).casefold()
    kept = "".join(_LATIN.get(part, part) for part in parts if unicodedata.category(part) not in ("Mn", "Me", "Cf"))
    return kept or ("" if unicodedata.combining(character) else character)


def readings(form: Form) -> list[Form]:
    """The plain form, and the parts of it that can be read in another way as well, each with its surroundings.

    In one reading letters set apart are joined and single signs inside words left out; in others signs are letters, if
    they stand in a word that has some. ``1`` is an i in one of them and an l in another.
    """
    joined = _joined(form)
    lettered = [part for each in (form, *joined) for either in ("i", "l") for part in _lettered(each, either)]
    return [form, *joined, *lettered]


def _joined(form: Form) -> list[Form]:
    """Parts without what stands between letters set apart (``k i l l``) and without single signs in words (``ki.ll``).

    Of letters set apart, a gap wider than the first is one between words and becomes a blank.
    """
    text = form.text
    dropped: set[int] = set()
    blanks: set[int] = set()
    for found in _APART.finditer(text):
        gaps = [m.span() for m in re.finditer(r"[\W_]+", found.group())]
        usual = gaps[0][1] - gaps[0][0]
        for start, end in gaps:
            dropped.update(range(found.start() + start, found.start() + end))
            if end - start > usual:
                blanks.add(found.start() + start)
    for found in _INSIDE.finditer(text):
        dropped.update(range(*found.span()))
    dropped -= blanks
    return [
        form.pick((i, " " if i in blanks else text[i]) for i in range(start, end) if i not in dropped)
        for start, end in _surroundings(text, sorted(dropped))
    ]


def _lettered(form: Form, either: str) -> list[Form]:
    """Parts with signs read as letters; for l only those that have a sign which could be an i as well."""
    changes: dict[int, str] = {}
    for word in _WORD.finditer(form.text):
        letters = [m.start() for m in _LETTER.finditer(word.group())] if _SIGN.search(word.group()) else []
        if not letters or (either == "l" and not _EITHER & {*word.group()}):
            continue
        for sign in _SIGN.finditer(word.group()):
            character, place = sign.group(), sign.start()
            if character in _WEAK and place > letters[-1]:
                continue
            read = either if character in _EITHER else _SIGNS.get(character) or _WEAK[character]
            changes[word.start() + place] = read
    return [
        form.pick((i, changes.get(i, form.text[i])) for i in range(start, end))
        for start, end in _surroundings(form.text, list(changes))
    ]


def _surroundings(text: str, places: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of whole words around ascending places; those that touch are one."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and place < found[-1][1] - _AROUND:
            continue
        start, end = max(0, place - _AROUND), min(len(text), place + 2 * _AROUND)
        # To a blank, or the stretch would begin or end inside a word; a word as long as this is none.
        start = text.rfind(" ", max(0, start - _AROUND), start) + 1 or start
        end = at if (at := text.find(" ", end, end + _AROUND)) >= 0 else end
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def has_long_run(text: str) -> bool:
    """Whether some letter stands three times or more in a row, as no word has it."""
    return _LONG_RUN.search(text) is not None


def squeezed(form: Form) -> Form:
    """Every letter that is repeated in a row only once."""
    kept: list[tuple[int, str]] = []
    done = 0
    for run in _RUN.finditer(form.text):
        kept += [(i, form.text[i]) for i in range(done, run.start())]
        kept.append((run.start(), run.group(1)))
        done = run.end()
    kept += [(i, form.text[i]) for i in range(done, len(form.text))]
    # The one letter that stands for a run covers all of it.
    found = form.pick(kept)
    following = [place for place, _ in kept[1:]] + [len(form.text)]
    return Form(found.text, found.starts, [form.ends[place - 1] for place in following] if kept else [])
