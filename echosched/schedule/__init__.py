"""Text to Schedule: pure, no clock, no I/O."""
