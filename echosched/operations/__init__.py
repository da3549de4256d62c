"""Every operator verb, once: what the command line, the control socket and the web API all call."""

from __future__ import annotations

from echosched.operations.cluster import Membership
from echosched.operations.slots import simulate
from echosched.operations.verbs import OPERATIONS, Operations

__all__ = ["OPERATIONS", "Membership", "Operations", "simulate"]
