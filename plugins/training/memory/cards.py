"""The GPUs of this machine, with the memory that each has and that is free: what every check before a run reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import attrs

from ....core.errors import RequestError

WAIT_S = 120
"""Seconds that another process may take to look at the GPUs; most of them go into importing torch."""


@attrs.frozen
class Card:
    """A GPU, or the part of one that a process sees as one."""

    name: str
    total: int
    """Bytes that it has."""
    free: int
    """Bytes that no process holds at this moment."""


def visible_cards() -> list[Card]:
    """Return the GPUs that torch sees in this process, in its order. Each gets a CUDA context of this process."""
    import torch

    return [card_of(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]


def card_of(device: object) -> Card:
    """Return the GPU of a device of torch."""
    import torch

    free, total = torch.cuda.mem_get_info(device)  # type: ignore[arg-type]
    return Card(torch.cuda.get_device_name(device), total, free)  # type: ignore[arg-type]


def cards_by_id(ids: Sequence[str]) -> list[Card]:
    """Return the GPUs of these ids, as another process sees them, so that this one holds no memory on any.

    Raises:
        RequestError: they cannot be read.
    """
    command = [sys.executable, "-m", "uncollapse.plugins.training.memory.cards"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(ids)}
    where, fix = f"GPUs: {','.join(ids) or 'none'}", "uncollapse doctor says what torch sees"
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=True)
        cards = [Card(**found) for found in json.loads(answer.stdout.splitlines()[-1])]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise RequestError(
            f"the memory of the GPUs cannot be read: {said[-1] if said else error}", where, fix
        ) from error
    if len(cards) != len(ids):
        raise RequestError(f"torch sees {len(cards)} of {len(ids)} GPUs", where, fix)
    return cards


if __name__ == "__main__":
    sys.stdout.write(json.dumps([attrs.asdict(card) for card in visible_cards()]) + "\n")
