import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
import uncollapse
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core import asked_process
from uncollapse.core.errors import MissingExtraError
from uncollapse.plugins.verifiers import math_process
from uncollapse.plugins.verifiers.numerals import close, read_number
from uncollapse.plugins.verifiers.verifiers import Math, choice, exact, math, tagged


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
        # numbers, however they are written
        ("1e-3", "0.001"),
        ("0.001", "1e-3"),
        ("6.02×10^23", "6.02e23"),
        ("1.5", "1 1/2"),
        ("11 5/6", "\\frac{71}{6}"),
        ("-3\\frac{1}{2}", "-3.5"),
        ("½", "0.5"),
        ("3½", "3.5"),
        ("10²", "100"),
        ("√2", "\\sqrt{2}"),
        ("2√3", "\\sqrt{12}"),
        ("3×4", "12"),
        ("−5", "-5"),
        ("0x10", "16"),
        ("1010_2", "10"),
        ("1 234", "1234"),
        ("1{,}234", "1234"),
        ("50%", "0.5"),
        ("0.5", "50 percent"),
        ("50", "50%"),
        ("0.\\overline{3}", "1/3"),
        ("0.333333", "1/3"),
        ("3.14159265", "\\pi"),
        ("€5", "5"),
        ("5 = x", "5"),
        ("10!", "3628800"),
        ("0.1\\overline{6}", "1/6"),
        # formulas
        ("sqrt(16)", "4"),
        ("2^0.5", "\\sqrt{2}"),
        ("x²", "x^2"),
        ("2ba", "2ab"),
        ("(2)(3)", "6"),
        ("∞", "\\infty"),
        ("x≥3", "x \\ge 3"),
        ("[1,2)", "[1, 2)"),
        ("2, 1", "1 and 2"),
        ("\\frac{\\log 3}{\\log 2}", "\\log_2 3"),
        ("32348", "\\$32,\\!348"),
        ("so $\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}$", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("5, -5", "\\pm 5"),
        ("The area is $\\frac{\\pi}{2}$.", "\\pi/2"),
        # the answer among words
        ("Final Answer: **73**", "73"),
        ("There are 3 boxes of 12, so 36", "36"),
        ("5", "5 cm"),
        ("5 cm", "5"),
        ("42\\text{ cm}^2", "42 cm²"),
        ("5", "5 m/s"),
        ("20", "20°C"),
        ("90°", "90 degrees"),
        ("The answer is—5", "5"),
        ("the answer is not 6, it is 7", "7"),
        ("It is 8, not 7", "8"),
        ("“5”", "5"),
        ("≈5", "5"),
        ("3 + 2 = 5\n#### 5", "5"),
        ("5 USD", "$5"),
        ("£5", "5"),
        ("5 hours 30 minutes", "5 hours 30 minutes"),
        # other spellings of numbers, and characters that nobody sees
        ("0xFF", "255"),
        ("255", "0xff"),
        ("\u200b42", "42"),
        ("42", "\ufeff42\u200e"),
        ("New York", "New\u200b York"),
        ("\\varnothing", "\\emptyset"),
        # text
        ("2024-01-15", "2024-01-15"),
        ("3–5", "3-5"),
        ("12 : 30", "12:30"),
        ("H2O", "H2O"),
        ("It starts at $12:30$.", "12:30"),
        ("The winner is $\\text{Evelyn}$.", "\\text{Evelyn}"),
        ("\\text{no solution}", "no solution"),
        ("A", "A"),
        ("The answer is A", "A"),
        ("A) Paris", "A"),
        ("(A)", "\\text{(A)}"),
        ("**A**", "A"),
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
        ("sey", "yes"),
        ("0", "1/2"),
        ("7", "7" * 300),
        # what is no expression is text
        ("2008", "2024-01-15"),
        ("1/30360", "01/15/2024"),
        ("2-4", "3-5"),
        ("-2", "3-5"),
        ("-2", "$3 - $5"),
        ("455", "555-0100"),
        ("-4012", "(555) 123-4567"),
        ("1:00", "12:00"),
        ("0.4", "12:30"),
        ("1.5", "3:2"),
        ("0", "192.168.0.1"),
        ("0.36", "1.2.3"),
        ("2HO", "H2O"),
        ("0", "0x10"),
        ("1, 3, 5, \\ldots, 2n-1", "1, 2, \\ldots, n"),
        ("5 m", "5 cm"),
        ("£5", "$5"),
        ("5 EUR", "$5"),
        ("It is 8, not 7", "7"),
        ("the total is—5", "-5"),
        ("0xFF", "0"),
        ("0xfe", "0xff"),
        ("10pm", "10am"),
        ("B", "A"),
        ("102", "10²"),
        # numbers are exact, however large, small or close
        ("9007199254740993", "9007199254740992"),
        ("0.30000000000000004", "0.3"),
        ("333333", "1000000/3"),
        ("0.333", "1/3"),
        ("2e-9", "1e-9"),
        ("\\frac{1}{2^{98}}", "\\frac{1}{2^{99}}"),
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
        ("\\frac{1}{3 \\cdot 2^{2006}}", "\\frac{2^{2005}+1}{3 \\cdot 2^{2006}}"),
        ("1 + \\frac{1}{e}", "1 - \\frac{1}{e}"),
        ("1e400", "1e401"),
        ("50", "0.5"),
        ("1010", "1010_2"),
        # a part of the answer is not the answer
        ("4", "4\\sqrt(2)"),
        ("2", "2 2/3"),
        ("10", "4 10/3"),
        ("2021", "\\pm 2021"),
        ("1728", "1331 and 1728"),
        ("n=1, 2, 3", "n=2, 3, 4"),
        ("D = (0, 1.5)", "D = (0, 1)"),
        ("3x + 4y + 14=0", "3*x-1*y+13=0"),
        ("x=5", "y=5"),
        ("(2)(3)", "5"),
        ("2", "2ab"),
        ("5", "5m"),
        ("5 x", "5"),
    ],
)
def test_wrong(answer, gold):
    assert math(answer, gold) is False


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "   ",
        "I do not know",
        "7" * 500,
        "\x00",
        "\ud800",
        "(" * 150,
        "1 2",
        "seven",
        "#7",
        "v7.0.7",
        "not 7",
        "It isn't 7",
        "it cannot be 7",
        "3 remainder 7",
        "5 ft 7 in",
        "2 hours and 7 minutes",
        "7:30",
    ],
)
def test_not_to_be_read(answer):
    assert math(answer, "7") is None


@pytest.mark.parametrize(
    "answer", ["9**9**9**9", "5^{5^{5^{5^5}}}", "10^{99999999}", "99999999!", "9!!!!", "2^{{3^{4^5}}}"]
)
def test_what_would_take_for_ever_is_not_even_tried(answer, monkeypatch):
    monkeypatch.setattr(asked_process.subprocess, "Popen", None)
    assert math(answer, "7") is None


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["\\binom{99999999}{49999999}", "9999!^{9999}"])
def test_what_takes_too_long_cannot_be_read_in_any_thread(answer):
    assert math("2 \\cdot 21", "42") is True
    found = [math(answer, "7")]
    thread = threading.Thread(target=lambda: found.append(math(answer, "8")))
    thread.start()
    thread.join()
    assert found == [None, None]
    assert math("2 \\cdot 22", "44") is True


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


def test_several_threads_ask_one_process():
    found = {}

    def ask(number):
        found[number] = [math(f"{number} * 21", str(21 * number)), math(f"{number} * 21", str(22 * number))]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True, False] for number in range(2, 10)}


def test_a_process_that_was_killed_is_started_again():
    assert math("3 * 5", "15") is True
    worker = math_process._ASKED.worker
    worker.kill()
    worker.wait()
    assert math("3 * 6", "18") is True
    assert math_process._ASKED.worker is not worker


def test_an_alarm_of_somebody_else_is_left_alone():
    signal.setitimer(signal.ITIMER_REAL, 50)
    handler = signal.getsignal(signal.SIGALRM)
    assert math("3 * 7", "21") is True
    assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] < 50
    assert signal.getsignal(signal.SIGALRM) is handler


def test_an_interrupted_question_does_not_answer_the_next_one():
    assert math("3 * 8", "24") is True

    def interrupt(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        os.kill(math_process._ASKED.worker.pid, signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(InterruptedError):
            math("3 * 9", "27")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert math("3 * 10", "31") is False
    assert math("3 * 9", "27") is True


def test_the_process_ends_with_whoever_asks():
    program = (
        "from uncollapse.plugins.verifiers import math_process, verifiers\n"
        "assert verifiers.math('2 * 21', '42')\n"
        "print(math_process._ASKED.worker.pid, flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    worker, deadline = int(done.stdout), time.monotonic() + 60
    command = Path(f"/proc/{worker}/cmdline")
    while command.exists() and command.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(math_process, "_ASKED", asked_process.AskedProcess("math_worker", "verifier: math"))
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MissingExtraError, match="math-verify is not installed"):
        math("x + 7 + y", "7 + x + y")
    assert exact("7", "7")
    assert math("7.0", "7")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("- 5", Fraction(-5)),
        (".5", Fraction(1, 2)),
        ("1E+2", Fraction(100)),
        ("6 \\cdot 10^{-2}", Fraction(6, 100)),
        ("2 2/3", Fraction(8, 3)),
        ("\\frac12", Fraction(1, 2)),
        ("0b101", Fraction(5)),
        ("ff_{16}", Fraction(255)),
        ("12,34", None),
        ("1 23", None),
        ("1,2345", None),
        ("4 10/3", None),
        ("1/0", None),
        ("01/15", None),
        ("12_2", None),
        ("1e99999", None),
        ("", None),
        ("-", None),
        ("five", None),
        ("1.2.3", None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    number = read_number(text)
    assert (number and number.value) == value


@given(value=st.fractions(), other=st.fractions())
def test_fractions_are_equal_to_themselves_alone(value, other):
    assert read_number(str(value)).value == value
    assert close(value, value)
    assert not (
        value != other and close(value, other) and abs(value - other) > Fraction(1, 10**6) * max(abs(value), abs(other))
    )


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
        ("102", "10²", False),
        ("10²", "10²", True),
        ("1/2", "½", False),
        ("1", "①", False),
        ("a\u00a0b", "a b", True),
        ("e\u0301", "é", True),
        ("STRASSE", "straße", True),
    ],
)
def test_exact(answer, gold, right):
    assert exact(answer, gold) is right


NAMES_B = """B|b|(B)|B.|B)|**B**|`B`|$B$|\\boxed{B}|\\boxed{\\text{B}}|The answer is B|the answer is b.|Answer: **B**
**Answer:** B|Final answer: (B)|B) Paris|B. Paris|(B) Paris|b) paris|**B.** Paris|B: Paris|Option B|I choose B
The correct option is (B).|I would pick B — a safe choice|It is B.|The answer is B because a car moves.
The answer is B. Note that A is a common distractor.|A) is wrong. The answer is B|not A but B|Answer: A. Answer: B"""


@pytest.mark.parametrize("answer", NAMES_B.replace("\n", "|").split("|"))
def test_answers_that_name_an_option(answer):
    assert choice(answer, "B") is True
    assert choice(answer, "C") is False


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "A or B",
            "A, B",
            "AB",
            "A and B",
            "(A) or (B)",
            "B/C",
            "The answer is A or B",
            "A) x B) y C) z",
            "A. x\nB. y",
        ),
        *(
            "The answer is between A and B",
            "The answer is not B",
            "Not B",
            "Bird",
            "The answer is a bird",
            "I think so",
            "",
        ),
    ],
)
def test_answers_that_name_no_option_or_several(answer):
    assert choice(answer, "A") is None
    assert choice(answer, "B") is None


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("A", "A) Paris", True),
        ("Paris", "A) Paris", True),
        ("Rome", "A) Paris", None),
        ("(2)", "2", True),
        ("option 12", "12", True),
        ("1", "2", False),
        ("I", "I", True),
        ("b", "(B)", True),
        ("paris", "Paris", True),
        ("Rome", "Paris", False),
    ],
)
def test_right_options(answer, gold, right):
    assert choice(answer, gold) is right


@settings(max_examples=60)
@given(answer=st.text(max_size=60), gold=st.sampled_from(["A", "A) Paris", "2", "Paris"]))
def test_a_choice_is_never_an_error(answer, gold):
    assert choice(answer, gold) in (True, False, None)


def test_any_of_several_answers():
    assert Math().verify("0.5", ("x", "1/2")) is True
    assert Math().verify("3", ("x", "1/2")) is False
    assert Math().verify("no idea", ("1/2", "1/3")) is None
    names = ["choice", "contains", "exact", "json_schema", "judge", "math"]
    assert uncollapse.registry().names("verifier") == names


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
