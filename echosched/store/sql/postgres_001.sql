-- Schema 1 of the store for many hosts. The tables of one machine (schema_001.sql) with the same names and
-- meanings: instants are whole microseconds since the Unix epoch, states and triggers are words. What is added
-- is what one machine keeps in memory: who waits for whom, who runs what, which instances live.

CREATE TABLE jobs (
    name      text PRIMARY KEY,
    cursor_at bigint NOT NULL,
    anchor_at bigint,
    timing    text NOT NULL DEFAULT '',
    enabled   boolean NOT NULL DEFAULT true,
    paused    boolean NOT NULL DEFAULT false,
    parked    text,
    last_run  bigint
) WITH (fillfactor = 70);

-- Where intervals without a begin count from. By timing, so that two definitions of one job, side by side
-- during a roll-out, keep an anchor each; the first instance that needs one sets it for all.
CREATE TABLE anchors (
    job       text NOT NULL,
    timing    text NOT NULL,
    anchor_at bigint NOT NULL,
    PRIMARY KEY (job, timing)
);

-- The dedup key: whoever inserts the row has the slot.
CREATE TABLE slots (
    slot bigint NOT NULL,
    job  text NOT NULL,
    run  bigint NOT NULL,
    PRIMARY KEY (slot, job)
);

CREATE SEQUENCE run_numbers;

CREATE TABLE runs (
    run           bigint PRIMARY KEY,
    job           text NOT NULL,
    slot          bigint,
    trigger       text NOT NULL,
    attempt       integer NOT NULL DEFAULT 1,
    state         text NOT NULL,
    queued_at     bigint NOT NULL,
    started_at    bigint,
    ended_at      bigint,
    exit_code     integer,
    signal        integer,
    error         text,
    output_bytes  bigint,
    owner         text,                            -- the instance that claimed it, then the one that runs it
    not_before_at bigint,
    priority      integer NOT NULL DEFAULT 0,
    pid           bigint,
    start_ticks   bigint,
    attempts      text,
    has_output    boolean NOT NULL DEFAULT false,
    queue         text,                            -- where it is offered: the labels that its job asks for
    definition    text,                            -- which definition of its job is to be run; null: any
    exclusive     boolean NOT NULL DEFAULT false,  -- starts only when no other run of its job is running
    blocked       boolean NOT NULL DEFAULT false,  -- queued without a ticket, behind another run
    grp           text,                            -- concurrency group, and how many of it may run at once
    grp_limit     integer,
    cancelled     text                             -- why it is to be ended, as long as it runs on
) WITH (fillfactor = 70);

CREATE INDEX runs_by_job ON runs (job, run) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_by_age ON runs (queued_at);
CREATE INDEX runs_active ON runs (job, run) WHERE ended_at IS NULL;
CREATE INDEX runs_by_outcome ON runs (state, run) WHERE ended_at IS NOT NULL;
CREATE INDEX runs_with_output ON runs (ended_at) WHERE has_output;
CREATE INDEX runs_in_group ON runs (grp) WHERE ended_at IS NULL AND grp IS NOT NULL;

-- How many runs are in each state, as changes to be added up: a counter that every transaction updates would
-- let all hosts wait for each other's commits. The sweep folds them.
CREATE TABLE tallies (
    state text NOT NULL,
    n     bigint NOT NULL
);

CREATE TABLE notes (
    key   text PRIMARY KEY,
    value text NOT NULL
);

-- Who takes part. heartbeat_at and connected_at are the database's clock, whatever the hosts' clocks say.
CREATE TABLE instances (
    name         text PRIMARY KEY,
    home         text NOT NULL,     -- host and database path: tells a restart from a second daemon of that name
    host         text NOT NULL,
    pid          bigint NOT NULL,
    version      text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    connected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease        interval NOT NULL,
    capacity     integer NOT NULL,
    labels       text[] NOT NULL DEFAULT '{}',
    draining     boolean NOT NULL DEFAULT false,
    taken        bigint NOT NULL DEFAULT 0,
    lag          double precision,
    skew         double precision NOT NULL DEFAULT 0,
    definitions  jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
