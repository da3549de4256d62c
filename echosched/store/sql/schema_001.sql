-- Schema 1. Instants are whole microseconds since the Unix epoch; states and triggers are the words
-- of the glossary, so that anybody with a SQLite shell can read the file.

-- What is remembered of a job between daemons, also of jobs no longer defined.
CREATE TABLE jobs (
    name      TEXT PRIMARY KEY,
    cursor_at INTEGER NOT NULL,
    anchor_at INTEGER,
    timing    TEXT NOT NULL DEFAULT '',
    enabled   INTEGER NOT NULL DEFAULT 1,
    paused    INTEGER NOT NULL DEFAULT 0,
    parked    TEXT,
    last_run  INTEGER
) STRICT, WITHOUT ROWID;

-- The dedup key: whoever inserts the row has the slot. Slot rows outlive their runs (they are pruned
-- by age, well past every catch-up window), so there is no foreign key. The slot comes first in the
-- key: a thousand jobs due at one instant then share a few pages instead of touching one page each
-- (measured beside a million rows: a claim of 1,000 took 49 ms the other way round).
CREATE TABLE slots (
    slot INTEGER NOT NULL,
    job  TEXT NOT NULL,
    run  INTEGER NOT NULL,
    PRIMARY KEY (slot, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    run           INTEGER PRIMARY KEY,
    job           TEXT NOT NULL,
    slot          INTEGER,
    trigger       TEXT NOT NULL,
    attempt       INTEGER NOT NULL DEFAULT 1,
    state         TEXT NOT NULL,
    queued_at     INTEGER NOT NULL,
    started_at    INTEGER,
    ended_at      INTEGER,           -- not null exactly when state is an outcome
    exit_code     INTEGER,
    signal        INTEGER,
    error         TEXT,
    output_bytes  INTEGER,
    owner         TEXT,
    not_before_at INTEGER,
    priority      INTEGER NOT NULL DEFAULT 0,
    pid           INTEGER,
    start_ticks   INTEGER,
    attempts      TEXT,              -- JSON list of the earlier attempts of a retried run
    has_output    INTEGER NOT NULL DEFAULT 0  -- 1: ended, and its output files were not yet given up
) STRICT;

-- History of one job, newest first; "beyond the newest N of their job". Only of ended runs: each job's
-- entries lie on a page of their own, and that cost belongs to the end of a run, not to its claim.
CREATE INDEX runs_by_job ON runs (job, run) WHERE ended_at IS NOT NULL;
-- Periods (reports) and pruning by age.
CREATE INDEX runs_by_age ON runs (queued_at);
-- The few that are queued or running, among a million that are not; also those of one job.
CREATE INDEX runs_active ON runs (job, run) WHERE ended_at IS NULL;
-- History by outcome; also the fifty failures among a million successes.
CREATE INDEX runs_by_outcome ON runs (state, run) WHERE ended_at IS NOT NULL;
-- Output files that retention may still have to remove.
CREATE INDEX runs_with_output ON runs (ended_at) WHERE has_output = 1;

-- How many runs are in each state, kept in the transaction that changes them: counting a million
-- rows for each status would cost more than everything else together.
CREATE TABLE totals (
    state TEXT PRIMARY KEY,
    n     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: the number of the next run. Not max(run) + 1, which would hand out the numbers of pruned
-- runs again; output files and messages carry them.
CREATE TABLE sequence (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    next_run INTEGER NOT NULL
) STRICT;
INSERT INTO sequence (id, next_run) VALUES (1, 1);

-- Small values kept between daemons (boot id, pending messages).
CREATE TABLE notes (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
