"""Personal data: found by their form and their check digits, and redacted.

E-mail addresses, telephone numbers (Google's libphonenumber, by region), bank accounts and cards (ISO 7064, Luhn), the
numbers states give to people (`_identifiers`, by country), IP addresses, secrets in URLs, API keys by their issuers'
prefixes, passwords and dates of birth that are named as such. Names only by a model that tags words, any folder with a
token classification head.

A check digit that fits by chance is rare and not impossible: one number of ten has a valid Luhn digit, so a pattern
alone never counts where the check is weak. Left out: addresses, names without a model, and data that is told in prose
("born in the summer of 1980").
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import phonenumbers
from pydantic import Field, field_validator, model_validator
from stdnum import iban, luhn

from posttrain.core.errors import BadRequest, did_you_mean
from posttrain.guard import Action, Finding, TextGuard, overlapping
from posttrain.guard._identifiers import COUNTRIES, IDENTIFIERS, NAMED_WITHIN

Style = Literal["label", "mask", "hash"]

# Every pattern is anchored by what may not stand before it, and bounded, so that none takes more than a few hundred
# steps at any place.
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#:@\[\]]{1,128}:[^\s/?#@\[\]]{1,128}(?=@[\w\[])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f]{0,4}:)[0-9a-f:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])", re.IGNORECASE)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{1,4}){3,9}(?!\w)", re.IGNORECASE | re.ASCII)
_CARD = re.compile(r"(?<![\w.-])(?:[2-6]|1800)(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
# Visa, Mastercard, American Express, Discover and JCB, by first digits and length.
_ISSUED = re.compile(
    r"4\d{15}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|(?:6011|65\d\d|35[2-8]\d)\d{12}"
)
_PHONE = re.compile(r"(?<![\w])(?:[+(（]{1,2} ?)?\d(?:[ \t\u00a0().\-‐–/]{0,3}\d){6,19}(?!\w)")
# Parts of a run of digits that are tried as numbers.
_TRIES = 8
_PHONE_NAMED = re.compile(
    r"\b(?:phones?|tel(?:e(?:phone|fon))?|mobile|cell(?:phone)?|fax|desk|office|home|work|whatsapp|call|dial|sms|numbers?"
    r"|handy|rufnummer|portable|móvil|teléfono|telefono|cellulare)\b[^\d\n]{0,24}\n?$",
    re.IGNORECASE,
)
# Characters before a number in which the word may stand that names it.
_PHONE_NAMED_WITHIN = 40
_EXTENSION = re.compile(r" ?(?:ext\.?|x|#) ?\d{1,7}", re.IGNORECASE)

_SECRETS = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_\w{22,255}"  # GitHub
    r"|glpat-[\w-]{20,64}"  # GitLab
    r"|xox[abeprs]-[0-9A-Za-z-]{10,255}"  # Slack
    r"|AIza[\w-]{35}"  # Google
    r"|[rsp]k_(?:live|test)_[0-9A-Za-z]{16,255}"  # Stripe
    r"|sk-(?:proj-|ant-|or-|svcacct-)?[\w-]{20,255}"  # OpenAI, Anthropic, OpenRouter
    r"|hf_[0-9A-Za-z]{30,64}"  # Hugging Face
    r"|npm_[0-9A-Za-z]{36}|pypi-[\w-]{50,255}"  # package indexes
    r"|SG\.[\w-]{16,32}\.[\w-]{16,64}"  # SendGrid
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000}"  # JSON web tokens
    r")(?![\w-])"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^-]|-(?!----)){16,8000}-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
_PASSWORD = re.compile(
    r"\b(?:password|passwd|passphrase|pwd|api[ _-]?key|secret[ _-]?key|access[ _-]?token|auth[ _-]?token|passwort"
    r"|mot de passe|contraseña|wachtwoord)\b[\"']?(?: is| ist)?\s{0,3}[:=]?\s{0,3}[\"']?"
    r"(?P<value>(?=[^\s\"']{0,127}\d)(?=[^\s\"']{0,127}[^\W\d_])[^\s\"'\[\]]{6,128})",
    re.IGNORECASE,
)
_MONTHS = r"[^\W\d_]{3,10}\.?"
_BIRTH = re.compile(
    r"\b(?:date of birth|birth ?date|birthday|d\.?o\.?b\.?|born(?: on)?|geburtsdatum|geb\.|geboren(?: am)?|née? le"
    r"|date de naissance|fecha de nacimiento|nacid[oa] el|data di nascita|nat[oa] il|geboortedatum)"
    r"(?: is| ist| was)?\s{0,3}[:=]?\s{0,3}"
    rf"(?P<value>\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/. ]{{1,2}}\d{{1,2}}[-/. ]{{1,2}}\d{{2,4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th|er|º|\.)? (?:of |de )?{_MONTHS},? (?:de )?\d{{4}}"
    rf"|{_MONTHS} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\w)",
    re.IGNORECASE,
)

# What a network for names may call them.
_PEOPLE = ("PER", "PERS", "PERSON", "NAME")
_CHARACTERS_PER_TOKEN = 3


class PersonalData(TextGuard):
    """Find data about people and secrets."""

    categories: list[str] | None = None
    """Which kinds to look for; all when not given."""

    countries: list[str] | None = None
    """Whose identity, tax and insurance numbers to look for, as in [us, fr]; all known ones when not given."""

    regions: list[str] = ["US"]
    """Countries whose telephone numbers are recognised without an international prefix."""

    style: Style = "label"
    """What stands in the place of a finding: its kind, a mask of the same length, or its kind with a hash."""

    salt: str = ""
    """Secret of the hash, without which equal data could be found out by trying: a text, or env:NAME of a variable."""

    action: Action = "redact"
    """What becomes of what is found: redact, block or flag."""

    model: str | None = None
    """A network that tags the names of people: a folder or hub:owner/name."""

    threshold: float = Field(0.5, ge=0, le=1)
    """How sure the network must be."""

    @field_validator("categories")
    @classmethod
    def _known_categories(cls, categories: list[str] | None) -> list[str] | None:
        for each in categories or ():
            if each not in CATEGORIES:
                raise ValueError(f"there is no kind '{each}'. {did_you_mean(each, CATEGORIES)}")
        return categories

    @field_validator("countries")
    @classmethod
    def _known_countries(cls, countries: list[str] | None) -> list[str] | None:
        for each in countries or ():
            if each.lower() not in COUNTRIES:
                raise ValueError(f"no numbers of '{each}' are known. {did_you_mean(each, COUNTRIES)}")
        return [each.lower() for each in countries] if countries is not None else None

    @field_validator("regions")
    @classmethod
    def _known_regions(cls, regions: list[str]) -> list[str]:
        for each in regions:
            if each.upper() not in phonenumbers.SUPPORTED_REGIONS:
                raise ValueError(f"there is no telephone region '{each}' (two letters, as in US or DE)")
        return [each.upper() for each in regions]

    @model_validator(mode="after")
    def _hash_needs_salt(self) -> PersonalData:
        if self.style == "hash" and not self.salt:
            raise ValueError("the style `hash` needs a `salt`")
        return self

    def find(self, text: str, whole: bool = True) -> list[Finding]:
        """Personal data, each place once.

        Raises:
            BadRequest: If the variable of the salt isn't set, or the network tags no names.
        """
        wanted = [
            each
            for each in self._candidates(text, whole)
            if self.categories is None or each.category in self.categories
        ]
        rank = {id(each): place for place, each in enumerate(wanted)}
        found = []
        for group in overlapping(wanted):
            surest = min(group, key=lambda each: rank[id(each)])
            end = max(each.end for each in group)
            data = text[group[0].start : end]
            found.append(
                replace(
                    surest,
                    start=group[0].start,
                    end=end,
                    action=self.action,
                    replacement=self._replacement(surest.category, data),
                )
            )
        return found

    def _candidates(self, text: str, whole: bool) -> Iterator[Finding]:
        """Everything that fits, the surest first: where several overlap they are one finding, of the first's kind."""
        yield from _matches(_PRIVATE_KEY, text, "secret", "a private key")
        yield from _matches(_SECRETS, text, "secret", "the form of an API key")
        yield from _matches(_CREDENTIALS, text, "secret", "user and password in a URL")
        yield from _matches(_PASSWORD, text, "secret", "named as a secret")
        yield from _emails(text)
        yield from _ibans(text)
        yield from _matches(_CARD, text, "credit_card", "a card number of a known issuer", _is_issued_card)
        yield from self._identity_numbers(text)
        yield from _matches(_CARD, text, "credit_card", "a card number with a valid check digit", _is_card)
        yield from _matches(_BIRTH, text, "birth_date", "named as a date of birth")
        yield from _matches(_IPV4, text, "ip_address", "an IP address", _is_ip_address)
        yield from _matches(_IPV6, text, "ip_address", "an IP address", _is_ip_address)
        yield from self._phones(text)
        if whole and self.model is not None and text.strip():
            yield from self._names(text, self.model)

    def _identity_numbers(self, text: str) -> Iterator[Finding]:
        for each in IDENTIFIERS:
            if self.countries is not None and each.country not in self.countries:
                continue
            for match in each.pattern.finditer(text):
                before = text[max(0, match.start() - NAMED_WITHIN) : match.start()]
                if (each.named is None or each.named.search(before)) and each.accepts(match.group()):
                    yield Finding(each.category, *match.span(), each.title)

    def _phones(self, text: str) -> Iterator[Finding]:
        for match in _PHONE.finditer(text):
            start, end = match.span()
            if extension := _EXTENSION.match(text, end):
                end = extension.end()
            found = next(
                (each for region in self.regions or ["ZZ"] if (each := _phones_in(text[start:end], region))), []
            )
            for number in found:
                country = phonenumbers.region_code_for_number(number.number) or "international"
                reason = f"a valid telephone number ({country})"
                yield Finding("phone", start + number.start, start + number.end, reason)
            if not found and _is_possible_phone(match.group()):
                before = text[max(0, start - _PHONE_NAMED_WITHIN) : start]
                if match.group().startswith("+") or _PHONE_NAMED.search(before):
                    yield Finding("phone", start, end, "the form of a telephone number, and named as one")

    def _names(self, text: str, reference: str) -> Iterator[Finding]:
        tagger, context = _tagger(reference)
        size = _CHARACTERS_PER_TOKEN * context
        for start in range(0, len(text), size):
            for entity in tagger(text[start : start + size]):
                kind, score = str(entity["entity_group"]).upper(), float(entity["score"])
                if kind in _PEOPLE and score >= self.threshold and entity["end"] > entity["start"]:
                    place = (start + int(entity["start"]), start + int(entity["end"]))
                    yield Finding("name", *place, f"a name, by the network, with {score:.2f}")

    def _replacement(self, category: str, data: str) -> str:
        label = category.upper()
        if self.style == "mask":
            return re.sub(r"[^\W_]", "*", data)
        if self.style == "hash":
            digest = hmac.new(self._secret, data.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]
            return f"[{label}:{digest.translate(_LETTERS_ONLY)}]"  # without digits, which could look like data again
        return f"[{label}]"

    @cached_property
    def _secret(self) -> bytes:
        if not self.salt.startswith("env:"):
            return self.salt.encode()
        name = self.salt.removeprefix("env:")
        if not os.environ.get(name):
            raise BadRequest(f"The variable {name} holds no salt.", f"Set it: export {name}=…")
        return os.environ[name].encode()


CATEGORIES = sorted(
    {each.category for each in IDENTIFIERS}
    | {"secret", "email", "iban", "credit_card", "birth_date", "ip_address", "phone", "name"}
)

_LETTERS_ONLY = str.maketrans("0123456789abcdef", "ghijkmnpqrabcdef")


def _matches(
    pattern: re.Pattern[str], text: str, category: str, reason: str, accepts: Callable[[str], bool] = bool
) -> Iterator[Finding]:
    """A pattern's matches, or their group `value` where it has one, that are accepted."""
    group = "value" if "value" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        if accepts(match.group(group)):
            yield Finding(category, *match.span(group), reason)


def _emails(text: str) -> Iterator[Finding]:
    """Addresses; a password and the host behind it are none."""
    hosts = {match.end() for match in _CREDENTIALS.finditer(text)}
    for match in _EMAIL.finditer(text):
        if match.start() + match.group().index("@") not in hosts:
            yield Finding("email", *match.span(), "an e-mail address")


def _ibans(text: str) -> Iterator[Finding]:
    """Account numbers; a word in capitals behind one may look like a part of it, so shorter readings count too."""
    for match in _IBAN.finditer(text):
        number = match.group()
        ends = [len(number), *(place for place in range(len(number) - 1, 14, -1) if number[place] in " -")]
        if (end := next((each for each in ends if iban.is_valid(number[:each])), None)) is not None:
            yield Finding("iban", match.start(), match.start() + end, "an IBAN with valid check digits")


def _phones_in(text: str, region: str) -> list[phonenumbers.PhoneNumberMatch]:
    return list(phonenumbers.PhoneNumberMatcher(text, region, max_tries=_TRIES))


def _is_possible_phone(text: str) -> bool:
    """Seven to fifteen digits, as international numbers have at most."""
    return 7 <= sum(character.isdigit() for character in text) <= 15


def _is_card(number: str) -> bool:
    digits = re.sub(r"\D", "", number)
    return len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def _is_issued_card(number: str) -> bool:
    return _is_card(number) and _ISSUED.fullmatch(re.sub(r"\D", "", number)) is not None


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.rstrip(":") if text.count(":") > 2 and not text.endswith("::") else text)
    except ValueError:
        return False
    return text.count(":") != 0 or "." in text


@functools.lru_cache(maxsize=2)
def _tagger(reference: str) -> tuple[Callable[[str], Any], int]:
    """A pipeline that tags names, and the tokens it takes at once."""
    import transformers

    from posttrain.models.sources import load

    model = load(reference)
    labels = {str(label).upper().split("-")[-1] for label in (model.network.config.id2label or {}).values()}
    if not type(model.network).__name__.endswith("ForTokenClassification") or not labels & {*_PEOPLE}:
        raise BadRequest(
            f"{reference} doesn't tag names of people.",
            f"Give a network with a token classification head and one of the tags {', '.join(_PEOPLE)}.",
        )
    pipeline: Any = transformers.TokenClassificationPipeline
    tagger = pipeline(model=model.network, tokenizer=model.tokenizer, aggregation_strategy="simple")
    return tagger, model.context_length or 512
