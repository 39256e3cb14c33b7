"""The probe registers the detector ``entropy_forecast`` and the command ``probe``."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_collapse_detectors(register: Register) -> None:
    register(
        "entropy_forecast",
        "uncollapse.plugins.probe.forecast.forecast:EntropyForecast",
        summary="predict what each update does to the entropy, and measure what it did",
    )


@hookimpl
def register_commands(register: Register) -> None:
    register(
        "probe",
        "uncollapse.plugins.probe.commands.probe:command",
        summary="Predict and measure the next entropy change.",
    )
