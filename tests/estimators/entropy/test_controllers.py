from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.registry import registry
from uncollapse.estimators.entropy.controllers import Fixed

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, st.lists(st.floats(0, 20), max_size=5))
def test_a_fixed_coefficient_stays_and_has_no_state(coef, entropies):
    session = Fixed().start(coef, 10)
    for step, entropy in enumerate(entropies):
        session.update(entropy, step)
    assert (session.coef, session.state_dict()) == (coef, {})
    session.load_state_dict({})
    assert session.coef == coef


def test_it_is_named_and_costs_nothing():
    controller = registry().create("entropy_controller", "fixed")
    assert controller == Fixed()
    assert controller.idle
    assert controller.needs == frozenset()
