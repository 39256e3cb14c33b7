"""Likeness says how alike a policy answers different prompts: what it says to all of them is a template."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs


@attrs.frozen
class Likeness:
    """The likeness of the first responses that a run has recorded in a step."""

    episodes: int
    prompts: int
    """Different prompts among the episodes."""
    distinct: int
    """Different responses, white space at the ends left out."""
    most_frequent: str
    """Response that the most prompts were given, the first of equals."""
    prompts_of_most_frequent: int
    """Prompts that it was given to."""
    overlap: float | None
    """Share of the words that two responses to different prompts have in common (those of both over those of either,
    each as often as it stands), the mean over all such pairs of episodes; ``None`` without a pair."""

    @property
    def sentence(self) -> str:
        """The likeness in words."""
        if not self.episodes:
            return "no episode was played"
        said = (
            f"{self.distinct} of {self.episodes} responses are distinct ({self.distinct / self.episodes:.0%}); the "
            f"most frequent answers {self.prompts_of_most_frequent} of {self.prompts} prompts "
            f"({self.prompts_of_most_frequent / self.prompts:.0%})"
        )
        if self.overlap is None:
            return f"{said}; one prompt says nothing of templates"
        return f"{said}; responses to different prompts have {self.overlap:.0%} of their words in common"


def prompt_of(record: Mapping[str, Any]) -> str:
    """Return the task as the policy first sees it: the messages before its first response, without the system's."""
    earlier = [text for pair in record.get("earlier", ()) for text in pair]
    return "\n".join([*earlier, record["turns"][0]["user"]])


def likeness(records: Sequence[Mapping[str, Any]]) -> Likeness:
    """Return how alike the first responses of episodes are; those of lost groups have none."""
    answered = [(prompt_of(record), record["turns"][0]["response"].strip()) for record in records if record["turns"]]
    prompts_of: dict[str, set[str]] = {}
    for prompt, response in answered:
        prompts_of.setdefault(response, set()).add(prompt)
    most = max(prompts_of, key=lambda response: len(prompts_of[response]), default="")
    words = [(prompt, Counter(response.split())) for prompt, response in answered]
    overlaps = [
        _overlap(mine, theirs)
        for (prompt, mine), (another, theirs) in itertools.combinations(words, 2)
        if prompt != another
    ]
    return Likeness(
        episodes=len(answered),
        prompts=len({prompt for prompt, _ in answered}),
        distinct=len(prompts_of),
        most_frequent=most,
        prompts_of_most_frequent=len(prompts_of.get(most, ())),
        overlap=statistics.fmean(overlaps) if overlaps else None,
    )


def _overlap(mine: Counter[str], theirs: Counter[str]) -> float:
    either = (mine | theirs).total()
    return (mine & theirs).total() / either if either else 1.0
