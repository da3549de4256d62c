"""The journal: the record of everything that happens, as NDJSON (DESIGN §8).

``write`` is what the daemon does (an event sink), ``read`` and ``human`` what people's tools do with it.
"""

from echosched.journal.human import human, tone
from echosched.journal.read import Follower, afollow, follow, parse, rotated, tail
from echosched.journal.write import Journal, line

__all__ = ["Follower", "Journal", "afollow", "follow", "human", "line", "parse", "rotated", "tail", "tone"]
