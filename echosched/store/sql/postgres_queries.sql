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
FROM (SELECT * FROM unnest(%(run)s::bigint[], %(attempt)s::integer[], %(started_at)s::bigint[], %(pid)s::bigint[],
    %(start_ticks)s::bigint[]) AS f (run, attempt, at, pid, start_ticks) ORDER BY run) AS f
WHERE runs.run = f.run AND runs.attempt = f.attempt AND runs.started_at IS NULL

-- name: commit_later
SET LOCAL synchronous_commit = off

-- name: lock_jobs
SELECT name FROM jobs WHERE name = ANY(%(jobs)s::text[]) ORDER BY name FOR NO KEY UPDATE

-- name: lock_groups
SELECT pg_advisory_xact_lock(hashtext(current_schema() || '/' || g)) FROM (
    SELECT DISTINCT unnest(%(groups)s::text[]) AS g ORDER BY 1) AS sorted

-- name: unended
-- What guards an end: the runs that have no outcome yet.
SELECT run, attempt, state, started_at, attempts, job, grp, priority, queue, cancelled FROM runs
WHERE run = ANY(%(runs)s::bigint[]) AND ended_at IS NULL ORDER BY run FOR UPDATE

-- name: lock_groups_of
SELECT pg_advisory_xact_lock(hashtext(current_schema() || '/' || g)) FROM (
    SELECT DISTINCT grp AS g FROM runs WHERE run = ANY(%(runs)s::bigint[]) AND grp IS NOT NULL ORDER BY 1) AS sorted

-- name: end_runs
UPDATE runs SET state = f.state, ended_at = f.at, exit_code = f.exit_code, signal = f.signal, error = f.error,
    output_bytes = f.output_bytes, has_output = f.has_output, not_before_at = NULL, blocked = false, cancelled = NULL,
    started_at = coalesce(runs.started_at, f.started_at), pid = coalesce(runs.pid, f.pid),
    start_ticks = coalesce(runs.start_ticks, f.start_ticks)
FROM unnest(%(run)s::bigint[], %(state)s::text[], %(at)s::bigint[], %(exit_code)s::integer[], %(signal)s::integer[],
    %(error)s::text[], %(output_bytes)s::bigint[], %(has_output)s::boolean[], %(started_at)s::bigint[],
    %(pid)s::bigint[], %(start_ticks)s::bigint[])
    AS f (run, state, at, exit_code, signal, error, output_bytes, has_output, started_at, pid, start_ticks)
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

-- name: own_runs
SELECT {columns} FROM runs WHERE ended_at IS NULL AND state = 'running' AND owner = %(owner)s

-- name: get_runs
SELECT {columns} FROM runs WHERE run = ANY(%(runs)s::bigint[]) ORDER BY run

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
-- A run whose output lies on another host stays until that one has removed the output, or was itself removed.
SELECT run FROM runs WHERE queued_at < %(before)s AND ended_at IS NOT NULL AND (NOT has_output OR owner = %(owner)s
    OR NOT EXISTS (SELECT FROM instances AS i WHERE i.name = runs.owner)) ORDER BY queued_at LIMIT %(batch)s

-- name: surplus_runs
-- Ended runs of each job beyond its newest; the distinct jobs by hopping over the index.
WITH RECURSIVE hop (job) AS (
    SELECT min(job) FROM runs WHERE ended_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(job) FROM runs WHERE runs.job > hop.job AND ended_at IS NOT NULL) FROM hop WHERE hop.job IS NOT NULL
)
SELECT surplus.run FROM hop CROSS JOIN LATERAL (
    SELECT run, has_output, owner FROM runs WHERE runs.job = hop.job AND ended_at IS NOT NULL
    ORDER BY run DESC OFFSET %(keep)s LIMIT %(batch)s
) AS surplus WHERE hop.job IS NOT NULL AND (NOT has_output OR owner = %(owner)s
    OR NOT EXISTS (SELECT FROM instances AS i WHERE i.name = surplus.owner)) LIMIT %(batch)s

-- name: delete_runs
DELETE FROM runs WHERE run = ANY(%(runs)s::bigint[]) AND ended_at IS NOT NULL RETURNING run, attempt, state, has_output AND owner = %(owner)s

-- name: old_outputs
UPDATE runs SET has_output = false WHERE run IN (
    SELECT run FROM runs WHERE has_output AND owner = %(owner)s AND ended_at < %(before)s ORDER BY ended_at
    LIMIT %(batch)s FOR UPDATE SKIP LOCKED
) RETURNING run, attempt

-- name: delete_slots
DELETE FROM slots WHERE (slot, job) IN (
    SELECT slot, job FROM slots WHERE slot < %(before)s ORDER BY slot, job LIMIT %(batch)s) RETURNING job

-- name: instances
SELECT i.name, i.host, i.pid, i.version, i.started_at, i.heartbeat_at, i.heartbeat_at > clock_timestamp() - i.lease,
    i.capacity, i.labels, coalesce(r.running, 0), i.taken, i.lag, i.skew, i.draining, i.definitions
FROM instances AS i LEFT JOIN (
    SELECT owner, count(*) AS running FROM runs WHERE ended_at IS NULL AND state = 'running' GROUP BY owner
) AS r ON r.owner = i.name ORDER BY i.name

-- name: drain
UPDATE instances SET draining = %(draining)s WHERE name = %(name)s RETURNING name

-- name: is_alive
SELECT heartbeat_at > clock_timestamp() - lease FROM instances WHERE name = %(name)s FOR UPDATE

-- name: remove
DELETE FROM instances WHERE name = %(name)s

-- name: tell
-- What all instances should hear at once; delivered when the transaction commits.
SELECT pg_notify(current_schema(), %(message)s)

-- name: situations
-- What a new slot of these jobs meets, and what time it is. Asked after the jobs were locked. A run with a ticket
-- does not wait for its turn, it has it. A job whose row somebody deleted is one that is not paused.
SELECT w.name, coalesce(j.paused, false), count(r.run),
    count(r.run) FILTER (WHERE r.state = 'queued' AND (r.blocked OR r.not_before_at IS NOT NULL)), min(r.run),
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM unnest(%(jobs)s::text[]) AS w (name) LEFT JOIN jobs AS j ON j.name = w.name
    LEFT JOIN runs AS r ON r.job = w.name AND r.ended_at IS NULL
GROUP BY w.name, j.paused

-- name: taken_slots
SELECT s.job, s.slot FROM unnest(%(job)s::text[], %(slot)s::bigint[]) AS w (job, slot)
JOIN slots AS s ON s.slot = w.slot AND s.job = w.job

-- name: active_of
SELECT run, attempt, state, job, owner FROM runs WHERE job = ANY(%(jobs)s::text[]) AND ended_at IS NULL ORDER BY run FOR UPDATE

-- name: wish_cancelled
-- Also of a run that is queued again by now: whoever takes it ends it.
UPDATE runs SET cancelled = %(reason)s WHERE run = ANY(%(runs)s::bigint[]) AND ended_at IS NULL AND cancelled IS NULL

-- name: blocked_runs
SELECT run, attempt, job, exclusive, grp, grp_limit, queue, priority FROM runs
WHERE ended_at IS NULL AND blocked AND (job = ANY(%(jobs)s::text[]) OR grp = ANY(%(groups)s::text[]))
ORDER BY priority DESC, coalesce(slot, queued_at), run LIMIT 500

-- name: busy
-- How many runs of these jobs are on their way (not behind another), and how many of these groups are running.
SELECT 'job', job, count(*) FROM runs WHERE job = ANY(%(jobs)s::text[]) AND ended_at IS NULL AND NOT blocked GROUP BY job
UNION ALL
SELECT 'group', grp, count(*) FROM runs
WHERE grp = ANY(%(groups)s::text[]) AND ended_at IS NULL AND state = 'running' GROUP BY grp

-- name: running
SELECT 'job', job, count(*) FROM runs WHERE job = ANY(%(jobs)s::text[]) AND ended_at IS NULL AND state = 'running' GROUP BY job
UNION ALL
SELECT 'group', grp, count(*) FROM runs
WHERE grp = ANY(%(groups)s::text[]) AND ended_at IS NULL AND state = 'running' GROUP BY grp

-- name: unblock
UPDATE runs SET blocked = false WHERE run = ANY(%(runs)s::bigint[]) AND blocked

-- name: block
UPDATE runs SET blocked = true WHERE run = ANY(%(runs)s::bigint[]) AND state = 'queued'

-- name: fetch_tickets
-- Procrastinate's own fetch, several times in one round trip; the sum makes each a call of its own.
SELECT j.id, (j.args ->> 'run')::bigint, (j.args ->> 'attempt')::integer FROM generate_series(1, %(most)s) AS n,
    LATERAL procrastinate_fetch_job_v2(%(queues)s::varchar[], nullif(n, n)::bigint) AS j WHERE j.id IS NOT NULL

-- name: use_tickets
-- A ticket stands for a queued run. Whoever takes the run gives the ticket back in the same transaction.
SELECT procrastinate_finish_job_v1(id, 'succeeded', true) FROM unnest(%(tickets)s::bigint[]) AS id

-- name: ticketed_runs
SELECT run, attempt, job, exclusive, grp, grp_limit, queue, priority, definition, cancelled FROM runs
WHERE run = ANY(%(runs)s::bigint[]) AND state = 'queued' AND NOT blocked

-- name: take
WITH moved AS (
    UPDATE runs SET state = 'running', not_before_at = NULL, owner = %(owner)s
    WHERE run = ANY(%(runs)s::bigint[]) AND state = 'queued' RETURNING {columns}
), told AS (
    INSERT INTO tallies (state, n) SELECT v.state, v.sign * count(*)
    FROM moved, (VALUES ('queued', -1), ('running', 1)) AS v (state, sign) GROUP BY v.state, v.sign
)
SELECT {columns} FROM moved

-- name: give_back
-- Runs that were taken and did not begin. Whoever ended one of them, or took it meanwhile, was first.
WITH moved AS (
    UPDATE runs SET state = 'queued'
    FROM (SELECT * FROM unnest(%(run)s::bigint[], %(attempt)s::integer[]) AS f (run, attempt) ORDER BY run) AS f
    WHERE runs.run = f.run AND runs.attempt = f.attempt AND state = 'running' AND owner = %(owner)s
        AND started_at IS NULL AND queue IS NOT NULL
    RETURNING runs.run, runs.attempt, queue, priority, cancelled
), told AS (
    INSERT INTO tallies (state, n) SELECT v.state, v.sign * count(*)
    FROM moved, (VALUES ('running', -1), ('queued', 1)) AS v (state, sign) GROUP BY v.state, v.sign
)
SELECT run, attempt, queue, priority, cancelled FROM moved

-- name: reroute
UPDATE runs SET queue = f.queue FROM unnest(%(run)s::bigint[], %(queue)s::text[]) AS f (run, queue) WHERE runs.run = f.run

-- name: run_to_cancel
SELECT run, attempt, state, job, owner FROM runs WHERE run = %(run)s

-- name: cancelled_of
SELECT run, cancelled FROM runs WHERE owner = %(owner)s AND state = 'running' AND ended_at IS NULL AND cancelled IS NOT NULL

-- name: without_ticket
-- Queued runs that no ticket stands for any more: somebody emptied Procrastinate's tables.
SELECT run, attempt, queue, priority, not_before_at FROM runs
WHERE ended_at IS NULL AND state = 'queued' AND NOT blocked AND queue IS NOT NULL AND NOT EXISTS (
    SELECT FROM procrastinate_jobs AS j WHERE j.status = 'todo' AND j.args ->> 'run' = runs.run::text)
ORDER BY run LIMIT 500 FOR UPDATE SKIP LOCKED

-- name: waiting_behind
SELECT DISTINCT job, grp FROM runs WHERE ended_at IS NULL AND blocked

-- name: unfollowed
-- Runs that ended lately and whose slots the jobs that come after them have not got: a host died in between. Of
-- each job the newest, by its index; slots are newer than *since*, as the follower was in force by then.
SELECT w.follower, r.slot, r.state FROM unnest(%(job)s::text[], %(follower)s::text[], %(since)s::bigint[])
    AS w (job, follower, since) CROSS JOIN LATERAL (
    SELECT slot, state, ended_at FROM runs WHERE runs.job = w.job AND ended_at IS NOT NULL ORDER BY run DESC LIMIT 200
) AS r
WHERE r.slot > w.since AND r.ended_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %(reach)s
    AND NOT EXISTS (SELECT FROM slots AS s WHERE s.slot = r.slot AND s.job = w.follower)
ORDER BY r.slot

-- name: dead_runs
-- What instances run that have not been heard of for a lease. Only for an asker who was in touch all that time:
-- after an outage of the database everybody's heartbeat is old.
SELECT {columns} FROM runs WHERE ended_at IS NULL AND state = 'running' AND queue IS NOT NULL AND NOT EXISTS (
    SELECT FROM instances AS i WHERE i.name = runs.owner AND i.heartbeat_at > clock_timestamp() - i.lease
) AND EXISTS (
    SELECT FROM instances AS me WHERE me.name = %(owner)s AND me.connected_at < clock_timestamp() - me.lease
        AND me.heartbeat_at > clock_timestamp() - me.lease
) ORDER BY run LIMIT 500

-- name: still_dead
-- As dead_runs, of rows that are locked by now.
SELECT run FROM runs WHERE run = ANY(%(runs)s::bigint[]) AND state = 'running' AND NOT EXISTS (
    SELECT FROM instances AS i WHERE i.name = runs.owner AND i.heartbeat_at > clock_timestamp() - i.lease)

-- name: agree_anchors
-- The first one sets the anchor, for all.
INSERT INTO anchors (job, timing, anchor_at) SELECT * FROM unnest(%(job)s::text[], %(timing)s::text[], %(anchor_at)s::bigint[])
AS w (job) ORDER BY w.job ON CONFLICT DO NOTHING

-- name: anchors_of
SELECT a.job, a.anchor_at FROM unnest(%(job)s::text[], %(timing)s::text[]) AS w (job, timing)
JOIN anchors AS a ON a.job = w.job AND a.timing = w.timing

-- name: merge_jobs
-- As save_jobs, but a cursor that another instance has moved on stays there.
INSERT INTO jobs (name, cursor_at, anchor_at, timing, enabled, paused, parked)
SELECT * FROM unnest(%(name)s::text[], %(cursor_at)s::bigint[], %(anchor_at)s::bigint[], %(timing)s::text[],
    %(enabled)s::boolean[], %(paused)s::boolean[], %(parked)s::text[]) AS j (name) ORDER BY j.name
ON CONFLICT (name) DO UPDATE SET cursor_at = greatest(jobs.cursor_at, excluded.cursor_at), anchor_at = excluded.anchor_at,
    timing = excluded.timing, enabled = excluded.enabled, paused = excluded.paused, parked = excluded.parked

-- name: other_of_that_name
SELECT host, pid, home FROM instances WHERE name = %(name)s AND heartbeat_at > clock_timestamp() - lease FOR UPDATE

-- name: join
INSERT INTO instances (name, home, host, pid, version, lease, capacity, labels, skew, definitions)
VALUES (%(name)s, %(home)s, %(host)s, %(pid)s, %(version)s, make_interval(secs => %(lease)s), %(capacity)s,
    %(labels)s::text[], %(skew)s, %(definitions)s::jsonb)
ON CONFLICT (name) DO UPDATE SET home = excluded.home, host = excluded.host, pid = excluded.pid,
    version = excluded.version, lease = excluded.lease, capacity = excluded.capacity, labels = excluded.labels,
    skew = excluded.skew, definitions = excluded.definitions, started_at = clock_timestamp(),
    connected_at = clock_timestamp(), heartbeat_at = clock_timestamp(), taken = 0, lag = NULL

-- name: beat
-- After a gap of more than two beats, count the time in touch anew.
UPDATE instances SET heartbeat_at = clock_timestamp(), taken = %(taken)s, lag = %(lag)s, skew = %(skew)s,
    connected_at = CASE WHEN heartbeat_at < clock_timestamp() - make_interval(secs => %(gap)s)
        THEN clock_timestamp() ELSE connected_at END
WHERE name = %(name)s AND home = %(home)s
RETURNING (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, draining

-- name: living
SELECT name, capacity, labels FROM instances WHERE heartbeat_at > clock_timestamp() - lease AND NOT draining

-- name: define
UPDATE instances SET capacity = %(capacity)s, labels = %(labels)s::text[], definitions = %(definitions)s::jsonb
WHERE name = %(name)s

-- name: leave
-- Gone on purpose: nobody has to wait for its lease.
UPDATE instances SET lease = interval '0' WHERE name = %(name)s AND home = %(home)s

-- name: now
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- name: passed_on
-- The queues in which runs wait for an instance with their definition.
SELECT DISTINCT queue FROM runs WHERE ended_at IS NULL AND state = 'queued' AND queue LIKE '%%#%%'

-- name: orphans
-- Queued runs whose definition no living instance has any more, and whether any has a job of that name.
WITH books AS (SELECT definitions FROM instances WHERE heartbeat_at > clock_timestamp() - lease)
SELECT run, attempt, job, queue, priority, EXISTS (SELECT FROM books WHERE definitions ? runs.job), not_before_at FROM runs
WHERE ended_at IS NULL AND state = 'queued' AND definition IS NOT NULL AND NOT blocked
    AND queued_at < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %(patience)s
    AND NOT EXISTS (SELECT FROM books WHERE definitions ->> runs.job = runs.definition)
ORDER BY run LIMIT 500

-- name: redefine
UPDATE runs SET definition = NULL, queue = split_part(queue, '#', 1) WHERE run = ANY(%(runs)s::bigint[]) AND state = 'queued'

-- name: probe
SELECT current_setting('server_version'), current_user, current_database(), pg_is_in_recovery(),
    has_database_privilege(current_database(), 'CREATE')

-- name: probe_tables
-- What the role may do with our tables, whether or not it may see into the schema; also Procrastinate's.
SELECT c.relname, has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relkind = 'r' ORDER BY c.relname

-- name: schema_version
SELECT version FROM meta
