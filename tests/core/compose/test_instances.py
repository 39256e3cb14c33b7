"""Components that a program has made, in experiments."""

import attrs
import pytest
import uncollapse
from uncollapse.core.compose.config import to_dict
from uncollapse.core.compose.problems import CompositionError
from uncollapse.estimators.advantage.outcome import Grpo
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.filters.top_p import TopP
from uncollapse.plugins.collapse.stopping import EmptyFilter


def test_a_component_may_stand_where_its_name_could():
    given = {
        "advantage": Grpo(eps=0.5),
        "filter": {"select": TopP(0.5), "loss_scaling": "sqrt"},
        "collapse": [EmptyFilter(), "no_signal"],
    }
    experiment = uncollapse.compose({"extends": "tiny-sokoban", **given}, {"policy_loss": Ppo(0.1, 0.1)})
    assert experiment.advantage.component == Grpo(eps=0.5)
    assert (experiment.filter.select.name, experiment.filter.select.component) == ("top_p", TopP(0.5))
    assert [named.name for named in experiment.collapse] == ["empty_filter", "no_signal"]
    assert str(experiment.policy_loss) == "ppo(clip_low=0.1, clip_high=0.1)"
    assert uncollapse.compose(to_dict(experiment)) == experiment


def test_a_component_without_a_name_is_refused_with_the_way_out():
    @attrs.frozen
    class Mine:
        pass

    given = ({"extends": "tiny-sokoban", "advantage": Mine()}, ()), ("tiny-sokoban", {"advantage": Mine()})
    for source, overrides in given:
        with pytest.raises(CompositionError, match=r"advantage.*Mine, which no plugin registers") as raised:
            uncollapse.compose(source, overrides)
        assert "load_file" in str(raised.value)
