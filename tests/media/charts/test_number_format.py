"""Numbers as format codes show them."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.media.office.number_format import DAY_0, shown

LETTERS = st.text('ymdhsegabYMDHS0#?.,;:/-% "\\[]_*@<>=$Stnrl', max_size=24)


@pytest.mark.parametrize(
    ("number", "code", "label"),
    [
        ("45322", "yyyy\\-mm\\-dd", "2024-01-31"),
        ("45322", "[$-407]d. mmm yyyy", "2024-01-31"),
        ("45322", "[$-F800]dddd, mmmm dd, yyyy;@", "2024-01-31"),
        ("45322", 'd "de" mmmm', "2024-01-31"),
        ("45322", "mmm", "2024-01-31"),
        ("45322", "YYYYMMDD", "2024-01-31"),
        ("45322.375", "d.m.yyyy h:mm", "2024-01-31 09:00"),
        ("45322.375", "yyyymmddhhmmss", "2024-01-31 09:00:00"),
        ("45322.375", "h:mm", "09:00"),
        ("0.75", "h:mm AM/PM", "18:00"),
        ("0.375", "[Red]h:mm", "09:00"),
        ("0.01", "mm:ss", "14:24"),
        ("0.01", "mm:ss.0", "14:24"),
        ("1.125", "[h]:mm", "27:00"),
        ("1.125", "[h]:mm:ss", "27:00:00"),
        ("-0.5", "[h]:mm", "-12:00"),
        ("0.0625", "[mm]:ss", "90:00"),
        ("0.1", "0%", "10%"),
        ("0.1234", "0.0%", "12.3%"),
        ("1", "Standard", "1"),
        ("2", "General", "2"),
        ("3", '"day" 0', "day 3"),
        ("3", "\\d 0", "d 3"),
        ("3", "Estándar", "3"),
        ("1234.5", "#,##0.00", "1,234.50"),
        ("-3", "0;[Red](0)", "(3)"),
        ("0.5", "[<1]0%;0.0", "50%"),
        ("2", "[<1]0%;0.0", "2.0"),
        ("7", "0000", "0007"),
        ("5", "[$€-407] 0", "€ 5"),
        ("0.25", "# ?/?", "0.25"),
        ("1e300", "0", "1e+300"),
        ("1e300", "yyyy", "1e+300"),
        ("-1e9", "h:mm", "-1000000000"),
        ("May", "yyyy", "May"),
        ("", "yyyy", ""),
        ("nan", "h:mm", "nan"),
    ],
)
def test_a_number_is_shown_as_its_format_says(number: str, code: str, label: str) -> None:
    assert shown(number, code, exact=False) == label


def test_dates_are_counted_from_the_calendars_own_first_day() -> None:
    assert shown("0", "yyyy-mm-dd", DAY_0[True], exact=False) == "1904-01-01"
    assert shown("43860", "yyyy-mm-dd", DAY_0[True], exact=False) == "2024-01-31"


@pytest.mark.parametrize("code", ["0%", "0.0", "#,##0", '"x" 0', "General"])
def test_x_values_keep_all_of_their_digits(code: str) -> None:
    assert shown("0.123456", code, exact=True).rstrip("%") in {"0.123456", "12.3456"}


@given(LETTERS, st.floats(allow_nan=True, allow_infinity=True), st.booleans())
def test_no_format_and_no_number_breaks_a_label(code: str, number: float, exact: bool) -> None:
    assert isinstance(shown(repr(number), code, exact=exact), str)


@given(st.sampled_from(["Standard", "General", "Standaard", "Normal", '"dd.mm.yyyy"', "\\d\\m 0"]))
def test_a_letter_of_a_word_is_no_date(code: str) -> None:
    label = shown("45322", code, exact=False)

    assert str(datetime(2024, 1, 31).year) not in label  # noqa: DTZ001 - of no zone
    assert "45322" in label
