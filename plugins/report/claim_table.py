"""Checked claims are shown as two tables, as a sentence and as plain data."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from typing import Any

import attrs
from rich.console import Console

from .claim_check import CLAIMED, Checked, Claims, Setting
from .ranking import LEVEL
from .table import number, print_table

CLAIMS, SETTINGS = "Claims", "Figures beside ours"
RANK = "Rank correlations: Spearman's, within each run over the steps that measured both."
MEANING = {
    "peak": "Peak success: the largest validation success of a run, as a share; with its noise it is above what the "
    "policy can do, in all settings alike.",
    "information": "Last mutual information: in nats, of first thoughts, where a run measured it for the last time.",
    "information_with_success": RANK,
    "entropy_with_success": RANK,
    "seconds": "Seconds per step: without validation and detectors; runs side by side slow each other.",
}
"""What to know of each measure of :data:`.claim_check.CLAIMED`."""


def verdicts(claims: Claims) -> str:
    """Count the verdicts: ``2 claims hold, 1 fails, 3 cannot be told``."""
    counts = Counter(each.verdict for each in claims.checked)
    holds, fails = counts["holds"], counts["fails"]
    return (
        f"{holds} claim{'' if holds == 1 else 's'} hold{'s' if holds == 1 else ''}, {fails} fail"
        f"{'s' if fails == 1 else ''}, {counts['cannot be told']} cannot be told"
    )


def note(claims: Claims) -> str:
    """Return what to know before reading the verdicts, after their count."""
    return (
        f"{verdicts(claims)}. Ours: mean over seeds of what changes, run by run at the same seed, ± one standard "
        "error. A claim holds (or fails) if the change has (or contradicts) the claimed sign with a p-value of at most "
        f"{LEVEL} after Holm's correction for all claims of the sweep, by Student's t over seeds. What cannot be told "
        "may be true: more seeds tell. The size of a change depends on the model and the task; the verdict is on its "
        "sign."
    )


def settings_note(claims: Claims) -> str:
    """Return what to know before reading the figures: where they come from, and what is measured."""
    cited = _cited(claims)
    return " ".join(
        (
            *([f"Source: {cited.removesuffix(', ')}."] if cited else ()),
            *dict.fromkeys(
                MEANING[name] for name in MEANING if any(each.claim.measure == name for each in claims.checked)
            ),
            "Ours: means over seeds ± one standard error, over seeds or over validation tasks where that is larger. "
            "Runs that a detector stopped are among them.",
        )
    )


def _cited(claims: Claims) -> str:
    """Return the parts, between commas, that the sources of all claims begin with: they are said once."""
    sources = {each.claim.source for each in claims.checked}
    if len(sources) == 1:
        return sources.pop()
    parts = zip(*(source.split(", ") for source in sources), strict=False)
    return "".join(f"{same[0]}, " for same in takewhile(lambda part: len({*part}) == 1, parts))


def claim_rows(claims: Claims) -> list[dict[str, str]]:
    """Return the lines of the table of claims; see :func:`settings_note` for what their sources have in common."""
    cited = _cited(claims)
    return [claim_cells(each, cited) for each in claims.checked]


def setting_rows(claims: Claims) -> list[dict[str, str]]:
    """Return the lines of the table of figures; see :func:`settings_note` for what their sources have in common."""
    cited = _cited(claims)
    return [setting_cells(setting, cited) for setting in claims.settings]


def claim_cells(checked: Checked, cited: str = "") -> dict[str, str]:
    """Return one line of the table of claims: column -> text."""
    claim = checked.claim
    return {
        "claim": claim.text,
        "verdict": checked.verdict,
        "source says": _change(claim.claimed, None, claim.relative),
        "ours": _change(checked.contrast, checked.se, claim.relative),
        "p (Holm)": number(checked.p_adjusted),
        "seeds": str(len(checked.seeds)),
        "why": checked.why,
        "source": claim.source.removeprefix(cited),
        "note": claim.note,
    }


def setting_cells(setting: Setting, cited: str = "") -> dict[str, str]:
    """Return one line of the table of figures: column -> text."""
    error = "" if setting.se is None else f" ± {number(setting.se)}"
    return {
        "measure": setting.measure,
        "setting": ", ".join(f"{axis} {value}" for axis, value in setting.at.items()),
        "source says": number(setting.figure),
        "ours": f"{number(setting.mean)}{error}",
        "seeds": str(setting.seeds),
        "stopped": str(setting.stopped or "–"),
        "source": setting.source.removeprefix(cited),
    }


def _change(value: float | None, se: float | None, relative: bool) -> str:
    if value is None:
        return "–"
    scale, digits, unit = (100, 1, " %") if relative else (1, 3, "")
    error = "" if se is None else f" ± {number(scale * se, digits)}"
    return f"{scale * value:+.{digits}f}{error}{unit}"


def print_claims(claims: Claims, console: Console) -> None:
    """Print the figures, the claims with their verdicts, and the notes."""
    print_table(f"\n{SETTINGS}", setting_rows(claims), console)
    console.print(settings_note(claims), style="dim", highlight=False)
    print_table(f"\n{CLAIMS}", claim_rows(claims), console)
    console.print(note(claims), style="dim", highlight=False)


def to_dict(claims: Claims) -> dict[str, Any]:
    """Return the numbers, unrounded, as plain data."""
    return {
        "claims": [_claim(each) for each in claims.checked],
        "settings": [{**attrs.asdict(setting), "at": dict(setting.at)} for setting in claims.settings],
    }


def _claim(checked: Checked) -> dict[str, Any]:
    claim = checked.claim
    return {
        "claim": claim.text,
        "source": claim.source,
        "measure": CLAIMED[claim.measure].title,
        "terms": [attrs.asdict(term) for term in claim.terms],
        "direction": claim.direction,
        "margin": claim.margin,
        "relative": claim.relative,
        "source_contrast": claim.claimed,
        "contrast": checked.contrast,
        "se": checked.se,
        "p": checked.p,
        "p_adjusted": checked.p_adjusted,
        "seeds": list(checked.seeds),
        "verdict": checked.verdict,
        "why": checked.why,
        "note": claim.note,
    }
