"""Pure decisions: values and *now* in, decision out. No clock, no I/O, no state."""
