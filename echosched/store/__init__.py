"""Claims, runs, history; the one home of SQL."""
