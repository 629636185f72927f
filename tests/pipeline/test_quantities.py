"""Numbers for people: digits, units read off names, columns that line up."""

from __future__ import annotations

import pytest

from posttrain.pipeline.quantities import byte_size, duration, label, moment, number, show, show_column, unit_of


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (-3, "−3"),
        (0.0, "0"),
        (18.4273, "18.43"),
        (109.3421, "109.3"),
        (0.97613, "0.9761"),
        (0.0123456, "0.01235"),
        (0.9, "0.9"),
        (2.5e-4, "0.00025"),
        (5e-5, "5e-5"),
        (1.23456e-7, "1.235e-7"),
        (1234.5678, "1,235"),
        (3.2e12, "3.2e12"),
        (-0.123456, "−0.1235"),
        (-5e-5, "−5e-5"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0421, "42.1 ms"),
        (0.0999, "0.1 s"),
        (4.21, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (72, "1 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (-72, "−1 min 12 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (123456, "0.12 MB"),
        (91234567, "91.2 MB"),
        (1234567890, "1,234.6 MB"),
        (15.5e9, "15.5 GB"),
        (-91234567, "−91.2 MB"),
    ],
)
def test_byte_size(size: float, text: str) -> None:
    assert byte_size(size) == text


@pytest.mark.parametrize(
    ("name", "unit", "shown"),
    [
        ("bytes", "bytes", "size"),
        ("bytes_before", "bytes", "size before"),
        ("Bytes of weights", "bytes", "Size of weights"),
        ("bits_per_byte", None, "bits per byte"),
        ("bytes_per_token", None, "bytes per token"),
        ("size in bytes", None, "size in bytes"),
        ("seconds", "seconds", "time"),
        ("prefill_seconds", "seconds", "prefill time"),
        ("tokens_per_second", None, "tokens per second"),
        ("peak_memory_mb", "MB", "peak memory"),
        ("memory_gb", "GB", "memory"),
        ("trainable_share", "share", "trainable share"),
        ("perplexity", None, "perplexity"),
        ("", None, ""),
    ],
)
def test_unit_and_label_come_from_the_name(name: str, unit: str | None, shown: str) -> None:
    assert unit_of(name) == unit
    assert label(name) == shown


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (None, "x", "–"),
        (True, "passed", "yes"),
        ([17.2011, 19.7409], "interval", "17.20 to 19.74"),
        ([1, 2, 3], "layers", "1, 2, 3"),
        ([], "layers", "–"),
        ({"bytes": 91234567, "n": 3}, "x", "size 91.2 MB, n 3"),
        (0.003419, "trainable_share", "0.342 %"),
        (1.0, "share", "100 %"),
        (1843.2, "peak_memory_mb", "1,843 MB"),
        (15.62, "memory_gb", "15.6 GB"),
        (float("nan"), "bytes", "–"),
        ("text", "bytes", "text"),
    ],
)
def test_show(value: object, name: str, text: str) -> None:
    assert show(value, name) == text


def test_column_shares_its_decimals() -> None:
    # The largest, 109.3, has four digits with one decimal; the smallest keeps two digits with it.
    assert show_column([18.4273, 109.3421, 7.25], "perplexity", ["", "", ""]) == ["18.4", "109.3", "7.2"]
    # 0.0031 would lose its digits, so every cell is shown by itself.
    assert show_column([18.4273, 0.0031], "value", ["", ""]) == ["18.43", "0.0031"]
    # Decimals that are zero in every cell are dropped.
    assert show_column([0.5, 0.25], "rate", ["", ""]) == ["0.50", "0.25"]
    assert show_column([1, 2, 3], "n", ["", "", ""]) == ["1", "2", "3"]


def test_column_units_come_from_its_name_or_else_from_its_rows() -> None:
    assert show_column([269060000, 91234567], "bytes", ["seconds", "b"]) == ["269.1 MB", "91.2 MB"]
    assert show_column([269060000, 18.9121, None], "before", ["bytes", "perplexity", "x"]) == ["269.1 MB", "18.91", "–"]


def test_moment() -> None:
    assert moment("2026-03-01T14:05:27+00:00") == "1 March 2026, 14:05 UTC"
    assert moment("2026-12-31T23:59:00+02:00") == "31 December 2026, 23:59 UTC+02:00"
    assert moment("2026-12-31T23:59:00") == "31 December 2026, 23:59"
    assert moment("yesterday") == "yesterday"
