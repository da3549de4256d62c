-- The queries of the PostgreSQL store, by name. Many rows travel as arrays, one for each column: one statement
-- and one round trip, whatever their number. Rows are touched in the order of their keys, and in every
-- transaction groups come before jobs and jobs before runs, so that two of them wait rather than deadlock.

-- name: claim
-- The claim itself: whose row it is in slots has the slot.
WITH wanted AS (
    SELECT * FROM unnest(%(job)s::text[], %(slot)s::bigint[], %(trigger)s::text[], %(state)s::text[], %(at)s::bigint[],
        %(ended_at)s::bigint[], %(error)s::text[], %(priority)s::integer[], %(queue)s::text[],
        %(definition)s::text[], %(exclusive)s::boolean[], %(blocked)s::boolean[], %(grp)s::text[], %(grp_limit)s::integer[])
    WITH ORDINALITY AS w (job, slot, trigger, state, at, ended_at, error, priority, queue, definition, exclusive,
        blocked, grp, grp_limit, place)
), numbered AS MATERIALIZED (
    SELECT *, nextval('run_numbers') AS run FROM wanted ORDER BY place
), won AS (
    INSERT INTO slots (slot, job, run) SELECT slot, job, run FROM numbered WHERE slot IS NOT NULL ORDER BY slot, job
    ON CONFLICT DO NOTHING RETURNING run
), made AS (
    INSERT INTO runs (run, job, slot, trigger, state, queued_at, ended_at, error, owner, priority, queue, definition,
        exclusive, blocked, grp, grp_limit)
    SELECT run, job, slot, trigger, state, at, ended_at, error, %(owner)s, priority, queue, definition, exclusive,
        blocked, grp, grp_limit
    FROM numbered WHERE slot IS NULL OR run IN (SELECT run FROM won)
    RETURNING run, state
), moved AS (
    INSERT INTO jobs (name, cursor_at) SELECT job, max(slot) FROM numbered WHERE slot IS NOT NULL GROUP BY job ORDER BY job
    ON CONFLICT (name) DO UPDATE SET cursor_at = excluded.cursor_at WHERE jobs.cursor_at < excluded.cursor_at
), told AS (
    INSERT INTO tallies (state, n) SELECT state, count(*) FROM made GROUP BY state
)
SELECT numbered.run, made.run IS NOT NULL FROM numbered LEFT JOIN made ON made.run = numbered.run ORDER BY place

-- name: starting
WITH moved AS (
    UPDATE runs SET state = 'running', not_before_at = NULL, blocked = false, owner = %(owner)s
    WHERE run = ANY(%(runs)s::bigint[]) AND state = 'queued' RETURNING run
)
INSERT INTO tallies (state, n)
SELECT v.state, v.sign * count(*) FROM moved, (VALUES ('queued', -1), ('running', 1)) AS v (state, sign) GROUP BY v.state, v.sign

-- name: note_starts
-- A start may be written after the end of its attempt, but not onto a later attempt.
UPDATE runs SET started_at = f.at, pid = f.pid, start_ticks = f.start_ticks
FROM (SELECT * FROM unnest(%(run)s::bigint[], %(attempt)s::integer[], %(at)s::bigint[], %(pid)s::bigint[],
    %(start_ticks)s::bigint[]) AS f (run, attempt, at, pid, start_ticks) ORDER BY run) AS f
WHERE runs.run = f.run AND runs.attempt = f.attempt AND runs.started_at IS NULL

-- name: lock_jobs
SELECT name FROM jobs WHERE name = ANY(%(jobs)s::text[]) ORDER BY name FOR NO KEY UPDATE

-- name: lock_groups
SELECT pg_advisory_xact_lock(hashtext(current_schema() || '/' || g)) FROM (
    SELECT DISTINCT unnest(%(groups)s::text[]) AS g ORDER BY 1) AS sorted

-- name: unended
-- What guards an end: the runs that have no outcome yet.
SELECT run, attempt, state, started_at, attempts, job, grp, priority, queue FROM runs
WHERE run = ANY(%(runs)s::bigint[]) AND ended_at IS NULL ORDER BY run FOR UPDATE

-- name: groups_of
SELECT DISTINCT grp FROM runs WHERE run = ANY(%(runs)s::bigint[]) AND grp IS NOT NULL

-- name: end_runs
UPDATE runs SET state = f.state, ended_at = f.at, exit_code = f.exit_code, signal = f.signal, error = f.error,
    output_bytes = f.output_bytes, has_output = f.has_output, not_before_at = NULL, blocked = false, cancelled = NULL
FROM unnest(%(run)s::bigint[], %(state)s::text[], %(at)s::bigint[], %(exit_code)s::integer[], %(signal)s::integer[],
    %(error)s::text[], %(output_bytes)s::bigint[], %(has_output)s::boolean[])
    AS f (run, state, at, exit_code, signal, error, output_bytes, has_output)
WHERE runs.run = f.run

-- name: requeue_runs
-- The attempt that ended moves into the list of attempts; the row is that of the next one.
UPDATE runs SET state = 'queued', attempt = attempt + 1, not_before_at = f.not_before_at, attempts = f.attempts,
    started_at = NULL, exit_code = NULL, signal = NULL, error = NULL, output_bytes = NULL, pid = NULL, start_ticks = NULL
FROM unnest(%(run)s::bigint[], %(not_before_at)s::bigint[], %(attempts)s::text[]) AS f (run, not_before_at, attempts)
WHERE runs.run = f.run

-- name: last_runs
UPDATE jobs SET last_run = f.run FROM unnest(%(job)s::text[], %(run)s::bigint[]) AS f (job, run)
WHERE jobs.name = f.job AND (jobs.last_run IS NULL OR jobs.last_run < f.run)

-- name: add_tallies
INSERT INTO tallies (state, n) SELECT * FROM unnest(%(state)s::text[], %(n)s::bigint[])

-- name: save_jobs
INSERT INTO jobs (name, cursor_at, anchor_at, timing, enabled, paused, parked)
SELECT * FROM unnest(%(name)s::text[], %(cursor_at)s::bigint[], %(anchor_at)s::bigint[], %(timing)s::text[],
    %(enabled)s::boolean[], %(paused)s::boolean[], %(parked)s::text[]) AS j (name) ORDER BY j.name
ON CONFLICT (name) DO UPDATE SET cursor_at = excluded.cursor_at, anchor_at = excluded.anchor_at,
    timing = excluded.timing, enabled = excluded.enabled, paused = excluded.paused, parked = excluded.parked

-- name: load_jobs
SELECT {columns} FROM jobs

-- name: active
SELECT {columns} FROM runs WHERE ended_at IS NULL

-- name: get_run
SELECT {columns} FROM runs WHERE run = %(run)s

-- name: counts
SELECT state, sum(n)::bigint FROM tallies GROUP BY state

-- name: real_counts
SELECT state, count(*) FROM runs GROUP BY state

-- name: fold_tallies
-- Many small changes become one row for each state; rows that come meanwhile are left for the next time.
WITH gone AS (DELETE FROM tallies WHERE ctid = ANY(ARRAY(SELECT ctid FROM tallies FOR UPDATE SKIP LOCKED)) RETURNING state, n)
INSERT INTO tallies (state, n) SELECT state, sum(n) FROM gone GROUP BY state

-- name: get_note
SELECT value FROM notes WHERE key = %(key)s

-- name: set_note
INSERT INTO notes (key, value) VALUES (%(key)s, %(value)s) ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: forget_note
DELETE FROM notes WHERE key = %(key)s

-- name: old_runs
SELECT run FROM runs WHERE queued_at < %(before)s AND ended_at IS NOT NULL ORDER BY queued_at LIMIT %(batch)s

-- name: surplus_runs
-- Ended runs of each job beyond its newest; the distinct jobs by hopping over the index.
WITH RECURSIVE hop (job) AS (
    SELECT min(job) FROM runs WHERE ended_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(job) FROM runs WHERE runs.job > hop.job AND ended_at IS NOT NULL) FROM hop WHERE hop.job IS NOT NULL
)
SELECT surplus.run FROM hop CROSS JOIN LATERAL (
    SELECT run FROM runs WHERE runs.job = hop.job AND ended_at IS NOT NULL ORDER BY run DESC OFFSET %(keep)s LIMIT %(batch)s
) AS surplus WHERE hop.job IS NOT NULL LIMIT %(batch)s

-- name: delete_runs
DELETE FROM runs WHERE run = ANY(%(runs)s::bigint[]) AND ended_at IS NOT NULL RETURNING run, attempt, state, has_output

-- name: old_outputs
UPDATE runs SET has_output = false WHERE run IN (
    SELECT run FROM runs WHERE has_output AND ended_at < %(before)s ORDER BY ended_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED
) RETURNING run, attempt

-- name: delete_slots
DELETE FROM slots WHERE (slot, job) IN (
    SELECT slot, job FROM slots WHERE slot < %(before)s ORDER BY slot, job LIMIT %(batch)s)

-- name: instances
SELECT i.name, i.host, i.pid, i.version, i.started_at, i.heartbeat_at, i.heartbeat_at > clock_timestamp() - i.lease,
    i.capacity, i.labels, coalesce(r.running, 0), i.taken, i.lag, i.skew, i.draining, i.definitions
FROM instances AS i LEFT JOIN (
    SELECT owner, count(*) AS running FROM runs WHERE ended_at IS NULL AND state = 'running' GROUP BY owner
) AS r ON r.owner = i.name ORDER BY i.name

-- name: drain
UPDATE instances SET draining = %(draining)s WHERE name = %(name)s

-- name: is_alive
SELECT heartbeat_at > clock_timestamp() - lease FROM instances WHERE name = %(name)s FOR UPDATE

-- name: remove
DELETE FROM instances WHERE name = %(name)s

-- name: tell
-- What all instances should hear at once; delivered when the transaction commits.
SELECT pg_notify(current_schema(), %(message)s)
