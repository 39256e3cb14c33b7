"""The metrics that the environments here give of an action; an episode logs their mean over the actions it played."""

from __future__ import annotations

ACCEPTED = "share_of_played_actions_accepted"
"""1 for an action that the environment could take: a move of its list, an answer that it could read."""
EFFECTIVE = "share_of_played_actions_effective"
"""1 for an action that changed something: the player moved."""
