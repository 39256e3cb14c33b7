"""The sweep ``main-table`` asks whether top-p filtering raises success, by algorithm (RAGEN-2, table 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ...core.compose.config import compose
from ...core.errors import RequestError, nearest
from ..report.claim import Claim
from ..sweeps.variation import Case
from .interventions import listed
from .reproduction import ALGORITHMS, MARGIN, PAPERS_OWN, Filtering, base_settings, difference, gain

Row = tuple[str, str]
"""Algorithm and model of a row of the table."""
SOKOBAN: Mapping[Row, tuple[float, float]] = {
    ("ppo", "3B"): (12.9, 16.0),
    ("dapo", "3B"): (16.2, 5.1),
    ("grpo", "3B"): (12.1, 9.0),
    ("dr_grpo", "3B"): (12.1, -0.4),
    ("ppo", "0.5B"): (3.3, 22.9),
    ("ppo", "1.5B"): (17.0, 6.2),
    ("ppo", "7B"): (42.4, 4.9),
    ("ppo", "3B-Instruct"): (22.5, 14.2),
    ("ppo", "Llama3.2-3B"): (24.4, 18.8),
}
"""Peak validation success without filter in percent, and the points that the filter adds."""
FROZEN_LAKE: Mapping[Row, tuple[float, float]] = {
    ("ppo", "3B"): (67.0, 10.9),
    ("dapo", "3B"): (66.8, 2.1),
    ("grpo", "3B"): (70.9, -3.0),
    ("dr_grpo", "3B"): (23.2, 0.6),
    ("ppo", "0.5B"): (19.5, 0.0),
    ("ppo", "1.5B"): (36.5, 1.6),
    ("ppo", "7B"): (85.0, -0.6),
    ("ppo", "3B-Instruct"): (83.6, 2.3),
    ("ppo", "Llama3.2-3B"): (84.6, -0.2),
}
DAPO_NOTE = "The scripts give DAPO the settings of PPO (clip 0.2 and 0.28, no KL): one run is beside both rows."
DISPUTED = ("frozen_lake", "grpo", "3B")
"""Row of which the text of the paper and the project's picture of the table differ in the sign of the gain."""
DISPUTED_NOTE = "The picture of the table has +2.3, with which its average agrees: what fails here may hold there."
NAMES = {"ppo": "PPO", "dapo": "DAPO", "grpo": "GRPO", "dr_grpo": "Dr. GRPO"}


@attrs.frozen(kw_only=True)
class MainTable(Filtering):
    """Compare training with and without top-p filtering, for each algorithm, as table 4 of RAGEN-2 does.

    The claim of each row of the paper's table is checked: the filter raises the peak of validation success, or, where
    the paper has no gain, raises it by less than 0.05. Give several ``--seeds``.
    """

    algorithms: str = "ppo,grpo,dr_grpo"
    """Algorithms, with commas: ppo, grpo, dr_grpo."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping.

        Raises:
            RequestError: there is no such algorithm or model, or the experiment cannot test a claim.
        """
        algorithms = list(dict.fromkeys(listed(self.algorithms, "--algorithms")))
        for word in algorithms:
            if word == "dapo":
                what = "RAGEN-2's scripts give dapo the settings of ppo"
                raise RequestError(what, "--algorithms", "write ppo: its runs are beside the row of DAPO as well")
            if word not in ALGORITHMS:
                raise RequestError(f"--algorithms has no {word!r}", fix=nearest(word, ALGORITHMS))
        selects = {"none": "nofilter", "top_p": self._filter()}
        cases = [
            Case(
                f"{algorithm}-{'filter' if name == 'top_p' else 'nofilter'}",
                {**ALGORITHMS[algorithm], "filter.select": select},
                {"algorithm": algorithm, "filter": name},
            )
            for algorithm in algorithms
            for name, select in selects.items()
        ]
        fixed = {key: value for key, value in base_settings("ppo").items() if key not in ALGORITHMS["ppo"]}
        environment = compose(self.experiment).environment.name
        return self._record(
            "main-table",
            fixed,
            cases,
            lambda size: _claims(algorithms, size, environment),
            options={"filter.select": "--filter-value"} | dict.fromkeys(ALGORITHMS["ppo"], "--algorithms"),
        )


def _claims(algorithms: Sequence[str], size: str, environment: str) -> list[Claim]:
    """Return a claim for each row of the table about these algorithms and this model, else about the 3B model."""
    name = "frozen_lake" if environment == "frozen_lake" else "sokoban"
    table = FROZEN_LAKE if name == "frozen_lake" else SOKOBAN
    claims = []
    for row in ("ppo", "dapo", "grpo", "dr_grpo"):
        runs = "ppo" if row == "dapo" else row
        if runs not in algorithms or (row == "dapo" and size != PAPERS_OWN):
            continue
        model = size if (row, size) in table else PAPERS_OWN
        with_it, without = gain(*table[row, model])
        helps, disputed = with_it > without, (name, row, model) == DISPUTED
        said = f"{NAMES[row]}, as the text has it" if disputed else NAMES[row]
        claims.append(
            difference(
                f"top-p filtering {'raises' if helps else 'does not raise'} peak success ({said})",
                f"table 4: {'FrozenLake' if name == 'frozen_lake' else 'Sokoban'}, {model}",
                {"algorithm": runs, "filter": "top_p"},
                {"algorithm": runs, "filter": "none"},
                (with_it, without),
                direction="higher" if helps else "not higher",
                margin=0.0 if helps else MARGIN,
                note=DISPUTED_NOTE if disputed else DAPO_NOTE if row == "dapo" else "",
            )
        )
    return claims
