"""Numbers that states and banks give to people, by country: how they are written, and who checks them.

The checks (check digits, dates inside the number, ranges never issued) are python-stdnum's. A number whose check lets
many others through, or that has none, counts only in its usual punctuation or behind a word that names it.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

# How far before a number the word may stand that names it.
NAMED_WITHIN = 40

_ALONE = r"(?<![\w.-]){}(?![\w-]|\.\d)"


@dataclass(frozen=True)
class Identifier:
    """A kind of number.

    Attributes:
        country: ISO 3166 code of the country, lower case.
        category: What it is called in findings.
        title: What it is called in reasons.
        module: Its module in python-stdnum; empty where the pattern is all there is.
        pattern: How it is written.
        named: Words one of which must stand before it; empty if the number speaks for itself.
    """

    country: str
    category: str
    title: str
    module: str
    pattern: re.Pattern[str]
    named: re.Pattern[str] | None = None

    def accepts(self, number: str) -> bool:
        """Whether the number passes its check."""
        return not self.module or bool(_module(self.module).is_valid(number))


@lru_cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f"stdnum.{name}")


def _identifier(country: str, category: str, title: str, module: str, pattern: str, named: str = "") -> Identifier:
    words = re.compile(rf"\b(?:{named})\b", re.IGNORECASE) if named else None
    return Identifier(country, category, title, module, re.compile(_ALONE.format(f"(?:{pattern})"), re.I), words)


IDENTIFIERS = (
    # The pattern has the ranges that are issued; specimens that were printed on cards count too.
    _identifier(
        "us",
        "ssn",
        "the form of a US social security number",
        "",
        r"(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}",
    ),
    _identifier("us", "ssn", "a US social security number", "us.ssn", r"\d{3} ?\d{2} ?\d{4}", "ssn|social security.*"),
    _identifier("us", "tax_number", "a US taxpayer number", "us.itin", r"9\d{2}-\d{2}-\d{4}"),
    _identifier("ca", "social_insurance", "a Canadian social insurance number", "ca.sin", r"\d{3}-\d{3}-\d{3}"),
    _identifier(
        "ca", "social_insurance", "a Canadian social insurance number", "ca.sin", r"\d{3} ?\d{3} ?\d{3}", "sin|nas"
    ),
    _identifier(
        "gb",
        "national_insurance",
        "a British national insurance number",
        "",
        r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]",
    ),
    _identifier("gb", "health_number", "an NHS number", "gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}", "nhs.*"),
    _identifier(
        "fr",
        "nir",
        "a French social security number (NIR)",
        "fr.nir",
        r"[12378] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}",
    ),
    _identifier(
        "fr", "tax_number", "a French tax number", "fr.nif", r"[0-3]\d ?\d{2} ?\d{3} ?\d{3} ?\d{3}", "fiscal|spi|nif"
    ),
    _identifier("de", "tax_number", "a German tax number", "de.idnr", r"\d{2} \d{3} \d{3} \d{3}"),
    _identifier(
        "de",
        "tax_number",
        "a German tax number",
        "de.idnr",
        r"\d{11}",
        "steuer.*|idnr|id-nr|tin|tax",
    ),
    _identifier("at", "social_security", "an Austrian insurance number", "at.vnr", r"\d{4} ?\d{6}", "sv.*|versich.*"),
    _identifier("ch", "social_security", "a Swiss AHV number", "ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}"),
    _identifier("es", "dni", "a Spanish DNI", "es.dni", r"\d{8}[ -]?[A-Z]"),
    _identifier("es", "nie", "a Spanish NIE", "es.nie", r"[XYZ][ -]?\d{7}[ -]?[A-Z]"),
    _identifier("pt", "citizen_card", "a Portuguese citizen card number", "pt.cc", r"\d{8} ?\d ?[A-Z0-9]{2}\d"),
    _identifier(
        "it",
        "codice_fiscale",
        "an Italian codice fiscale",
        "it.codicefiscale",
        r"[A-Z]{6} ?[0-9LMNP-V]{2} ?[A-EHLMPR-T][0-9LMNP-V]{2} ?[A-Z][0-9LMNP-V]{3} ?[A-Z]",
    ),
    _identifier(
        "nl", "bsn", "a Dutch BSN", "nl.bsn", r"\d{4}\.?\d{2}\.?\d{3}|\d{3}[. ]\d{3}[. ]\d{3}", "bsn|burger.*|sofi.*"
    ),
    _identifier("be", "national_number", "a Belgian national number", "be.nn", r"\d{2}\.\d{2}\.\d{2}-\d{3}[.-]\d{2}"),
    _identifier("be", "national_number", "a Belgian national number", "be.nn", r"\d{11}", "rijks.*|national.*|nn|nr"),
    _identifier("ie", "pps", "an Irish PPS number", "ie.pps", r"\d{7}[A-W][AHWTX]?", "pps.*"),
    _identifier("pl", "pesel", "a Polish PESEL", "pl.pesel", r"\d{11}", "pesel"),
    _identifier("se", "personal_number", "a Swedish personal number", "se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),
    _identifier("dk", "cpr", "a Danish CPR number", "dk.cpr", r"\d{6}-\d{4}"),
    _identifier("no", "national_number", "a Norwegian national number", "no.fodselsnummer", r"\d{6} ?\d{5}"),
    _identifier("fi", "hetu", "a Finnish personal number", "fi.hetu", r"\d{6}[-+ABCDEFYXWVU]\d{3}[0-9A-Y]"),
    _identifier("br", "cpf", "a Brazilian CPF", "br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    _identifier("br", "cpf", "a Brazilian CPF", "br.cpf", r"\d{11}", "cpf"),
    _identifier("mx", "curp", "a Mexican CURP", "mx.curp", r"[A-Z]{4}\d{6}[A-Z]{6}[0-9A-Z]\d"),
    _identifier("in", "aadhaar", "an Indian Aadhaar number", "in_.aadhaar", r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}"),
    _identifier("in", "pan", "an Indian PAN", "in_.pan", r"[A-Z]{5}\d{4}[A-Z]"),
    _identifier("cn", "identity_card", "a Chinese identity number", "cn.ric", r"\d{17}[0-9X]"),
    _identifier("kr", "registration_number", "a Korean registration number", "kr.rrn", r"\d{6}-\d{7}"),
    _identifier("au", "tax_number", "an Australian tax file number", "au.tfn", r"\d{3} ?\d{3} ?\d{3}", "tfn|tax.*"),
    _identifier("za", "identity_number", "a South African identity number", "za.idnr", r"\d{6} ?\d{4} ?\d{2} ?\d"),
    _identifier(
        "eu",
        "vat",
        "a European VAT number",
        "eu.vat",
        r"(?-i:AT|BE|BG|CY|CZ|DE|DK|EE|EL|ES|FI|FR|HR|HU|IE|IT|LT|LU|LV|MT|NL|PL|PT|RO|SE|SI|SK)"
        r" ?[0-9A-Z]{2}[0-9]{5,9}[0-9A-Z]{0,3}",
    ),
)

COUNTRIES = sorted({each.country for each in IDENTIFIERS})
