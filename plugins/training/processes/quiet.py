"""Keep the libraries quiet: their progress bars and start-up warnings would stand between a run's own lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries() -> None:
    """Call it before models are loaded or built, and before DeepSpeed is imported."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")  # or it warns
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


@contextmanager
def only_errors() -> Iterator[None]:
    """Transformers warns of nothing meanwhile: for where what it would warn of is said by us."""
    from transformers.utils import logging as library

    level = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(level)
