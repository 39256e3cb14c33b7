from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.environments.arithmetic import MAX_LENGTH, parse


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("7", 7, (7,)),
        ("1+2*3", 7, (1, 2, 3)),
        ("(1+2)*3", 9, (1, 2, 3)),
        (" ( 1 + 2 ) * 3 \n", 9, (1, 2, 3)),
        ("8-3-2", 3, (8, 3, 2)),  # from the left
        ("8-(3-2)", 7, (8, 3, 2)),
        ("24/4/2", 3, (24, 4, 2)),
        ("1/3*3", 1, (1, 3, 3)),  # exact
        ("10-2/3", Fraction(28, 3), (10, 2, 3)),
        ("((((5))))", 5, (5,)),
        ("007", 7, (7,)),
        ("1/0", None, (1, 0)),
        ("2*(3/(4-4))+5", None, (2, 3, 4, 4, 5)),
    ],
)
def test_values(text, value, numbers):
    expression = parse(text)
    assert expression.value == value
    assert expression.numbers == numbers


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1+", "+1", "-1", "1 2", "(1", "1)", "()", "1+*2", "2**3", "7//2", "1.5", "1=1", "1+2=3", "x", "²"),
        *("__import__('os')", "1e3", "1_000", "0x10", "1,2", "٣", "1+2 = ", "(" * 60 + ")" * 60),
        "1+" * MAX_LENGTH + "1",
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_the_deepest_expression_that_fits_is_read():
    depth = (MAX_LENGTH - 1) // 2
    assert parse("(" * depth + "1" + ")" * depth).value == 1


trees = st.recursive(st.integers(0, 99), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner), max_leaves=6)


def show(tree):
    return str(tree) if isinstance(tree, int) else f"({show(tree[0])} {tree[1]} {show(tree[2])})"


def compute(tree):
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = compute(tree[0]), compute(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[tree[1]](right)


@given(trees)
def test_agrees_with_fractions(tree):
    try:
        expected = compute(tree)
    except ZeroDivisionError:
        expected = None
    assert parse(show(tree)).value == expected


@given(st.text(alphabet="0123456789+-*/() x", max_size=30))
def test_noise_is_read_or_refused(text):
    try:
        value = parse(text).value
    except ValueError:
        return
    assert value is None or isinstance(value, Fraction)
