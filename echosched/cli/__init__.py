"""The command line: docopt, verbs, exit codes; the only place that prints or exits."""
