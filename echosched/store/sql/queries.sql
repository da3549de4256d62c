-- The queries of the SQLite store, by name. `{rows}` stands for as many rows of parameters as the
-- caller has: one statement for many rows, because Python's sqlite3 gives up and takes back the
-- interpreter lock around every single step, and beside a busy event loop that costs up to 5 ms a row.

-- name: next_runs
-- Take ? run numbers; the answer is the first number after them.
UPDATE sequence SET next_run = next_run + ? WHERE id = 1 RETURNING next_run

-- name: raise_next_run
-- Numbers up to ? were given out from memory: never hand them out again.
UPDATE sequence SET next_run = max(next_run, ? + 1) WHERE id = 1

-- name: read_next_run
SELECT next_run FROM sequence WHERE id = 1

-- name: claim_slots (3)
-- The claim itself: whose row it is has the slot.
INSERT INTO slots (job, slot, run) VALUES {rows} ON CONFLICT DO NOTHING

-- name: won_slots (3)
-- Which of these slots went to these runs; asked only when some claims were too late.
WITH wanted (job, slot, run) AS (VALUES {rows})
SELECT json_group_array(s.run) FROM wanted AS w JOIN slots AS s ON s.job = w.job AND s.slot = w.slot AND s.run = w.run

-- name: insert_runs (10)
INSERT INTO runs (run, job, slot, trigger, state, queued_at, ended_at, error, owner, priority) VALUES {rows}

-- name: advance_cursors (2)
-- Also makes the row of a job that was never saved. A cursor never goes back.
INSERT INTO jobs (name, cursor_at) VALUES {rows}
ON CONFLICT (name) DO UPDATE SET cursor_at = excluded.cursor_at WHERE excluded.cursor_at > cursor_at

-- name: add_totals (2)
INSERT INTO totals (state, n) VALUES {rows} ON CONFLICT (state) DO UPDATE SET n = n + excluded.n

-- name: unended (1)
-- What guards an end: the runs that have no outcome yet, in one answer row.
WITH wanted (run) AS (VALUES {rows})
SELECT json_group_array(json_array(r.run, r.attempt, r.state, r.started_at, r.attempts))
FROM wanted AS w JOIN runs AS r ON r.run = w.run WHERE r.ended_at IS NULL

-- name: start_queued (2)
WITH wanted (run, owner) AS (VALUES {rows})
UPDATE runs SET state = 'running', not_before_at = NULL, owner = wanted.owner FROM wanted
WHERE runs.run = wanted.run AND runs.state = 'queued'

-- name: note_starts (5)
-- A start may be written after the end of its attempt (they travel apart when the disk was full),
-- but not onto a later attempt.
WITH fact (run, attempt, at, pid, start_ticks) AS (VALUES {rows})
UPDATE runs SET started_at = fact.at, pid = fact.pid, start_ticks = fact.start_ticks FROM fact
WHERE runs.run = fact.run AND runs.attempt = fact.attempt AND runs.started_at IS NULL

-- name: end_runs (8)
WITH fact (run, state, at, exit_code, signal, error, output_bytes, has_output) AS (VALUES {rows})
UPDATE runs SET state = fact.state, ended_at = fact.at, exit_code = fact.exit_code, signal = fact.signal,
    error = fact.error, output_bytes = fact.output_bytes, has_output = fact.has_output, not_before_at = NULL
FROM fact WHERE runs.run = fact.run

-- name: requeue_runs (3)
-- The attempt that ended moves into the list of attempts; the row is that of the next one.
WITH fact (run, not_before_at, attempts) AS (VALUES {rows})
UPDATE runs SET state = 'queued', attempt = attempt + 1, not_before_at = fact.not_before_at,
    attempts = fact.attempts, started_at = NULL, exit_code = NULL, signal = NULL, error = NULL,
    output_bytes = NULL, pid = NULL, start_ticks = NULL
FROM fact WHERE runs.run = fact.run

-- name: last_runs (2)
WITH fact (job, run) AS (VALUES {rows})
UPDATE jobs SET last_run = fact.run FROM fact
WHERE jobs.name = fact.job AND (jobs.last_run IS NULL OR jobs.last_run < fact.run)

-- name: save_jobs (7)
INSERT INTO jobs (name, cursor_at, anchor_at, timing, enabled, paused, parked) VALUES {rows}
ON CONFLICT (name) DO UPDATE SET cursor_at = excluded.cursor_at, anchor_at = excluded.anchor_at,
    timing = excluded.timing, enabled = excluded.enabled, paused = excluded.paused, parked = excluded.parked

-- name: load_jobs
-- One page, by name.
SELECT name, cursor_at, anchor_at, timing, enabled, paused, parked, last_run
FROM jobs WHERE name > ? ORDER BY name LIMIT ?

-- name: active
SELECT {columns} FROM runs WHERE ended_at IS NULL

-- name: get_run
SELECT {columns} FROM runs WHERE run = ?

-- name: get_runs
SELECT {columns} FROM runs WHERE run IN (SELECT value FROM json_each(?))

-- name: counts
SELECT state, n FROM totals

-- name: real_counts
SELECT state, count(*) FROM runs GROUP BY state

-- name: get_note
SELECT value FROM notes WHERE key = ?

-- name: set_note
INSERT INTO notes (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: forget_note
DELETE FROM notes WHERE key = ?

-- name: jobs_with_runs
-- The distinct jobs after :after, by hopping over the index instead of walking a million entries.
WITH RECURSIVE hop (job) AS (
    SELECT min(job) FROM runs WHERE job > :after AND ended_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(job) FROM runs WHERE runs.job > hop.job AND ended_at IS NOT NULL)
    FROM hop WHERE hop.job IS NOT NULL
)
SELECT job FROM hop WHERE job IS NOT NULL LIMIT :limit

-- name: old_runs
SELECT run FROM runs WHERE queued_at < ? AND ended_at IS NOT NULL ORDER BY queued_at LIMIT ?

-- name: surplus_runs
-- Ended runs of a job beyond its newest :keep, oldest first.
SELECT run FROM runs WHERE job = :job AND ended_at IS NOT NULL AND run <= (
    SELECT run FROM runs WHERE job = :job AND ended_at IS NOT NULL ORDER BY run DESC LIMIT 1 OFFSET :keep
) ORDER BY run LIMIT :limit

-- name: last_old_slot
-- Where a batch of slot rows ends: the (? + 1)th of those before ?.
SELECT slot, job FROM slots WHERE slot < ? ORDER BY slot, job LIMIT 1 OFFSET ?

-- name: newest_old_slot
SELECT slot, job FROM slots WHERE slot < ? ORDER BY slot DESC, job DESC LIMIT 1

-- name: old_outputs
SELECT run FROM runs WHERE has_output = 1 AND ended_at < ? ORDER BY ended_at LIMIT ?

-- name: outputs_of (1)
WITH wanted (run) AS (VALUES {rows})
SELECT json_group_array(json_array(r.run, r.attempt, r.state, r.has_output))
FROM wanted AS w JOIN runs AS r ON r.run = w.run WHERE r.ended_at IS NOT NULL

-- name: give_up_outputs (1)
WITH wanted (run) AS (VALUES {rows})
UPDATE runs SET has_output = 0 FROM wanted WHERE runs.run = wanted.run

-- name: delete_runs (1)
DELETE FROM runs WHERE run IN (VALUES {rows}) AND ended_at IS NOT NULL

-- name: delete_slots
-- All slot rows up to one of them.
DELETE FROM slots WHERE (slot, job) <= (?, ?)

-- name: runs_in_period
-- Whether a period holds few runs; counting stops at the last parameter.
SELECT count(*) FROM (SELECT 1 FROM runs WHERE queued_at >= ? AND queued_at < ? LIMIT ?)

-- name: known_slots (2)
-- Which of these slots are accounted for.
WITH wanted (slot, job) AS (VALUES {rows})
SELECT json_group_array(json_array(s.job, s.slot)) FROM wanted AS w JOIN slots AS s ON s.slot = w.slot AND s.job = w.job

-- name: known_states (1)
WITH wanted (run) AS (VALUES {rows})
SELECT json_group_array(json_array(r.run, r.state, r.ended_at IS NOT NULL)) FROM wanted AS w JOIN runs AS r ON r.run = w.run

-- name: restore_runs (20)
-- Whole rows, from memory, after a time in which nothing could be written. Rows that have an outcome
-- are sorted out before; what is left may be overwritten as often as the writing has to be repeated.
INSERT INTO runs (run, job, slot, trigger, attempt, state, queued_at, started_at, ended_at, exit_code, signal,
    error, output_bytes, owner, not_before_at, priority, pid, start_ticks, attempts, has_output)
VALUES {rows}
ON CONFLICT (run) DO UPDATE SET attempt = excluded.attempt, state = excluded.state,
    started_at = excluded.started_at, ended_at = excluded.ended_at, exit_code = excluded.exit_code,
    signal = excluded.signal, error = excluded.error, output_bytes = excluded.output_bytes,
    owner = excluded.owner, not_before_at = excluded.not_before_at, pid = excluded.pid,
    start_ticks = excluded.start_ticks, attempts = excluded.attempts, has_output = excluded.has_output
