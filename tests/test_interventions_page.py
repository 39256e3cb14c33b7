"""The page of the interventions: every remedy of the sweep is on it, with what the committed table says of it."""

import json
import re
import sys
from pathlib import Path

import pytest
from scipy import stats
from uncollapse.plugins.sweeps.interventions import BESIDE

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import interventions_table as table  # noqa: E402

PAGE = table.PAGE.read_text("utf-8")
SECTIONS = {kind: text for text in PAGE.split("\n## ") for kind in re.findall(r"^Kind `(\w+)`", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def remedies():
    return table.remedies()


def test_the_page_shows_what_the_committed_table_says(remedies):
    rows = table.read()
    assert {row["remedy"] for row in rows} - {*remedies, "baseline"} == set()
    assert table.with_part(PAGE, table.lines(rows, remedies)) == PAGE


def test_every_remedy_has_numbers_or_is_said_to_have_none(remedies):
    made = PAGE.partition(table.BEGIN)[2].partition(table.END)[0]
    numbers = re.findall(r"^\| `(.+?)` \| 0\.\d{3} \|", made, re.MULTILINE)
    missing = re.findall(r"`(.+?)`", made.partition("Not measured yet:")[2])
    assert sorted(numbers + missing) == sorted(remedies)
    assert len(remedies) > 60


@pytest.mark.parametrize("kind", BESIDE)
def test_every_component_has_a_row_with_formula_source_and_what_it_is_held_to(kind):
    rows = [re.split(r" *\| *", line)[1:-1] for line in SECTIONS[kind].splitlines() if line.startswith("| `")]
    named = [re.match(r"`(.+?)`", row[0])[1] for row in rows]
    assert sorted(named) == sorted(table.own(kind))
    assert [row for row in rows if len(row) != 4 or "" in row] == []


def test_the_text_says_what_the_numbers_say(remedies):
    """Whoever measures more has to read the text again."""
    rows = table.read()
    compared, text = len(rows) - 1, " ".join(PAGE.split())
    least = [stats.t.isf(0.025 / number, 4) for number in (compared, len(remedies))]
    assert f"with {compared} comparisons and 5 seeds, the largest t" in text
    assert f"must exceed {least[0]:.1f}. With all {len(remedies)} it must exceed {least[1]:.1f}." in text
    apart = {name: [row["remedy"] for row in rows if table.apart(row, name)] for name in table.MEASURES[:4]}
    assert apart == {
        "success": ["advantage pass_at_k"],
        "area": ["policy_loss luspo", "advantage pass_at_k"],
        "entropy": ["rollout_filter quantile", "rollout_filter top_f(0.25)", "advantage pass_at_k"],
        "information": [],
    }
    by_name = {
        row["remedy"]: [row[key] for key in row if key.endswith("_mean") and "seconds" not in key] for row in rows
    }
    for one, other in (
        ("baseline", "task_sampler shuffled"),
        ("baseline", "reward_shaping overlong"),
        ("rollout_filter quantile", "rollout_filter top_f(0.25)"),
        ("advantage gpg", "advantage dr_grpo"),
        ("policy_loss gpg", "policy_loss reinforce"),
        ("sampler_correction sequence_mask", "sampler_correction icepop"),
        *(("baseline", f"policy_loss {name}") for name in ("m2po", "off_policy_mask")),
        ("baseline", "sampler_correction sequence_divergence"),
    ):
        assert by_name[one] == by_name[other]


def estimates(p: float, mean: float = 0.5) -> dict:
    return {
        measure: {"mean": mean, "difference": -0.25, "se": 0.05, "p": p, "p_adjusted": 1.0}
        for measure in table.MEASURES
    }


def test_p_values_are_corrected_over_the_complete_remedies_only(tmp_path):
    """By hand: 0.01 and 0.03 of two are 0.02 and 0.03; a third remedy, with three runs of five, does not count."""
    none = {"mean": 0.75, "difference": 0.0, "se": None, "p": None}
    ranking = [
        {"value": "baseline", "pairs": 5, "estimates": dict.fromkeys(table.MEASURES, none)},
        {"value": "kl mse", "pairs": 5, "estimates": estimates(0.03)},
        {"value": "policy_loss gspo", "pairs": 3, "estimates": estimates(0.001)},
        {"value": "advantage grpo", "pairs": 5, "estimates": estimates(0.01)},
    ]
    rows = table.measured({"axes": {"seed": ["0", "1", "2", "3", "4"]}, "ranking": {"rows": ranking}})
    assert [(row["remedy"], row["area_p_adjusted"]) for row in rows] == [
        ("baseline", ""),
        ("kl mse", "0.03"),
        ("advantage grpo", "0.02"),
    ]
    table.write(rows, tmp_path / "table.csv")
    assert table.read(tmp_path / "table.csv") == rows
    *_, apart, _, missing = table.lines(rows, ["kl mse", "advantage grpo", "policy_loss gspo"])
    assert apart.startswith("Told apart from the baseline: `kl mse` (success, area, entropy, information), `advantage")
    assert missing == "Not measured yet: `policy_loss gspo`."


@pytest.mark.parametrize(
    ("p", "line"),
    [
        (0.02, r"| `kl k1` | 0.500 | −0.250 ± 0.050 \* | 0.02 | −0.250 \* | 0.500 \* | 0.50 \* | 0.5 |"),
        (0.2, "| `kl k1` | 0.500 | −0.250 ± 0.050 | 0.20 | −0.250 | 0.500 | 0.50 | 0.5 |"),
    ],
)
def test_a_star_marks_what_is_told_apart(p, line):
    report = {"axes": {"seed": ["0"]}, "ranking": {"rows": [{"value": "kl k1", "pairs": 1, "estimates": estimates(p)}]}}
    assert line in list(table.lines(table.measured(json.loads(json.dumps(report))), []))
