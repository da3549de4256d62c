"""The version of EchoSched, in a module of its own so that ``--version`` imports nothing else."""

__version__ = "0.1.0"
