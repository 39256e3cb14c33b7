"""The libraries are kept quiet: their progress bars and start-up warnings would stand between a run's own lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries() -> None:
    """Switch off progress bars and start-up messages; call it before models are loaded and DeepSpeed is imported."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # without it DeepSpeed looks for an accelerator and warns
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


@contextmanager
def only_errors() -> Iterator[None]:
    """Switch off transformers' warnings for a while, where our own errors say what it would warn of."""
    from transformers.utils import logging as library

    level = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(level)
