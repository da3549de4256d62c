"""The centre: slots in, runs out.

``core`` is the loop that joins timer, policies, store and executor; ``entries`` what it remembers of
jobs and active runs; ``queue`` decides which waiting run starts next; ``recovery`` takes over what an
earlier worker left behind.
"""

from echosched.scheduler.core import Scheduler
from echosched.scheduler.entries import Entry, LiveRun

__all__ = ["Entry", "LiveRun", "Scheduler"]
