"""Claims, runs, history; the one home of SQL.

- ``sqlite`` is the store of one machine, ``resilient`` wraps it so that a full or failing disk never
  stops the scheduler;
- ``writes`` and ``reads`` are the bodies of its transactions, ``sql/`` their text, ``rows`` the
  translation between rows and the model;
- ``writer`` is the thread with group commit, ``schema`` opens, judges and migrates the file, ``faults``
  says what SQLite's error codes mean, ``prune`` finds what retention may remove.
"""
