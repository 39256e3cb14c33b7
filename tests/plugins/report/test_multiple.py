import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.report.multiple import holm

P_VALUES = st.lists(st.none() | st.floats(0, 1), max_size=12)


def test_holm_gives_the_values_of_r():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"), and statsmodels' multipletests(..., method="holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_an_adjusted_value_is_never_below_that_of_a_smaller_one_nor_above_1():
    # 0.02 * 3 = 0.06, 0.025 * 2 = 0.05 is raised to 0.06, 0.9 * 1; and 0.6 * 2 is cut to 1
    assert holm([0.9, 0.02, 0.025]) == pytest.approx([0.9, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_equal_values_stay_equal():
    assert holm([0.02, 0.5, 0.02]) == pytest.approx([0.06, 0.5, 0.06])


def test_what_was_not_tested_stays_none_and_does_not_count():
    assert holm([None, 0.01, None, 0.04]) == [None, pytest.approx(0.02), None, pytest.approx(0.04)]
    assert holm([]) == []
    assert holm([None]) == [None]


@pytest.mark.parametrize("p", [float("nan"), -0.01, 1.01])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match="p-value 1"):
        holm([0.5, p])


@given(P_VALUES)
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    tested = [p for p in p_values if p is not None]
    adjusted = [p for p in holm(p_values) if p is not None]
    for p, corrected in zip(tested, adjusted, strict=True):
        assert p <= corrected <= min(1.0, len(tested) * p)
    assert sorted(adjusted) == [corrected for _, corrected in sorted(zip(tested, adjusted, strict=True))]


@given(P_VALUES)
def test_the_order_of_the_tests_does_not_matter(p_values):
    assert holm(p_values[::-1]) == holm(p_values)[::-1]
