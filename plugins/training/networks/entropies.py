"""A policy has an entropy of at most the log of the size of its vocabulary: no component can steer beyond that."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ....core.compose.combinations import components
from ....core.compose.experiment import Experiment
from ....core.errors import RequestError


def check_entropies(experiment: Experiment, config: Any, path: str | Path) -> None:
    """Refuse a component that steers to an entropy (nats per token) which no policy of this vocabulary can have.

    Raises:
        RequestError: an entropy is above the log of the vocabulary's size; it names the component's key.
    """
    vocabulary: int = config.get_text_config().vocab_size
    for place, named in components(experiment):
        if beyond := [target for target in named.component.target_entropies if target > math.log(vocabulary)]:
            raise RequestError(
                f"{named.name} steers to an entropy of {max(beyond):g} nats per token, and no policy over the "
                f"{vocabulary} tokens of {path} (model.path) has more than {math.log(vocabulary):.3g}",
                place,
                "set an entropy near the one that the first steps have (actor/entropy)",
            )
