"""The tool ``calculator`` calculates exactly and runs nothing."""

import re

import pytest
from uncollapse.plugins.environments.tools.calculator import Calculator, calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 * 7", "84"),
        ("(12 + 7.5) * 3", "58.5"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333"),
        ("-1/8000000", "-0.000000125"),
        ("10**30 / 3", "3.33333333333E+29"),
        ("-2 ** 2", "-4"),
        ("2 ^ 10", "1024"),
        ("3 × 4 ÷ 2 − 1", "5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("1_000 * 2", "2000"),
        ("1e5", "100000"),
        ("2 ** -2", "0.25"),
        ("0 ** 0", "1"),
        ("99999999999999999999 + 1", "100000000000000000000"),
    ],
)
def test_values_are_exact_or_rounded_to_12_digits(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("9**9**9", "the result is too large"),
        ("1e9999", "the result is too large"),
        ("1e99999999999", "the result is too large"),
        ("5 % 0", "nothing can be divided by zero"),
        ("0 ** -1", "nothing can be divided by zero"),
        ("2 ** 0.5", "a power must be a whole number"),
        ("1,234 + 1", "numbers are written without commas"),
        ("__import__('os').system('ls')", "is not arithmetic"),
        ("a + 1", "'a' is not arithmetic"),
        ("True + 1", "'True' is not arithmetic"),
        ("'a' * 3", "is not arithmetic"),
        ("[1] * 3", "is not arithmetic"),
        ("1 if 1 else 2", "is not arithmetic"),
        ("1 < 2", "is not arithmetic"),
        ("0x10", "'0x10' is no decimal number"),
        ("1j", "is not arithmetic"),
        ("", "is not arithmetic"),
        ("1 +", "is not arithmetic"),
        ("(" * 150, "is not arithmetic"),
        ("1\0", "is not arithmetic"),
        ("1" * 201, "the expression has 201 characters, at most 200 are read"),
    ],
)
def test_what_is_no_arithmetic_is_told(expression, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        calculator(expression)


def test_the_tool_set_calls_it():
    assert Calculator().start(0, 0).call("calculator", {"expression": "6 * 7"}) == "42"
