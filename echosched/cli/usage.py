"""What each command takes: the texts that docopt reads, that ``--help`` shows, and that man pages and
completions are checked against. One text for each command; the options that all share stand once.
"""

from __future__ import annotations

COMMON = """\
Common options:
  --home DIR       keep everything in one directory (ECHOSCHED_HOME)
  --config FILE    the configuration file
  --pidfile FILE   the pidfile, which is also the lock
  --socket FILE    the control socket
  --db FILE        the database
  --log FILE       the journal
  --debug          show tracebacks; start also logs decisions
  -h --help        show this text
"""

TOP = """\
EchoSched runs jobs on time, keeps running, and can prove both.

Usage:
  echoschedd [options] <command> [<args>...]
  echoschedd --foreground
  echoschedd --version
  echoschedd --help

The daemon:
  start        start it (in the background; --foreground stays)
  stop         stop it and what is left of its jobs
  restart      stop and start, once the configuration is known to be good
  reload       read the configuration again
  upgrade      replace the program under running jobs
  status       is it running, is it healthy, what comes next
  logs         what happened
  web          the dashboard and API server
  service      start, stop and watch scheduler and web server together
  cluster      the hosts that share one set of jobs

Jobs:
  jobs         all jobs with their state and next slot
  next         coming slots, of jobs or of any expression
  explain      what a schedule means, in plain English
  simulate     every slot of a period
  run          run a job now
  pause        let no slot of a job come due
  resume       let them come due again
  history      what ran and how it ended
  output       what a run printed
  cancel       end a run

Files and host:
  check        validate the configuration
  edit         edit the configuration, validated before it is saved
  import-crontab   a crontab as TOML
  doctor       what this host allows
  completion   completions for bash, zsh or fish

Options:
  --home DIR       keep everything in one directory (ECHOSCHED_HOME)
  --config FILE    the configuration file
  --pidfile FILE   the pidfile, which is also the lock
  --socket FILE    the control socket
  --db FILE        the database
  --log FILE       the journal
  --debug          show tracebacks; start also logs decisions
  --foreground     short for: start --foreground
  --version        show the version
  -h --help        show this text

"echoschedd COMMAND --help" tells more.
"""

USAGE: dict[str, str] = {
    "start": f"""\
Start the daemon. Returns 0 only after it has said that it is ready.

Usage:
  echoschedd start [options]

Options:
  --foreground     stay in the foreground, for supervisors, containers and debugging
  --detach         detach even where that is known to fail
  --force          stop a running daemon first
  --exclusive      fail (1) if a daemon is running already, instead of saying so (0)
  --wait DUR       how long to wait for another starter that holds the lock [default: 30s]
  --no-supervise   run the worker alone, without a supervisor (for debugging)

{COMMON}""",
    "stop": f"""\
Stop the daemon: no new slots, wait for running jobs (daemon.grace), then end them. Not running is fine.

Usage:
  echoschedd stop [options]

Options:
  --force          kill the daemon and all processes of its jobs, at once
  --timeout DUR    how long to wait (default: daemon.grace and 15 s)

{COMMON}""",
    "restart": f"""\
Stop and start. The configuration is checked first: a bad one changes nothing.

Usage:
  echoschedd restart [options]

Options:
  --keep-jobs      leave running jobs alone; the new daemon watches them to their end

{COMMON}""",
    "reload": f"""\
Read the configuration again and say how that went. A bad one changes nothing (exit code 6).

Usage:
  echoschedd reload [options]

{COMMON}""",
    "upgrade": f"""\
Replace the program by what is installed now. Running jobs go on; nothing changes if it cannot start.

Usage:
  echoschedd upgrade [options]

{COMMON}""",
    "status": f"""\
Show whether the daemon runs, whether its loop makes progress, and what comes next.

Exit codes: 0 running, 1 dead with its pidfile left, 3 not running, 4 unknown.

Usage:
  echoschedd status [options]

Options:
  --json           one JSON document
  --watch          a live view, until Ctrl-C

{COMMON}""",
    "logs": f"""\
Show the journal: readable lines on a terminal, NDJSON in a pipe.

Usage:
  echoschedd logs [options]

Options:
  -f --follow      go on with what comes, across rotation
  -n N             how many lines to begin with [default: 50]
  --job JOB        only this job's events
  --out            the daemon's own stdout and stderr instead
  --json           NDJSON on a terminal too

{COMMON}""",
    "jobs": f"""\
Show all jobs with their state and next slot.

Usage:
  echoschedd jobs [options]

Options:
  --json           one JSON document

{COMMON}""",
    "next": f"""\
Show coming slots: of all jobs, of one job, or of any expression (which needs no daemon).

Usage:
  echoschedd next [options] [<job>]

Options:
  -n N             how many [default: 10]
  --schedule EXPR  an expression instead of a job
  --timezone TZ    the expression's time zone [default: UTC]
  --dst RULE       once, skip or every [default: once]
  --from INSTANT   after this instant (RFC 3339 or a date) instead of now
  --json           one JSON document

{COMMON}""",
    "explain": f"""\
Say in plain English what a schedule means, with its next slots and the daylight-saving changes it meets.

Usage:
  echoschedd explain [options] <expression>

Options:
  --timezone TZ    the expression's time zone [default: UTC]
  --dst RULE       once, skip or every [default: once]
  --json           one JSON document

{COMMON}""",
    "simulate": f"""\
Show every slot of a period. Reads the configuration only; needs no daemon.

Usage:
  echoschedd simulate [options] --from A --to B [<job>]

Options:
  --from A         the first instant (RFC 3339 or a date)
  --to B           the end, not included
  --json           one JSON document

{COMMON}""",
    "run": f"""\
Run a job now.

Usage:
  echoschedd run [options] <job>

Options:
  --wait           show its output live; exit 0 if it succeeded, 1 if not
  --json           one JSON document

{COMMON}""",
    "history": f"""\
Show what ran and how it ended, newest first.

Usage:
  echoschedd history [options] [<job>]

Options:
  -n N             how many [default: 50]
  --state S        only runs in this state (several with commas)
  --failed         only failed, timed_out and abandoned ones
  --since WHEN     only runs queued since then (RFC 3339, or an age such as 2h)
  --json           one JSON document

{COMMON}""",
    "output": f"""\
Show what a run printed.

Usage:
  echoschedd output [options] <run>

Options:
  -f --follow      go on until the run has ended
  --attempt N      an earlier attempt of a retried run

{COMMON}""",
    "cancel": f"""\
End a run: a queued one at once, a running one by TERM, later KILL.

Usage:
  echoschedd cancel [options] <run>

{COMMON}""",
    "pause": f"""\
Let no slot of a job come due until it is resumed; survives restarts.

Usage:
  echoschedd pause [options] <job>

{COMMON}""",
    "resume": f"""\
Let a job's slots come due again, from now on.

Usage:
  echoschedd resume [options] <job>

{COMMON}""",
    "check": f"""\
Validate the configuration; shows all errors. Exit code 78 for a bad one.

Usage:
  echoschedd check [options] [<file>]

Options:
  --json           one JSON document

{COMMON}""",
    "edit": f"""\
Edit the configuration in $VISUAL or $EDITOR; it is saved only when it is valid, and reloaded if the daemon runs.

Usage:
  echoschedd edit [options] [<file>]

{COMMON}""",
    "import-crontab": f"""\
Translate a crontab to TOML on stdout; warnings go to stderr.

Usage:
  echoschedd import-crontab [options] <file>

Options:
  --system         the file has a user column, as /etc/crontab has

{COMMON}""",
    "doctor": f"""\
Tell what this host allows: detaching, locks, clocks, limits, permissions, time zones; each with a cure.

Exit codes: 0 well (or something to know of), 1 something is bad.

Usage:
  echoschedd doctor [options]

Options:
  --json           one JSON document

{COMMON}""",
    "web": f"""\
Serve the dashboard and the API, in the foreground.

Usage:
  echoschedd web [options]

Options:
  --host H         the address to listen on (default: web.host, 127.0.0.1)
  --port P         the port (default: web.port, 5000)

{COMMON}""",
    "service": f"""\
Start, stop and watch the scheduler and the web server by the same machinery; each gets a line.

Usage:
  echoschedd service [options] <verb> [<which>]

Verbs: start stop restart status logs. Which: all (the default), scheduler, web.

Options:
  --host H         where the web server listens
  --port P         and on which port
  -f --follow      logs: go on with what comes
  -n N             logs: how many lines [default: 50]
  --json           status: one JSON document

{COMMON}""",
    "cluster": f"""\
Show and tend the instances that share the database of [cluster], from any host that has the configuration.

Usage:
  echoschedd cluster [options] <action> [<instance>]

Actions: status; drain (start no more runs there; without <instance>: here); remove (forget one that is gone).

Options:
  --undo           drain: let it start runs again
  --wait           drain: wait until all that it runs have ended
  --json           one JSON document

{COMMON}""",
    "completion": f"""\
Print completions for a shell: eval "$(echoschedd completion bash)".

Usage:
  echoschedd completion [options] <shell>

Shells: bash zsh fish.

{COMMON}""",
}
