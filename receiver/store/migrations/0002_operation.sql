-- What it takes to operate handlers for years. Adds only; the release before this one goes on working beside it.

-- Handlers ---------------------------------------------------------------------------------------------------------

CREATE TABLE handlers (
    name text PRIMARY KEY,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    breaker_since timestamptz,
    breaker_error text,
    breaker_probe_at timestamptz
);
COMMENT ON TABLE handlers IS 'What people and the breaker have decided about a handler. A handler without a row is running.';
COMMENT ON COLUMN handlers.name IS 'Name of the handler.';
COMMENT ON COLUMN handlers.state IS 'running or paused (by a person: its cursors stand still).';
COMMENT ON COLUMN handlers.changed_at IS 'When the state was last changed.';
COMMENT ON COLUMN handlers.changed_by IS 'Account of the operating system that changed it.';
COMMENT ON COLUMN handlers.reason IS 'Why, in that person''s words.';
COMMENT ON COLUMN handlers.breaker_since IS 'Since when its breaker is open, because it failed for everything; NULL: closed.';
COMMENT ON COLUMN handlers.breaker_error IS 'The failure that opened the breaker, scrubbed of addresses.';
COMMENT ON COLUMN handlers.breaker_probe_at IS 'When the next event is tried while the breaker is open.';

-- Events -----------------------------------------------------------------------------------------------------------

COMMENT ON COLUMN events.attribution IS 'ambiguous: the provider named several recipients and does not say which of them it was. unverified: a bounce message or feedback report, which anybody can forge.';

-- Quarantine -------------------------------------------------------------------------------------------------------

COMMENT ON COLUMN quarantine.fingerprint IS 'SHA-256 of the content, or of the signed text where that is not the content: each is kept once while it is open.';

-- Dead letters and replays ----------------------------------------------------------------------------------------

ALTER TABLE retries ADD COLUMN side_effects boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN retries.side_effects IS 'For a replay: whether the handler may have effects outside the database.';
ALTER TABLE retries ADD COLUMN replay_id bigint;
COMMENT ON COLUMN retries.replay_id IS 'replays.id, for a replay.';
ALTER TABLE dead_letters ADD COLUMN replay_id bigint;
COMMENT ON COLUMN dead_letters.replay_id IS 'The replay (replays.id) in which the handler gave up; NULL otherwise.';
ALTER TABLE dead_letters ADD COLUMN replaying boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN dead_letters.replaying IS 'It came in a replay, without effects outside the database, and will again when it is retried.';
CREATE INDEX retries_replay ON retries (replay_id) WHERE replay_id IS NOT NULL;
CREATE INDEX dead_letters_replay ON dead_letters (replay_id) WHERE replay_id IS NOT NULL;

CREATE TABLE attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler text NOT NULL,
    event_id uuid NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error_type text NOT NULL,
    error text NOT NULL,
    traceback text,
    worker text NOT NULL,
    dead_letter_id bigint REFERENCES dead_letters ON DELETE CASCADE
);
CREATE INDEX attempts_event ON attempts (handler, event_id, id);
CREATE INDEX attempts_letter ON attempts (dead_letter_id) WHERE dead_letter_id IS NOT NULL;
COMMENT ON TABLE attempts IS 'Every attempt that did not handle an event, the latest 50 of each: kept while the event waits in retries, then with its dead letter. Removed when the event is handled after all, or with the handler.';
COMMENT ON COLUMN attempts.id IS 'Number; rises with time.';
COMMENT ON COLUMN attempts.handler IS 'Name of the handler.';
COMMENT ON COLUMN attempts.event_id IS 'events.id.';
COMMENT ON COLUMN attempts.attempt IS 'How many attempts had failed by then, with this one; asking for later is no failure.';
COMMENT ON COLUMN attempts.at IS 'When it ended.';
COMMENT ON COLUMN attempts.error_type IS 'Class of the exception, RetryAfter or GiveUp.';
COMMENT ON COLUMN attempts.error IS 'Its message, scrubbed of addresses.';
COMMENT ON COLUMN attempts.traceback IS 'Its traceback, scrubbed of addresses; of a long one the end.';
COMMENT ON COLUMN attempts.worker IS 'Host and process that ran the handler.';
COMMENT ON COLUMN attempts.dead_letter_id IS 'The dead letter that the attempt led to, and with which it goes.';

CREATE TABLE replays (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler text NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'cancelled')),
    selection jsonb NOT NULL,
    accepts jsonb NOT NULL,
    side_effects boolean NOT NULL,
    events bigint NOT NULL,
    put bigint NOT NULL DEFAULT 0,
    busy bigint NOT NULL DEFAULT 0,
    shard smallint NOT NULL DEFAULT -1,
    gen smallint NOT NULL DEFAULT 0,
    txid xid8 NOT NULL DEFAULT '0',
    position bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL,
    ended_at timestamptz
);
COMMENT ON TABLE replays IS 'Selections of stored events that someone has handed to a handler again, and how far that has come.';
COMMENT ON COLUMN replays.id IS 'Number, for people.';
COMMENT ON COLUMN replays.handler IS 'Name of the handler.';
COMMENT ON COLUMN replays.state IS 'running: not all events have been put into retries yet. done: all have. cancelled: someone ended it.';
COMMENT ON COLUMN replays.selection IS 'Which events, as the command line was told.';
COMMENT ON COLUMN replays.accepts IS 'The handler''s own filter, when the replay was started.';
COMMENT ON COLUMN replays.side_effects IS 'Whether the handler may have effects outside the database (ctx.replaying is false then).';
COMMENT ON COLUMN replays.events IS 'How many events were counted at the start.';
COMMENT ON COLUMN replays.put IS 'How many of them have been put into retries.';
COMMENT ON COLUMN replays.busy IS 'How many were left out because they waited in retries already.';
COMMENT ON COLUMN replays.shard IS 'The last event that was looked at: shard. Events are taken in the order of the index events_log.';
COMMENT ON COLUMN replays.gen IS 'Likewise: generation.';
COMMENT ON COLUMN replays.txid IS 'Likewise: transaction.';
COMMENT ON COLUMN replays.position IS 'Likewise: position.';
COMMENT ON COLUMN replays.started_at IS 'When it was started; later events are no part of it.';
COMMENT ON COLUMN replays.started_by IS 'Account of the operating system that started it.';
COMMENT ON COLUMN replays.ended_at IS 'When its state was last changed.';

-- Lanes: old events for one handler, beside its new ones -----------------------------------------------------------

ALTER TABLE cursors
    ADD COLUMN until_gen smallint,
    ADD COLUMN until_txid xid8,
    ADD COLUMN until_position bigint,
    ADD COLUMN until_pending xid8[],
    ADD COLUMN handled bigint NOT NULL DEFAULT 0,
    ADD COLUMN lately double precision NOT NULL DEFAULT 0;
COMMENT ON COLUMN cursors.until_gen IS 'Of a lane (see lanes): the place after which nothing is read, which is where the handler''s own cursor stood: generation.';
COMMENT ON COLUMN cursors.until_txid IS 'Likewise: transaction.';
COMMENT ON COLUMN cursors.until_position IS 'Likewise: position.';
COMMENT ON COLUMN cursors.until_pending IS 'Likewise: transactions before that place whose events are the handler''s own cursor''s to read.';
COMMENT ON COLUMN cursors.handled IS 'Events that were passed since the cursor was made.';
COMMENT ON COLUMN cursors.lately IS 'Events that were passed lately, each counting less with time (to 1/e in a minute): the rate in events per minute at updated_at.';

ALTER TABLE handlers
    ADD COLUMN revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN began_at timestamptz,
    ADD COLUMN began_gen smallint,
    ADD COLUMN began_txid xid8,
    ADD COLUMN began_pending xid8[];
COMMENT ON COLUMN handlers.revision IS 'Raised when people change the state or the cursors: workers then look at once.';
COMMENT ON COLUMN handlers.began_at IS 'When its cursors were made. With the next three, what came before the handler: a backfill ends exactly there.';
COMMENT ON COLUMN handlers.began_gen IS 'Where the log ended then: generation.';
COMMENT ON COLUMN handlers.began_txid IS 'Likewise: the last transaction.';
COMMENT ON COLUMN handlers.began_pending IS 'Likewise: transactions that were running, whose events the cursors read.';

CREATE TABLE lanes (
    handler text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('rewind', 'backfill')),
    since timestamptz NOT NULL,
    replaying boolean NOT NULL DEFAULT true,
    rate double precision CHECK (rate > 0),
    total bigint,
    started_at timestamptz NOT NULL DEFAULT now(),
    started_by text NOT NULL
);
COMMENT ON TABLE lanes IS 'Old events that a handler is given beside its new ones, by cursors of their own named <handler>/lane. The row is removed when all have been handled.';
COMMENT ON COLUMN lanes.handler IS 'Name of the handler.';
COMMENT ON COLUMN lanes.kind IS 'rewind: it had these events before. backfill: they came before the handler.';
COMMENT ON COLUMN lanes.since IS 'Events received before this are left out.';
COMMENT ON COLUMN lanes.replaying IS 'Whether the handler is told so (ctx.replaying), which turns effects outside the database off.';
COMMENT ON COLUMN lanes.rate IS 'Events a second at most, all workers together; NULL: no limit.';
COMMENT ON COLUMN lanes.total IS 'Events to be handled, counted before the start; NULL: not counted.';
COMMENT ON COLUMN lanes.started_at IS 'When it was asked for.';
COMMENT ON COLUMN lanes.started_by IS 'Account of the operating system that asked; empty: the handler''s own `start`.';

-- Order ------------------------------------------------------------------------------------------------------------

ALTER TABLE retries DROP CONSTRAINT retries_cause_check;
ALTER TABLE retries ADD CONSTRAINT retries_cause_check CHECK (cause IN ('failed', 'asked', 'replay', 'parked'));
COMMENT ON COLUMN retries.cause IS 'failed: it raised. asked: it returned RetryAfter. replay: someone asked for it. parked: an ordered handler''s, waits behind an earlier one of its key.';
COMMENT ON COLUMN retries.next_at IS 'When the event is due; infinity: when the one before it is settled.';
ALTER TABLE retries ADD COLUMN ordering_key bigint;
COMMENT ON COLUMN retries.ordering_key IS 'Hash of the recipient (else the message, else the event): what an ordered handler takes one after the other.';
ALTER TABLE retries ADD COLUMN filed bigint GENERATED ALWAYS AS IDENTITY;
COMMENT ON COLUMN retries.filed IS 'Order in which rows came: that of an ordered handler''s events of one key.';
CREATE INDEX retries_order ON retries (handler, ordering_key, filed) WHERE ordering_key IS NOT NULL;
CREATE INDEX retries_unfiled ON retries (handler, shard) WHERE ordering_key IS NULL;

-- Retention --------------------------------------------------------------------------------------------------------

CREATE TABLE tasks (
    name text PRIMARY KEY,
    owner text,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    started_at timestamptz,
    finished_at timestamptz,
    error text
);
COMMENT ON TABLE tasks IS 'Work that one process at a time does for all: who does it now, and when it was last done.';
COMMENT ON COLUMN tasks.name IS 'What is done, such as retention.';
COMMENT ON COLUMN tasks.owner IS 'Host and process that hold the lease; NULL: nobody.';
COMMENT ON COLUMN tasks.lease_until IS 'Another process may take over after this time.';
COMMENT ON COLUMN tasks.started_at IS 'When it was last begun.';
COMMENT ON COLUMN tasks.finished_at IS 'When it was last done without a fault.';
COMMENT ON COLUMN tasks.error IS 'The fault that ended it the last time; NULL: none.';

CREATE TABLE retention_steps (
    relation text NOT NULL,
    part text NOT NULL CHECK (part IN ('events', 'raw')),
    copy text,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    began_txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    next_block bigint NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    finished_at timestamptz,
    PRIMARY KEY (relation, part)
);
COMMENT ON TABLE retention_steps IS 'What retention has done to partitions of events, and what it has begun: that is finished after a crash.';
COMMENT ON COLUMN retention_steps.relation IS 'The partition.';
COMMENT ON COLUMN retention_steps.part IS 'events: it is dropped. raw: it is rewritten without raw.';
COMMENT ON COLUMN retention_steps.copy IS 'For raw: the table that takes its place.';
COMMENT ON COLUMN retention_steps.began_at IS 'When that was begun.';
COMMENT ON COLUMN retention_steps.began_txid IS 'The transaction that began it: rows changed since then make it begin anew.';
COMMENT ON COLUMN retention_steps.next_block IS 'For raw: the first block of the partition that is not copied yet.';
COMMENT ON COLUMN retention_steps.rows IS 'Rows dropped, or copied so far.';
COMMENT ON COLUMN retention_steps.bytes IS 'Bytes of disk that it freed.';
COMMENT ON COLUMN retention_steps.finished_at IS 'When it was done; NULL: not yet.';

-- Watching ---------------------------------------------------------------------------------------------------------

CREATE TABLE source_activity (
    source text PRIMARY KEY,
    last_event_at timestamptz,
    watched_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE source_activity IS 'When each source was last heard of, written every few seconds by the processes that receive.';
COMMENT ON COLUMN source_activity.source IS 'The configured source.';
COMMENT ON COLUMN source_activity.last_event_at IS 'When a delivery with something authentic in it was last stored, to a few seconds; NULL: never.';
COMMENT ON COLUMN source_activity.watched_since IS 'Since when some process has been receiving for it without a break: a silence before that is ours.';
COMMENT ON COLUMN source_activity.seen_at IS 'When a process last said that it receives for it.';

CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    kind text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('warning', 'critical')),
    text text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    resolved_at timestamptz,
    resolution text,
    notified_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE resolved_at IS NULL;
CREATE INDEX alerts_resolved ON alerts (resolved_at);
COMMENT ON TABLE alerts IS 'Problems that people should know of: one row for each, however many events it concerns.';
COMMENT ON COLUMN alerts.id IS 'Number, for people.';
COMMENT ON COLUMN alerts.key IS 'What the problem is and whose, such as silence:shop. Only one row of a key is open.';
COMMENT ON COLUMN alerts.kind IS 'silence, backlog, breaker, dead_letters, quarantine, retention, replay or partitions.';
COMMENT ON COLUMN alerts.severity IS 'warning or critical.';
COMMENT ON COLUMN alerts.text IS 'The problem in words, as it was last seen.';
COMMENT ON COLUMN alerts.since IS 'When it began, or was first seen.';
COMMENT ON COLUMN alerts.last_seen IS 'When it was last seen.';
COMMENT ON COLUMN alerts.resolved_at IS 'When it was gone; NULL: it is there.';
COMMENT ON COLUMN alerts.resolution IS 'Its end in words.';
COMMENT ON COLUMN alerts.notified_at IS 'When the webhook last accepted a notice of it.';
COMMENT ON COLUMN alerts.attempts IS 'How often sending the next notice has failed.';
COMMENT ON COLUMN alerts.next_at IS 'When the next notice may be tried.';
