import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core.errors import MissingExtraError
from uncollapse.plugins.environments import verifiers
from uncollapse.plugins.environments.verifiers import exact, math, tagged


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("42", "42"),
        (" 42. ", "42"),
        ("1234", "1,234"),
        ("1,234", "1234"),
        ("$1,234.00", "1234"),
        ("\\$18", "18"),
        ("18", "\\$18"),
        ("42 apples", "42"),
        ("the answer is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("x = 7", "7"),
        ("0.5", "1/2"),
        ("\\frac{1}{2}", "0.5"),
        ("$\\frac{2}{4}$", "\\frac{1}{2}"),
        ("\\boxed{7}", "7"),
        ("-3", "-3"),
        ("50%", "50%"),
        ("(3,4)", "(3, 4)"),
        ("1 + x^2", "x^2 + 1"),
        ("2\\sqrt{3}", "\\sqrt{12}"),
        ("yes", "Yes"),
        ("New  York", "new york"),
    ],
)
def test_right(answer, gold):
    assert math(answer, gold) is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("43", "42"),
        ("-42", "42"),
        ("42.5", "42"),
        ("10:45", "10:30"),
        ("4", "(3, 4)"),
        ("7 or 8", "7"),
        ("1 2", "12"),
        ("sey", "yes"),
        ("0", "1/2"),
        ("9**9**9**9", "7"),
        ("7", "7" * 300),
    ],
)
def test_wrong(answer, gold):
    assert math(answer, gold) is False


@pytest.mark.parametrize("answer", ["", "   ", "I do not know", "7" * 500, "\x00", "\ud800", "(" * 150])
def test_not_to_be_read(answer):
    assert not math(answer, "7")


@settings(max_examples=60)
@given(answer=st.text(max_size=60), gold=st.sampled_from(["7", "\\frac{1}{2}", "yes", "(3, 4)"]))
def test_free_text_is_never_an_error(answer, gold):
    assert math(answer, gold) in (True, False, None)


@settings(max_examples=60)
@given(answer=st.text(alphabet="0123456789+-*/^(){}\\$!.=<>,x ", max_size=14))
def test_formulas_are_never_an_error(answer):
    assert math(answer, "7") in (True, False, None)


@given(number=st.integers(-(10**6), 10**6), other=st.integers(-(10**6), 10**6))
def test_integers(number, other):
    assert math(f"{number:,}", str(number)) is True
    assert math(str(number), str(other)) is (number == other)


def test_outside_the_main_thread():
    verifiers._parse.cache_clear()
    found = []
    thread = threading.Thread(target=lambda: found.extend([math("2 * 21", "42"), math("2 * 22", "42")]))
    thread.start()
    thread.join()
    assert found == [True, False]


def test_without_the_library(monkeypatch):
    verifiers._parse.cache_clear()
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingExtraError, match="math-verify is not installed"):
        math("7", "7")
    assert exact("7", "7")


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Paris", "paris", True),
        (" new \n york. ", "New York", True),
        ("４２", "42", True),
        ("42.0", "42", False),
        ("Paris!", "Paris", False),
        (" . ", "Paris", None),
        ("", "", None),
    ],
)
def test_exact(answer, gold, right):
    assert exact(answer, gold) is right


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>6 * 7</think><answer>42</answer>", "42"),
        ("<think>6 * 7 <answer>\n 42 </answer> and more", "42"),
        ("<answer></answer>", ""),
        ("<think>42", None),
        ("<answer>42", None),
        ("42</answer>", None),
        ("</answer>42<answer>", None),
        ("<answer>42</answer><answer>42</answer>", None),
        ("<answer><answer>42</answer>", None),
        ("<answer>42</answer></answer>", None),
    ],
)
def test_exactly_one_answer_block(response, answer):
    assert tagged(response) == answer
