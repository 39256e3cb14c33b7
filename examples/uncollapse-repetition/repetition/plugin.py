"""Registers the name. It imports neither torch nor the detector, so that listing stays fast."""

from uncollapse import hookimpl


@hookimpl
def register_collapse_detectors(register):
    register(
        "repetition",
        "repetition.detector:Repetition",
        summary="stop when responses consist of phrases that they have said before",
    )
