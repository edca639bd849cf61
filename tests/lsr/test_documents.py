"""Dates in metadata."""

from datetime import UTC, date, datetime

import pytest

from lsr.documents import change_of, date_of, metadata_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-31", date(2025, 1, 31)),
        ("2025-01-31T12:00", datetime(2025, 1, 31, 12, tzinfo=UTC)),
        ("2025-01-31 12:00:01", datetime(2025, 1, 31, 12, 0, 1, tzinfo=UTC)),
        ("2025-01-31t12:00:00z", datetime(2025, 1, 31, 12, tzinfo=UTC)),
        ("2025-01-31T12:00:00+01:30", datetime(2025, 1, 31, 10, 30, tzinfo=UTC)),
        ("2025-01-31T23:00-0500", datetime(2025, 2, 1, 4, tzinfo=UTC)),
        ("2025-01-31T23:00-05", datetime(2025, 2, 1, 4, tzinfo=UTC)),
        ("2025-01-31T12:00:00.5Z", datetime(2025, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2025-01-31T12:00:00,123456789", datetime(2025, 1, 31, 12, 0, 0, 123_456, tzinfo=UTC)),
        ("0001-01-01", date(1, 1, 1)),
        ("9999-12-31T23:59:59.999999", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_iso_8601_dates_are_read_in_utc(text, expected):
    assert date_of(text) == expected
    assert type(date_of(text)) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("", "2025", "2025-01", "20250131", "2025-W05-5", "2025-1-31", "25-01-31", "31-01-2025"),
        *("2025-02-30", "2025-13-01", "0000-01-01", " 2025-01-31", "2025-01-31 ", "2025-01-31T"),
        *("2025-01-31T12", "2025-01-31T24:00", "2025-01-31T12:60", "2025-01-31T12:00:60"),
        *("2025-01-31T12:00+25:00", "2025-01-31T12:00 Z", "2025-01-31Z", "on 2025-01-31"),
        *("0001-01-01T00:00+01:00", "9999-12-31T23:00-02:00", "२०२५-०१-३१"),
    ],
)
def test_other_texts_are_no_dates(text):
    assert date_of(text) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"": 1}, "a key of metadata must not be empty, got ''$"),
        ({"x": {"": 1}}, "a key of metadata must not be empty, got '' inside 'x'"),
        ({"k" * 1001: 1}, "at most 1,000 characters, got 1,001: k{40}…"),
        ({"k" * 600: {"k" * 600: 1}}, "at most 1,000 characters, got 1,201"),
    ],
)
def test_keys_that_no_filter_could_name_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        metadata_of(given)
    with pytest.raises(ValueError, match=told):
        change_of("d1", given)
