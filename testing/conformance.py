"""The helper for pytest makes one parametrized test for all that a package registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..core.errors import MissingExtraError
from .check import check, entries_of
from .problems import NotExercisedError, Problem
from .registration import check_registration


def conformance(
    distribution: str, spellings: Mapping[str, Sequence[str]] | None = None, skip: Sequence[str] = ()
) -> Callable[..., None]:
    """Make a test for pytest that checks every component of a package, and how the package registers them.

    Args:
        distribution: the name of a distribution, of an entry point, or of a plugin file that was loaded.
        spellings: further spellings to check, by kind, for components that need parameters or behave differently with
            them: ``{"rollout_filter": ["top_p(0.9)", "top_p(0.5, prob_mode=softmax)"]}``.
        skip: ``"kind name"`` of components that these checks do not suit.

    A component that cannot be tried on this machine is skipped, with the reason.
    """
    import pytest

    cases = [(kind, spelling) for kind, of_kind in (spellings or {}).items() for spelling in of_kind]
    # a component with a spelling here is not checked once more by its name alone
    spelled = {(kind, spelling.partition("(")[0].strip()) for kind, spelling in cases}
    registered = [(entry.kind, entry.name) for entry in entries_of(distribution)]
    cases += [case for case in registered if case not in spelled and " ".join(case) not in skip]

    @pytest.mark.parametrize(
        ("kind", "name"), [("registration", distribution), *sorted(cases)], ids=lambda word: str(word)
    )
    def test_conformance(kind: str, name: str) -> None:
        try:
            problems = check_registration(name) if kind == "registration" else check(kind, name)
        except (NotExercisedError, MissingExtraError) as error:
            pytest.skip(str(error))
        if problems:
            pytest.fail(_message(problems), pytrace=False)

    return test_conformance


def _message(problems: Sequence[Problem]) -> str:
    return "\n".join(["", *map(str, problems)])
