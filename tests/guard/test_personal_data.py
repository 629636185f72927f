"""Personal data, by kind; check digits are worked out beside the numbers."""

from __future__ import annotations

import pytest

from posttrain.core.errors import BadRequest
from posttrain.guard.personal_data import CATEGORIES, PersonalData
from posttrain.models.saving import save
from tiny_models import make_tiny_bert


def found(text: str, **settings: object) -> list[tuple[str, str]]:
    guard = PersonalData.parse(settings)
    return [(each.category, text[each.start : each.end]) for each in guard.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+news@mail.example.co.uk.", [("email", "jane.doe+news@mail.example.co.uk")]),
        ("mailto:joe@exämple.de, a@b", [("email", "joe@exämple.de")]),
        ("call (212) 555-0187 ext. 12 now", [("phone", "(212) 555-0187 ext. 12")]),
        ("call +33 1 42 68 53 00.", [("phone", "+33 1 42 68 53 00")]),
        ("my mobile: 0912 345 67 89", [("phone", "0912 345 67 89")]),  # no valid number, but named as one
        ("order 0912 345 67 89 12", []),
        # Luhn: every second digit from the right but one doubled, 8 + 7 · 2 + 8 · 1 = 30.
        ("card 4111 1111-1111 1111", [("credit_card", "4111 1111-1111 1111")]),
        ("card 4111 1111 1111 1112", []),
        # The account with DE89 as 131489 behind it is 1 modulo 97.
        ("IBAN DE89 3704 0044 0532 0130 00 AND MORE", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("iban de89370400440532013000", [("iban", "de89370400440532013000")]),
        ("IBAN DE88 3704 0044 0532 0130 00", []),
        ("at 192.168.0.1:80, v1.2.3 and 300.1.1.1", [("ip_address", "192.168.0.1")]),
        ("at 2001:db8::8a2e:370:7334 at 12:30:45", [("ip_address", "2001:db8::8a2e:370:7334")]),
        ("see https://joe:s3cret@example.org/x", [("secret", "joe:s3cret")]),
        ("password: hunter22; token ring", [("secret", "hunter22;")]),
        ("the password is important", []),
        ("DOB: 12/03/1980, born on March 12, 1980", [("birth_date", "12/03/1980"), ("birth_date", "March 12, 1980")]),
        ("geboren am 12. März 1980; met on 12/03/1980", [("birth_date", "12. März 1980")]),
        ("SSN 123-45-6789, not 000-45-6789 or 123-45-67890", [("ssn", "123-45-6789")]),
        ("social security no. 123456789", [("ssn", "123456789")]),
        ("order 123456789", []),
    ],
)
def test_kinds(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "key",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1" * 18,
        "hf_" + "aB" * 17,
        "sk-" + "proj-" + "x1" * 20,
        "xoxb" + "-123456789012-abcdef",
        "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 20,
        "-----BEGIN PRIVATE" + " KEY-----\n" + "MIIE" * 20 + "\n-----END PRIVATE KEY-----",
    ],
)
def test_keys_by_their_issuers(key):
    assert found(f"use {key} here") == [("secret", key)]
    assert found(f"use x{key.replace('-----', '--')}") == []


@pytest.mark.parametrize(
    ("country", "category", "number", "wrong"),
    [
        # 97 - 2550814168025 mod 97 = 38.
        ("fr", "nir", "2 55 08 14 168 025 38", "2 55 08 14 168 025 39"),
        # 54362315 mod 23 = 21, the letter at place 21 from 0 in TRWAGMYFPDXBNJZSQVHLCKE.
        ("es", "dni", "54362315K", "54362315A"),
        # 9·1+8·1+7·1+6·2+5·2+4·2+3·3+2·3-3 = 66 = 6 · 11.
        ("nl", "bsn", "BSN 111222333", "BSN 111222334"),
        ("it", "codice_fiscale", "RCCMNL83S18D969H", "RCCMNL83S18D969G"),
        ("gb", "health_number", "NHS 943 476 5919", "NHS 943 476 5918"),
        ("pl", "pesel", "PESEL 44051401359", "PESEL 44051401358"),
        ("br", "cpf", "390.533.447-05", "390.533.447-06"),
        ("ch", "social_security", "756.9217.0769.85", "756.9217.0769.84"),
        ("fi", "hetu", "131052-308T", "131052-308U"),
        ("be", "national_number", "85.07.30-033.28", "85.07.30-033.29"),
        ("eu", "vat", "DE136695976", "DE136695978"),
    ],
)
def test_identity_numbers_need_their_check_digits(country, category, number, wrong):
    settings = {"countries": [country], "categories": [category]}
    digits = number.split(maxsplit=1)[1] if number.startswith(("BSN", "NHS", "PESEL")) else number
    assert found(f"it is {number}.", **settings) == [(category, digits)]
    assert found(f"it is {wrong}.", **settings) == []
    other = "us" if country != "us" else "fr"
    assert found(f"it is {number}.", countries=[other], categories=[category]) == []


def test_weak_numbers_need_their_name():
    assert found("BSN 111222333", countries=["nl"], categories=["bsn"]) == [("bsn", "111222333")]
    assert found("row 111222333", countries=["nl"], categories=["bsn"]) == []


def test_regions_decide_about_national_numbers():
    assert found("line 030 901820", regions=["US"]) == []
    assert found("line 030 901820", regions=["DE"]) == [("phone", "030 901820")]


def test_of_overlapping_kinds_the_surest_counts():
    """The host of the URL is no e-mail address's, and an account number's digits are no telephone number."""
    text = "https://joe:pass@mail.example.org DE89370400440532013000"
    assert [each for each, _ in found(text)] == ["secret", "iban"]


def test_styles():
    text = "Mail a.b@example.org!"
    assert PersonalData().inspect(text).text == "Mail [EMAIL]!"
    assert PersonalData(style="mask").inspect(text).text == "Mail *.*@*******.***!"
    one = PersonalData(style="hash", salt="x").inspect(text).text
    again = PersonalData(style="hash", salt="x").inspect(f"{text} {text}").text
    assert one.startswith("Mail [EMAIL:") and again == f"{one} {one}"
    assert PersonalData(style="hash", salt="y").inspect(text).text != one
    assert PersonalData(style="hash", salt="x").inspect(one).findings == []
    assert PersonalData(action="flag").inspect(text).text == text
    assert PersonalData(action="block").inspect(text).action == "block"


def test_a_salt_may_lie_in_the_environment(monkeypatch):
    guard = PersonalData(style="hash", salt="env:SALT_OF_TEST")
    monkeypatch.delenv("SALT_OF_TEST", raising=False)
    with pytest.raises(BadRequest, match="SALT_OF_TEST holds no salt"):
        guard.find("a.b@example.org")
    monkeypatch.setenv("SALT_OF_TEST", "x")
    expected = PersonalData(style="hash", salt="x").inspect("a.b@example.org").text
    assert PersonalData(style="hash", salt="env:SALT_OF_TEST").inspect("a.b@example.org").text == expected


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"categories": ["emial"]}, "Did you mean 'email'"),
        ({"countries": ["zz"]}, "no numbers of 'zz'"),
        ({"regions": ["XX"]}, "no telephone region 'XX'"),
        ({"style": "hash"}, "needs a `salt`"),
    ],
)
def test_refusals(settings, told):
    with pytest.raises(BadRequest, match=told):
        PersonalData.parse(settings)


def test_every_kind_has_a_name():
    assert {"email", "phone", "iban", "credit_card", "name", "ssn", "nir", "dni", "bsn", "vat"} <= {*CATEGORIES}


def test_names_by_a_network(tmp_path):
    """A head without weights whose bias says B-PER of every token."""
    import torch

    from posttrain.models.heads import give_head

    model = make_tiny_bert()
    give_head(model, "token_classification", ["O", "B-PER"])
    with torch.no_grad():
        model.network.classifier.weight.zero_()
        model.network.classifier.bias.copy_(torch.tensor([0.0, 2.0]))  # softmax: 0.119, 0.881
    save(model, tmp_path / "tagger")
    guard = PersonalData(model=str(tmp_path / "tagger"))
    assert {(each.category, each.reason) for each in guard.find("the dog")} == {
        ("name", "a name, by the network, with 0.88")
    }
    assert guard.find("") == []
    assert PersonalData(model=str(tmp_path / "tagger"), threshold=0.9).find("the dog") == []
    save(make_tiny_bert(), tmp_path / "plain")
    with pytest.raises(BadRequest, match="doesn't tag names"):
        PersonalData(model=str(tmp_path / "plain")).find("the dog")
