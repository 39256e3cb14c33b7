"""The change of the entropy and its influences, token by token in plain loops, over rows and turns of many lengths."""

import math
import sys
from pathlib import Path

import pytest
from uncollapse.plugins.probe.forecast.change import MOST_WEIGHT, entropy_level, predicted_change

sys.path.insert(0, str(Path(__file__).parent))
from probe_rows import GROUPS_E, LENGTHS, ROLLOUTS, TURNS, tables, tokens_of

GROUPS = [4, 17, 30]


def sampled(values):
    """[(group, turn, position in it, tokens to come, entropy to come, {name: value})] of every token."""
    found = []
    for episode in range(len(LENGTHS)):
        places = tokens_of(episode)
        for index, place in enumerate(places):
            turn, after = int(TURNS[place]), places[index + 1 :]
            found.append(
                (
                    int(GROUPS_E[episode]),
                    turn,
                    sum(int(TURNS[other]) == turn for other in places[:index]),
                    len(after),
                    sum(float(values["entropies"][other]) for other in after),
                    {name: float(table[place]) for name, table in values.items()},
                )
            )
    return found


def by_hand(values):
    """{group: (a, c, H, T)}: the change of h is the sum of a - h c over that of T."""
    tokens = sampled(values)
    sums = {group: [0.0, 0.0, 0.0, 0.0] for group in GROUPS}
    for group, turn, position, to_come, entropy_to_come, own in tokens:
        alike = [other for other in tokens if other[0] != group and other[1:3] == (turn, position)]
        usual, usual_entropy = ((sum(other[i] for other in alike) / len(alike)) if alike else 0.0 for i in (3, 4))
        excess = min(math.exp(own["logprobs_rate"]), MOST_WEIGHT) - 1
        sums[group][0] += own["entropies_rate"] + excess * (entropy_to_come - usual_entropy)
        sums[group][1] += excess * (to_come - usual)
        sums[group][2] += own["entropies"]
        sums[group][3] += 1
    return sums


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_token_by_token(seed):
    values = tables(seed)
    values["logprobs_rate"][1, 1] = 3.0  # beyond the most that a token counts
    a, c, H, T = zip(*by_hand(values).values(), strict=True)
    others = [(sum(H) - H[g]) / (sum(T) - T[g]) for g in range(3)]
    value = sum(a[g] - others[g] * c[g] for g in range(3)) / sum(T)
    found = predicted_change(values, ROLLOUTS)
    assert found.value == pytest.approx(value)

    def weighed(weights):
        """The change with the mean entropy of all, where each group stands so many times in the sample."""
        A, C, E, N = (sum(w * x for w, x in zip(weights, each, strict=True)) for each in (a, c, H, T))
        return (A - E / N * C) / N

    step, slopes = 1e-5, []
    for g in range(3):
        up, down = ([1 + sign * step * (g == other) for other in range(3)] for sign in (1, -1))
        slope = (weighed(up) - weighed(down)) / (2 * step)
        slopes.append(slope + (weighed([1, 1, 1]) - value) * T[g] / sum(T))
    expected = [slope - sum(slopes) / 3 for slope in slopes]
    assert found.influence_G.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_level_token_by_token():
    values = tables()
    _, _, H, T = zip(*by_hand(values).values(), strict=True)
    found, h = entropy_level(values, ROLLOUTS), sum(H) / sum(T)
    assert found.value == pytest.approx(h)
    assert found.influence_G.tolist() == pytest.approx([(H[g] - h * T[g]) / sum(T) for g in range(3)])
