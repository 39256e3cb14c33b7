"""Objects in which a detector is told its work, and states how much memory it needs for it."""

from __future__ import annotations

import attrs


@attrs.frozen
class DetectorLoad:
    """The work of a detector beside the trainer, for a memory plan. Sizes are bytes."""

    trained: int
    """The number of parameters that train."""
    tokens: int
    """The number of tokens of a row as long as ``rollout.max_context``."""
    token_pass: int
    """The memory of a pass without gradients for each of its tokens."""
    gradient_pass: int
    """The memory of a forward and backward pass over ``trainer.micro_batch`` such rows (over ``trainer.token_budget``
    tokens), with all that autograd keeps of each layer; parameters and their gradients are not part of it."""
    packed: int = 0
    """The number of tokens of a pass without gradients, where ``trainer.token_budget`` bounds it; otherwise 0."""


@attrs.frozen
class DetectorMemory:
    """The memory that a detector takes of each GPU that trains. Sizes are bytes."""

    peak: int = 0
    """The most that it holds at once, before an update or after it."""
    kept: int = 0
    """Memory that it holds while the policy is updated."""
