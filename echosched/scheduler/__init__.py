"""The centre: slots in, runs out.

``core`` is the loop that joins timer, policies, store and executor; ``judge`` turns slots into claims, mostly
before they come; ``entries`` is what it remembers of jobs and active runs; ``queue`` decides which waiting run
starts next; ``recovery`` takes over what an earlier worker left behind.
"""

from echosched.scheduler.core import Scheduler
from echosched.scheduler.entries import Entry, LiveRun
from echosched.scheduler.judge import AHEAD_SECONDS

__all__ = ["AHEAD_SECONDS", "Entry", "LiveRun", "Scheduler"]
