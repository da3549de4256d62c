"""One attempt to one Result."""
