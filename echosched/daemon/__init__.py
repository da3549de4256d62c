"""The Unix part: detaching, locks, readiness, supervision, identity. Knows nothing of jobs.

Who runs what, and what it may import::

    launcher   the command's process: context, pidfile, privileges, readiness    (python-daemon, lockfile)
       │ exec, with a hand-over document on an inherited descriptor
    supervisor small and long-lived: workers, children, logfiles, lock, sdnotify (nothing heavy, ever)
       │ exec, with a socket as descriptor 3
    worker     the program's own process; holds the other end: link, beat
    status     inspect, control: read lock, state and beat files                 (nothing heavy either)

Modules on the supervisor's and on ``status``'s side avoid dataclasses, typing, logging and the like:
they would cost more memory and time than all that these processes do.
"""
