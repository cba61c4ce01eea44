-- The whole schema, for plain PostgreSQL 15 or newer. No extension is needed.
-- `receiver migrate` applies it; `receiver/store/migrations/` holds the same in numbered steps, and a test proves that both
-- ways end in the same schema. The columns of `events` are an API: people query them.

CREATE TABLE schema_versions (
    version integer PRIMARY KEY,
    oldest_release text NOT NULL,
    oldest_version integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_versions IS 'Which migrations this database has had. The highest version counts.';
COMMENT ON COLUMN schema_versions.version IS 'Number of the migration.';
COMMENT ON COLUMN schema_versions.oldest_release IS 'Oldest release of the service that can work with the schema after this migration.';
COMMENT ON COLUMN schema_versions.oldest_version IS 'The schema version that this oldest release was written for; a release compares it with its own.';
COMMENT ON COLUMN schema_versions.applied_at IS 'When the migration was applied.';

-- The log of events ------------------------------------------------------------------------------------------------

CREATE SEQUENCE event_positions AS bigint CACHE 1;
COMMENT ON SEQUENCE event_positions IS 'Positions of events in the log; drawn before the commit, so never compare them across transactions.';

CREATE TABLE events (
    id uuid NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    occurred_at timestamptz NOT NULL,
    type text NOT NULL CHECK (type IN (
        'queued', 'sent', 'rejected', 'failed', 'bounced', 'deferred', 'delivered', 'autoresponded', 'opened', 'clicked',
        'complained', 'unsubscribed', 'subscribed', 'inbound', 'unknown')),
    source text NOT NULL,
    provider text NOT NULL,
    provider_type text NOT NULL,
    recipient text,
    recipient_domain text,
    mailbox_provider text,
    message_id text,
    internet_message_id text,
    provider_event_id text,
    sender text,
    sender_domain text,
    bounce_category text CHECK (bounce_category IN ('hard', 'soft', 'block', 'admin', 'undetermined')),
    bounce_class text,
    provider_verdict text,
    smtp_code smallint,
    enhanced_code text,
    diagnostic text,
    classifier_version smallint,
    reject_reason text,
    actor text CHECK (actor IN ('human', 'machine', 'proxy', 'unknown')),
    actor_reasons text[],
    detector_version smallint,
    sending_ip inet,
    ip_pool text,
    remote_mta text,
    stream text,
    brand text,
    topic text,
    campaign text,
    template_id text,
    attempt integer,
    tags text[] NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    subject text,
    url text,
    user_agent text,
    client_ip inet,
    country text,
    attribution text,
    echo boolean NOT NULL DEFAULT false,
    is_test boolean NOT NULL DEFAULT false,
    accepted_at timestamptz,
    provider_time text,
    time_note text CHECK (time_note IN ('missing', 'future')),
    raw json,
    raw_altered boolean NOT NULL DEFAULT false,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    gen smallint NOT NULL DEFAULT 1,
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    position bigint NOT NULL DEFAULT nextval('event_positions'),
    PRIMARY KEY (id, received_at)
) PARTITION BY RANGE (received_at);
CREATE INDEX events_log ON events (shard, gen, txid, position);
CREATE INDEX events_recipient ON events (recipient, occurred_at);
CREATE INDEX events_message ON events (message_id);
CREATE INDEX events_occurred ON events USING brin (occurred_at);

COMMENT ON TABLE events IS 'One row for each thing that happened to one message for one recipient. Append only; partitioned by received_at. Use events_between(from, to) for a range of occurred_at: it adds the bound that prunes partitions.';
COMMENT ON COLUMN events.id IS 'UUID (version 8) made from the event''s own time and a hash of what makes the event itself: retries and duplicates of a provider have the same id.';
COMMENT ON COLUMN events.received_at IS 'Postgres''s clock at the start of the transaction that stored the event. Partition key.';
COMMENT ON COLUMN events.occurred_at IS 'When it happened, by the provider''s clock, UTC. See time_note.';
COMMENT ON COLUMN events.type IS 'What happened. deferred: the provider will try again; bounced: it has given up.';
COMMENT ON COLUMN events.source IS 'The configured source (account of a provider) that the event came through.';
COMMENT ON COLUMN events.provider IS 'The kind of sender: sendgrid, mailgun, ...';
COMMENT ON COLUMN events.provider_type IS 'The provider''s own word for the type.';
COMMENT ON COLUMN events.recipient IS 'Normalized address: lower case, domain in ASCII. NULL where the provider does not say who.';
COMMENT ON COLUMN events.recipient_domain IS 'The part of recipient after the @.';
COMMENT ON COLUMN events.mailbox_provider IS 'Who runs the mailbox (google, microsoft, yahoo, apple, ...), by the domain alone.';
COMMENT ON COLUMN events.message_id IS 'The id that the provider''s send call returned.';
COMMENT ON COLUMN events.internet_message_id IS 'The Message-ID header without angle brackets, where the event carries it.';
COMMENT ON COLUMN events.provider_event_id IS 'The provider''s id of this event, as sent. Not always unique or stable.';
COMMENT ON COLUMN events.sender IS 'Normalized From address, where the event carries it.';
COMMENT ON COLUMN events.sender_domain IS 'The part of sender after the @.';
COMMENT ON COLUMN events.bounce_category IS 'For bounces: hard (the address is dead), soft, block (sender or content refused), admin, undetermined.';
COMMENT ON COLUMN events.bounce_class IS 'A finer class: invalid_recipient, mailbox_full, spam_content, ...';
COMMENT ON COLUMN events.provider_verdict IS 'The provider''s own category of the bounce; ours weighs it against codes and text.';
COMMENT ON COLUMN events.smtp_code IS 'SMTP reply code, such as 550.';
COMMENT ON COLUMN events.enhanced_code IS 'Enhanced status code (RFC 3463), such as 5.1.1.';
COMMENT ON COLUMN events.diagnostic IS 'What the receiving server or the provider said.';
COMMENT ON COLUMN events.classifier_version IS 'Version of the bounce classifier that decided.';
COMMENT ON COLUMN events.reject_reason IS 'For rejected: bounced, complained, unsubscribed, invalid, content, quota, policy, other.';
COMMENT ON COLUMN events.actor IS 'For opens and clicks: human, machine, proxy (stands for a person) or unknown.';
COMMENT ON COLUMN events.actor_reasons IS 'What the judgement of actor rests on.';
COMMENT ON COLUMN events.detector_version IS 'Version of the detector that judged actor.';
COMMENT ON COLUMN events.sending_ip IS 'Address the message was sent from.';
COMMENT ON COLUMN events.ip_pool IS 'The provider''s pool of sending addresses.';
COMMENT ON COLUMN events.remote_mta IS 'The receiving mail server.';
COMMENT ON COLUMN events.stream IS 'Kind of mail, as the source''s settings say (marketing, transactional); else the provider''s own stream.';
COMMENT ON COLUMN events.brand IS 'The brand, from the source''s settings.';
COMMENT ON COLUMN events.topic IS 'Unsubscribe group or list; else the source''s default_topic.';
COMMENT ON COLUMN events.campaign IS 'The provider''s campaign, broadcast or single send.';
COMMENT ON COLUMN events.template_id IS 'The provider''s template.';
COMMENT ON COLUMN events.attempt IS 'Number of the delivery attempt, where given.';
COMMENT ON COLUMN events.tags IS 'Tags or categories, always a list.';
COMMENT ON COLUMN events.metadata IS 'The sender''s own data that travelled with the message, always an object.';
COMMENT ON COLUMN events.subject IS 'The message''s subject, where the event carries it.';
COMMENT ON COLUMN events.url IS 'The link that was clicked.';
COMMENT ON COLUMN events.user_agent IS 'User agent of an open or click.';
COMMENT ON COLUMN events.client_ip IS 'Address of an open or click.';
COMMENT ON COLUMN events.country IS 'Country of an open or click as the provider says.';
COMMENT ON COLUMN events.attribution IS 'ambiguous: the provider named several recipients and does not say which of them it was. unverified: a bounce message or feedback report, which anybody can forge. erased: it was about a person who has been erased.';
COMMENT ON COLUMN events.echo IS 'Repeats an outcome that was reported before: no metric, no streak.';
COMMENT ON COLUMN events.is_test IS 'A provider''s test or simulator event. Handlers skip them unless they ask.';
COMMENT ON COLUMN events.accepted_at IS 'Time of the HTTP request, where it differs much from received_at (released from quarantine).';
COMMENT ON COLUMN events.provider_time IS 'The provider''s own time where occurred_at is not it (see time_note).';
COMMENT ON COLUMN events.time_note IS 'missing: the provider gave no usable time, occurred_at is the time of receipt. future: it lay more than five minutes ahead and was clamped.';
COMMENT ON COLUMN events.raw IS 'The provider''s own object. NULL once retention has removed it, or its person was erased.';
COMMENT ON COLUMN events.raw_altered IS 'Characters or numbers that Postgres cannot hold were replaced in raw, or an erased person was taken out of it.';
COMMENT ON COLUMN events.shard IS 'hash(recipient, else message id, else id) mod 64: who reads the event, and in which order.';
COMMENT ON COLUMN events.gen IS 'Generation of transaction ids; raised when they restart (restored dump).';
COMMENT ON COLUMN events.txid IS 'Transaction that stored the event. With gen, shard and position its place in the log.';
COMMENT ON COLUMN events.position IS 'Number within the log; see event_positions.';

CREATE TABLE event_ids (
    id uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX event_ids_seen ON event_ids USING brin (seen_at);
COMMENT ON TABLE event_ids IS 'Every event id of at least the last 45 days: its insert decides, in the same transaction, which events are new.';
COMMENT ON COLUMN event_ids.id IS 'events.id.';
COMMENT ON COLUMN event_ids.seen_at IS 'When it was first stored; equals events.received_at.';

CREATE FUNCTION events_between(from_time timestamptz, to_time timestamptz) RETURNS SETOF events
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
        SELECT * FROM events
        WHERE occurred_at >= from_time AND occurred_at < to_time
          AND received_at >= from_time - interval '5 minutes'
    $$;
COMMENT ON FUNCTION events_between IS 'Events that occurred in [from, to). No event is received more than five minutes before it occurred, which prunes older partitions.';

-- Dispatch ---------------------------------------------------------------------------------------------------------

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    handlers text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE workers IS 'Processes that run handlers, so that they can share the shards evenly.';
COMMENT ON COLUMN workers.id IS 'Chosen by the process at its start.';
COMMENT ON COLUMN workers.name IS 'Host and process id, for people.';
COMMENT ON COLUMN workers.handlers IS 'Names of the handlers it runs: each handler''s shards are shared among the workers that run it.';
COMMENT ON COLUMN workers.started_at IS 'When the process started.';
COMMENT ON COLUMN workers.expires_at IS 'The process counts as gone after this time unless it renews.';

CREATE TABLE cursors (
    handler text NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    epoch bigint NOT NULL DEFAULT 0,
    owner uuid,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    gen smallint NOT NULL,
    txid xid8 NOT NULL,
    position bigint NOT NULL,
    pending xid8[] NOT NULL DEFAULT '{}',
    read_from timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    until_gen smallint,
    until_txid xid8,
    until_position bigint,
    until_pending xid8[],
    handled bigint NOT NULL DEFAULT 0,
    lately double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (handler, shard)
) WITH (fillfactor = 40);
COMMENT ON TABLE cursors IS 'How far each handler has read each shard of the log. Moves in the transaction of the handler''s effects.';
COMMENT ON COLUMN cursors.handler IS 'Name of the handler.';
COMMENT ON COLUMN cursors.shard IS 'events.shard.';
COMMENT ON COLUMN cursors.epoch IS 'Raised each time the lease changes hands: a worker that lost its lease cannot commit (fencing).';
COMMENT ON COLUMN cursors.owner IS 'workers.id of the holder of the lease.';
COMMENT ON COLUMN cursors.lease_until IS 'The lease may be taken over after this time.';
COMMENT ON COLUMN cursors.gen IS 'Last event read, or where the log ended when the cursor was made: generation.';
COMMENT ON COLUMN cursors.txid IS 'Likewise: transaction.';
COMMENT ON COLUMN cursors.position IS 'Likewise: position.';
COMMENT ON COLUMN cursors.pending IS 'Transactions at or below txid that were still running when it was read: their events arrive late.';
COMMENT ON COLUMN cursors.read_from IS 'Nothing received before this, less an hour, is left to read: the bound of every read.';
COMMENT ON COLUMN cursors.updated_at IS 'When the cursor last moved.';
COMMENT ON COLUMN cursors.until_gen IS 'Of a lane (see lanes): the place after which nothing is read, which is where the handler''s own cursor stood: generation.';
COMMENT ON COLUMN cursors.until_txid IS 'Likewise: transaction.';
COMMENT ON COLUMN cursors.until_position IS 'Likewise: position.';
COMMENT ON COLUMN cursors.until_pending IS 'Likewise: transactions before that place whose events are the handler''s own cursor''s to read.';
COMMENT ON COLUMN cursors.handled IS 'Events that were passed since the cursor was made.';
COMMENT ON COLUMN cursors.lately IS 'Events that were passed lately, each counting less with time (to 1/e in a minute): the rate in events per minute at updated_at.';

CREATE TABLE handlers (
    name text PRIMARY KEY,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    breaker_since timestamptz,
    breaker_error text,
    breaker_probe_at timestamptz,
    revision bigint NOT NULL DEFAULT 0,
    began_at timestamptz,
    began_gen smallint,
    began_txid xid8,
    began_pending xid8[]
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

CREATE TABLE retries (
    handler text NOT NULL,
    event_id uuid NOT NULL,
    event_received_at timestamptz NOT NULL,
    shard smallint NOT NULL,
    cause text NOT NULL CHECK (cause IN ('failed', 'asked', 'replay', 'parked')),
    attempt integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    error text,
    dead_letter_id bigint,
    first_failed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    side_effects boolean NOT NULL DEFAULT false,
    replay_id bigint,
    ordering_key bigint,
    filed bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (handler, event_id)
);
CREATE INDEX retries_due ON retries (handler, next_at);
CREATE INDEX retries_order ON retries (handler, ordering_key, filed) WHERE ordering_key IS NOT NULL;
CREATE INDEX retries_unfiled ON retries (handler, shard) WHERE ordering_key IS NULL;
CREATE INDEX retries_replay ON retries (replay_id) WHERE replay_id IS NOT NULL;
COMMENT ON TABLE retries IS 'Single events that a handler is to see (again): after a failure, when it asked for it, or for a replay.';
COMMENT ON COLUMN retries.handler IS 'Name of the handler.';
COMMENT ON COLUMN retries.event_id IS 'events.id.';
COMMENT ON COLUMN retries.event_received_at IS 'events.received_at, which finds the partition.';
COMMENT ON COLUMN retries.shard IS 'events.shard.';
COMMENT ON COLUMN retries.cause IS 'failed: it raised. asked: it returned RetryAfter. replay: someone asked for it. parked: an ordered handler''s, waits behind an earlier one of its key.';
COMMENT ON COLUMN retries.attempt IS 'Attempts that have failed so far; asking for later is no failure.';
COMMENT ON COLUMN retries.next_at IS 'When the event is due; infinity: when the one before it is settled.';
COMMENT ON COLUMN retries.error IS 'The last failure, scrubbed of addresses.';
COMMENT ON COLUMN retries.dead_letter_id IS 'The dead letter it was retried from; its copy of the event serves when the partition is gone.';
COMMENT ON COLUMN retries.first_failed_at IS 'When it first failed.';
COMMENT ON COLUMN retries.created_at IS 'When the row was made.';
COMMENT ON COLUMN retries.side_effects IS 'For a replay: whether the handler may have effects outside the database.';
COMMENT ON COLUMN retries.replay_id IS 'replays.id, for a replay.';
COMMENT ON COLUMN retries.ordering_key IS 'Hash of the recipient (else the message, else the event): what an ordered handler takes one after the other.';
COMMENT ON COLUMN retries.filed IS 'Order in which rows came: that of an ordered handler''s events of one key.';

CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handler text NOT NULL,
    event_id uuid NOT NULL,
    event jsonb NOT NULL,
    event_type text NOT NULL,
    source text NOT NULL,
    attempts integer NOT NULL,
    error_type text NOT NULL,
    error text NOT NULL,
    traceback text,
    first_failed_at timestamptz,
    dead_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text CHECK (resolution IN ('retried', 'discarded')),
    reason text,
    replay_id bigint,
    replaying boolean NOT NULL DEFAULT false,
    CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);
CREATE UNIQUE INDEX dead_letters_open ON dead_letters (handler, event_id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_kinds ON dead_letters (handler, error_type) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_replay ON dead_letters (replay_id) WHERE replay_id IS NOT NULL;
COMMENT ON TABLE dead_letters IS 'Events that a handler gave up on, with a copy of the event, until someone retries or discards them.';
COMMENT ON COLUMN dead_letters.id IS 'Number, for people.';
COMMENT ON COLUMN dead_letters.handler IS 'Name of the handler.';
COMMENT ON COLUMN dead_letters.event_id IS 'events.id.';
COMMENT ON COLUMN dead_letters.event IS 'Copy of the whole event, so that the letter outlives its partition.';
COMMENT ON COLUMN dead_letters.event_type IS 'events.type.';
COMMENT ON COLUMN dead_letters.source IS 'events.source.';
COMMENT ON COLUMN dead_letters.attempts IS 'How often the handler was tried.';
COMMENT ON COLUMN dead_letters.error_type IS 'Class of the last exception, or GiveUp.';
COMMENT ON COLUMN dead_letters.error IS 'Message of the last failure, scrubbed of addresses.';
COMMENT ON COLUMN dead_letters.traceback IS 'Traceback of the last failure, scrubbed of addresses.';
COMMENT ON COLUMN dead_letters.first_failed_at IS 'When the event first failed.';
COMMENT ON COLUMN dead_letters.dead_at IS 'When the handler gave up.';
COMMENT ON COLUMN dead_letters.resolved_at IS 'When someone retried or discarded it.';
COMMENT ON COLUMN dead_letters.resolution IS 'retried or discarded.';
COMMENT ON COLUMN dead_letters.reason IS 'Why it was discarded.';
COMMENT ON COLUMN dead_letters.replay_id IS 'The replay (replays.id) in which the handler gave up; NULL otherwise.';
COMMENT ON COLUMN dead_letters.replaying IS 'It came in a replay, without effects outside the database, and will again when it is retried.';

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
    rate double precision,
    events bigint NOT NULL,
    put bigint NOT NULL DEFAULT 0,
    busy bigint NOT NULL DEFAULT 0,
    taken_back bigint,
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
COMMENT ON COLUMN replays.rate IS 'Events a second at most; NULL: as fast as the workers are.';
COMMENT ON COLUMN replays.events IS 'How many events were counted at the start.';
COMMENT ON COLUMN replays.put IS 'How many of them have been put into retries.';
COMMENT ON COLUMN replays.busy IS 'How many were left out because they waited in retries already.';
COMMENT ON COLUMN replays.taken_back IS 'How many of those that were put it took out of retries when it was cancelled; NULL: not cancelled, or its handler was removed.';
COMMENT ON COLUMN replays.shard IS 'The last event that was looked at: shard. Events are taken in the order of the index events_log.';
COMMENT ON COLUMN replays.gen IS 'Likewise: generation.';
COMMENT ON COLUMN replays.txid IS 'Likewise: transaction.';
COMMENT ON COLUMN replays.position IS 'Likewise: position.';
COMMENT ON COLUMN replays.started_at IS 'When it was started; later events are no part of it.';
COMMENT ON COLUMN replays.started_by IS 'Account of the operating system that started it.';
COMMENT ON COLUMN replays.ended_at IS 'When its state was last changed.';

-- What could not become an event -----------------------------------------------------------------------------------

CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('item', 'delivery', 'stale')),
    why text NOT NULL,
    fingerprint bytea NOT NULL,
    size integer NOT NULL,
    headers bytea NOT NULL,
    body bytea NOT NULL,
    accepted_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolution text CHECK (resolution IN ('released', 'discarded')),
    reason text,
    CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);
CREATE UNIQUE INDEX quarantine_open ON quarantine (source, fingerprint) WHERE resolved_at IS NULL;
CREATE INDEX quarantine_kinds ON quarantine (source, kind) WHERE resolved_at IS NULL;
COMMENT ON TABLE quarantine IS 'Authentic input that could not be turned into events, kept until someone releases or discards it.';
COMMENT ON COLUMN quarantine.id IS 'Number, for people.';
COMMENT ON COLUMN quarantine.source IS 'The configured source.';
COMMENT ON COLUMN quarantine.provider IS 'The kind of sender.';
COMMENT ON COLUMN quarantine.kind IS 'item: one part of a batch. delivery: a whole body. stale: rightly signed, but too old.';
COMMENT ON COLUMN quarantine.why IS 'What could not be read.';
COMMENT ON COLUMN quarantine.fingerprint IS 'SHA-256 of the content, or of the signed text where that is not the content: each is kept once while it is open.';
COMMENT ON COLUMN quarantine.size IS 'Bytes of the content.';
COMMENT ON COLUMN quarantine.headers IS 'Headers and query of the request, JSON, encrypted.';
COMMENT ON COLUMN quarantine.body IS 'The content, encrypted.';
COMMENT ON COLUMN quarantine.accepted_at IS 'Time of the HTTP request.';
COMMENT ON COLUMN quarantine.received_at IS 'When it was stored.';
COMMENT ON COLUMN quarantine.resolved_at IS 'When someone released or discarded it.';
COMMENT ON COLUMN quarantine.resolution IS 'released or discarded.';
COMMENT ON COLUMN quarantine.reason IS 'Why it was discarded.';

CREATE TABLE refused (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    times integer NOT NULL DEFAULT 1,
    client_ip inet,
    size integer NOT NULL,
    headers bytea NOT NULL,
    body bytea NOT NULL,
    refused_at timestamptz NOT NULL
);
CREATE INDEX refused_sample ON refused (source, reason, refused_at);
COMMENT ON TABLE refused IS 'A bounded sample of requests that did not prove their sender, for finding mistakes in the set-up.';
COMMENT ON COLUMN refused.id IS 'Number, for people.';
COMMENT ON COLUMN refused.source IS 'The configured source.';
COMMENT ON COLUMN refused.reason IS 'wrong_key, missing_header, stale, body_changed, ...';
COMMENT ON COLUMN refused.detail IS 'The reason in words.';
COMMENT ON COLUMN refused.times IS 'How many like it were refused since the one before it was kept.';
COMMENT ON COLUMN refused.client_ip IS 'Address the request came from.';
COMMENT ON COLUMN refused.size IS 'Bytes of the body as received.';
COMMENT ON COLUMN refused.headers IS 'Headers and query of the request, JSON, encrypted.';
COMMENT ON COLUMN refused.body IS 'The body (cut to 64 kB), encrypted.';
COMMENT ON COLUMN refused.refused_at IS 'Time of the HTTP request.';

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL
);
COMMENT ON TABLE audit_log IS 'Who revealed encrypted content or changed something by hand.';
COMMENT ON COLUMN audit_log.id IS 'Number, for people.';
COMMENT ON COLUMN audit_log.at IS 'When.';
COMMENT ON COLUMN audit_log.who IS 'Account of the operating system that ran the command.';
COMMENT ON COLUMN audit_log.action IS 'What was done, such as reveal.';
COMMENT ON COLUMN audit_log.subject IS 'To what, such as quarantine 12.';

-- Address hashes ---------------------------------------------------------------------------------------------------

CREATE TABLE address_keys (
    id smallint PRIMARY KEY,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE address_keys IS 'Which key address hashes are made with. A start with another key is refused: it would find no suppression any more.';
COMMENT ON COLUMN address_keys.id IS 'What key_id refers to.';
COMMENT ON COLUMN address_keys.fingerprint IS 'Tells the key from others, and nothing else about it.';
COMMENT ON COLUMN address_keys.created_at IS 'When it was first used.';

-- Contacts ---------------------------------------------------------------------------------------------------------

CREATE TABLE contacts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address text NOT NULL UNIQUE,
    address_hash bytea NOT NULL,
    attributes jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_event_at timestamptz,
    last_sent_at timestamptz,
    last_delivered_at timestamptz,
    last_opened_at timestamptz,
    last_clicked_at timestamptz,
    last_bounced_at timestamptz,
    complained_at timestamptz,
    unsubscribed_at timestamptz,
    external_id text UNIQUE,
    display_address text,
    name text,
    locale text,
    time_zone text,
    tags text[] NOT NULL DEFAULT '{}',
    updated_at timestamptz,
    soft_streak integer NOT NULL DEFAULT 0,
    prefetched_at timestamptz
) WITH (fillfactor = 85);
-- Not unique: the address is, and a second unique index beside the one that ON CONFLICT names makes concurrent inserts fail.
CREATE INDEX contacts_hash ON contacts (address_hash);
CREATE INDEX contacts_tags ON contacts USING gin (tags);
COMMENT ON TABLE contacts IS 'One row for each address that the team or events told of. Whether it may be mailed is what sendable() says, never one status here.';
COMMENT ON COLUMN contacts.id IS 'Number of the contact.';
COMMENT ON COLUMN contacts.address IS 'Normalized address.';
COMMENT ON COLUMN contacts.address_hash IS 'HMAC-SHA256 of the normalized address under the address key; what suppressions and subscriptions refer to.';
COMMENT ON COLUMN contacts.attributes IS 'The team''s own data about the contact.';
COMMENT ON COLUMN contacts.created_at IS 'When the row was made.';
COMMENT ON COLUMN contacts.last_event_at IS 'Latest occurred_at of any event but opens and clicks of machines.';
COMMENT ON COLUMN contacts.last_sent_at IS 'Latest queued or sent event.';
COMMENT ON COLUMN contacts.last_delivered_at IS 'Latest delivery.';
COMMENT ON COLUMN contacts.last_opened_at IS 'Latest open that was not a machine''s.';
COMMENT ON COLUMN contacts.last_clicked_at IS 'Latest click that was not a machine''s.';
COMMENT ON COLUMN contacts.last_bounced_at IS 'Latest bounce of any category.';
COMMENT ON COLUMN contacts.complained_at IS 'Latest complaint.';
COMMENT ON COLUMN contacts.unsubscribed_at IS 'Latest unsubscribe event.';
COMMENT ON COLUMN contacts.external_id IS 'The team''s own id of the person.';
COMMENT ON COLUMN contacts.display_address IS 'The address as the person wrote it, where that is known and differs.';
COMMENT ON COLUMN contacts.name IS 'The person''s name.';
COMMENT ON COLUMN contacts.locale IS 'Language tag, such as de-AT.';
COMMENT ON COLUMN contacts.time_zone IS 'Name in the IANA database, such as Europe/Vienna.';
COMMENT ON COLUMN contacts.tags IS 'The team''s own words about the contact.';
COMMENT ON COLUMN contacts.updated_at IS 'When something but the times of events was last changed; NULL: never.';
COMMENT ON COLUMN contacts.soft_streak IS 'Distinct messages that bounced, though not hard, since the last delivery or sign of life.';
COMMENT ON COLUMN contacts.prefetched_at IS 'Latest open by a machine: the mail client probably loads pictures by itself, so that a missing open says nothing.';

CREATE TABLE contact_addresses (
    contact_id bigint NOT NULL REFERENCES contacts ON DELETE CASCADE,
    address text NOT NULL,
    address_hash bytea NOT NULL,
    until timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL,
    reason text NOT NULL DEFAULT '',
    PRIMARY KEY (contact_id, until, address)
);
CREATE INDEX contact_addresses_hash ON contact_addresses (address_hash);
COMMENT ON TABLE contact_addresses IS 'The addresses that contacts had before.';
COMMENT ON COLUMN contact_addresses.contact_id IS 'contacts.id.';
COMMENT ON COLUMN contact_addresses.address IS 'The normalized address.';
COMMENT ON COLUMN contact_addresses.address_hash IS 'Its hash.';
COMMENT ON COLUMN contact_addresses.until IS 'When it was replaced.';
COMMENT ON COLUMN contact_addresses.who IS 'Who replaced it: an API key, or an account of the operating system.';
COMMENT ON COLUMN contact_addresses.reason IS 'Why, in their words.';

CREATE TABLE segments (
    name text PRIMARY KEY,
    title text NOT NULL DEFAULT '',
    filter jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE segments IS 'Stored questions: which contacts fulfil a filter now.';
COMMENT ON COLUMN segments.name IS 'Name of the segment.';
COMMENT ON COLUMN segments.title IS 'What it is called for people.';
COMMENT ON COLUMN segments.filter IS 'The conditions; docs/contacts.md has their form.';
COMMENT ON COLUMN segments.created_at IS 'When it was first stored.';
COMMENT ON COLUMN segments.updated_at IS 'When the filter was last changed.';

CREATE VIEW contact_engagement AS
    SELECT c.id AS contact_id, c.address, counted.delivered, counted.opened, counted.clicked, counted.bounced
    FROM contacts c
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT of.message) FILTER (WHERE of.type = 'delivered') AS delivered,
               count(DISTINCT of.message) FILTER (WHERE of.type = 'opened') AS opened,
               count(DISTINCT of.message) FILTER (WHERE of.type = 'clicked') AS clicked,
               count(DISTINCT of.message) FILTER (WHERE of.type = 'bounced') AS bounced
        FROM (
            SELECT e.type, coalesce(e.message_id, e.internet_message_id, e.id::text) AS message FROM events e
            WHERE e.recipient = c.address AND e.type IN ('delivered', 'opened', 'clicked', 'bounced')
              AND NOT e.is_test AND NOT e.echo AND e.attribution IS NULL AND e.actor IS DISTINCT FROM 'machine'
        ) AS of
    ) AS counted;
COMMENT ON VIEW contact_engagement IS 'How many messages each contact got, opened and clicked, from the events that are kept. One contact costs one look into the index of events by recipient, so ask for some (WHERE address or contact_id), or be patient.';
COMMENT ON COLUMN contact_engagement.contact_id IS 'contacts.id.';
COMMENT ON COLUMN contact_engagement.address IS 'contacts.address.';
COMMENT ON COLUMN contact_engagement.delivered IS 'Messages that were delivered.';
COMMENT ON COLUMN contact_engagement.opened IS 'Messages that were opened, other than by machines.';
COMMENT ON COLUMN contact_engagement.clicked IS 'Messages in which a link was clicked, other than by machines.';
COMMENT ON COLUMN contact_engagement.bounced IS 'Messages that bounced, whatever the reason.';

-- Consent ----------------------------------------------------------------------------------------------------------

CREATE TABLE topics (
    name text PRIMARY KEY,
    title text NOT NULL,
    description text NOT NULL DEFAULT '',
    stream text NOT NULL DEFAULT 'marketing' CHECK (stream IN ('marketing', 'transactional')),
    brand text NOT NULL DEFAULT '',
    double_opt_in boolean NOT NULL DEFAULT false,
    public boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    archived_at timestamptz
);
COMMENT ON TABLE topics IS 'What people can subscribe to, and unsubscribe from: the lists of a team.';
COMMENT ON COLUMN topics.name IS 'Name of the topic, as events and sends give it.';
COMMENT ON COLUMN topics.title IS 'What it is called on the pages that people see.';
COMMENT ON COLUMN topics.description IS 'What one gets, for the same pages.';
COMMENT ON COLUMN topics.stream IS 'marketing: needs consent. transactional: may be sent unless the person has unsubscribed.';
COMMENT ON COLUMN topics.brand IS 'Whose mail it is; empty: every brand''s, so that what stands against the mail of one stands against it.';
COMMENT ON COLUMN topics.double_opt_in IS 'Whether who asks by the API or a command is subscribed only once they have confirmed it by a link in a mail. Pages, imports with the words agreed to, handlers and trusted sources subscribe at once.';
COMMENT ON COLUMN topics.public IS 'Whether the preference page shows it to those who are not subscribed.';
COMMENT ON COLUMN topics.created_at IS 'When it was made.';
COMMENT ON COLUMN topics.archived_at IS 'When it was given up: nothing is sent about it any more. NULL: it is in use.';

CREATE TABLE subscriptions (
    address_hash bytea NOT NULL,
    topic text NOT NULL,
    requested_at timestamptz,
    subscribed_at timestamptz,
    unsubscribed_at timestamptz,
    key_id smallint NOT NULL DEFAULT 1,
    normalization smallint NOT NULL DEFAULT 1,
    state text NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN subscribed_at IS NOT NULL AND (unsubscribed_at IS NULL OR subscribed_at > unsubscribed_at) THEN 'subscribed'
            WHEN requested_at IS NOT NULL AND (unsubscribed_at IS NULL OR requested_at > unsubscribed_at) THEN 'pending'
            ELSE 'unsubscribed'
        END) STORED,
    PRIMARY KEY (address_hash, topic),
    CHECK (coalesce(requested_at, subscribed_at, unsubscribed_at) IS NOT NULL)
);
CREATE INDEX subscriptions_topic ON subscriptions (topic, state);
COMMENT ON TABLE subscriptions IS 'What each address has said about each topic. Each time is the latest of its kind, so the order of arrival makes no difference. Survives the deletion of the contact.';
COMMENT ON COLUMN subscriptions.address_hash IS 'contacts.address_hash.';
COMMENT ON COLUMN subscriptions.topic IS 'topics.name, or what a provider calls a list that no topic is declared for.';
COMMENT ON COLUMN subscriptions.requested_at IS 'When a subscription that waits for its confirmation was last asked for.';
COMMENT ON COLUMN subscriptions.subscribed_at IS 'When the person last subscribed (where a confirmation was mailed: confirmed it).';
COMMENT ON COLUMN subscriptions.unsubscribed_at IS 'When the person last unsubscribed.';
COMMENT ON COLUMN subscriptions.key_id IS 'address_keys.id.';
COMMENT ON COLUMN subscriptions.normalization IS 'Version of the rules by which addresses are normalized.';
COMMENT ON COLUMN subscriptions.state IS 'pending, subscribed or unsubscribed: what was said last; at the same time, unsubscribed.';

CREATE TABLE consent_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    occurred_at timestamptz NOT NULL,
    address_hash bytea NOT NULL,
    address text,
    action text NOT NULL CHECK (action IN ('requested', 'subscribed', 'unsubscribed', 'complained', 'suppressed', 'lifted')),
    topic text NOT NULL DEFAULT '',
    brand text NOT NULL DEFAULT '',
    source text NOT NULL,
    method text NOT NULL,
    wording text,
    client_ip inet,
    user_agent text,
    event_id uuid,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX consent_log_once ON consent_log (address_hash, topic, action, occurred_at, source, brand, event_id)
    NULLS NOT DISTINCT;
COMMENT ON TABLE consent_log IS 'What people said about mail to them, and when, where and to which words. Append only; each statement once.';
COMMENT ON COLUMN consent_log.id IS 'Number, for people.';
COMMENT ON COLUMN consent_log.recorded_at IS 'When it was stored.';
COMMENT ON COLUMN consent_log.occurred_at IS 'When the person said it.';
COMMENT ON COLUMN consent_log.address_hash IS 'contacts.address_hash.';
COMMENT ON COLUMN consent_log.address IS 'The normalized address; NULL once the person is erased.';
COMMENT ON COLUMN consent_log.action IS 'requested (a confirmation is awaited), subscribed, unsubscribed, complained, suppressed (by hand or an import), lifted.';
COMMENT ON COLUMN consent_log.topic IS 'What it is about; empty: all marketing mail of the brand.';
COMMENT ON COLUMN consent_log.brand IS 'Whose mail it is about; empty: every brand''s.';
COMMENT ON COLUMN consent_log.source IS 'Where it came from: a configured source, page, api:<key>, import:<file>, cli.';
COMMENT ON COLUMN consent_log.method IS 'How: event, one_click, page (a button on a page), preferences, confirmation, api, import, cli, handler.';
COMMENT ON COLUMN consent_log.wording IS 'The words that the person agreed to, or the reason that was given.';
COMMENT ON COLUMN consent_log.client_ip IS 'Address of the person''s program, where it is known.';
COMMENT ON COLUMN consent_log.user_agent IS 'The person''s program, where it is known.';
COMMENT ON COLUMN consent_log.event_id IS 'The event that says so, where one does.';
COMMENT ON COLUMN consent_log.detail IS 'Further evidence.';

CREATE FUNCTION consent_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.id, NEW.recorded_at, NEW.occurred_at, NEW.address_hash, NEW.action, NEW.topic, NEW.brand,
                             NEW.source, NEW.method, NEW.event_id)
           IS NOT DISTINCT FROM (OLD.id, OLD.recorded_at, OLD.occurred_at, OLD.address_hash, OLD.action, OLD.topic, OLD.brand,
                             OLD.source, OLD.method, OLD.event_id)
       AND (NEW.address IS NULL OR NEW.address = OLD.address) AND (NEW.wording IS NULL OR NEW.wording = OLD.wording)
       AND (NEW.client_ip IS NULL OR NEW.client_ip = OLD.client_ip)
       AND (NEW.user_agent IS NULL OR NEW.user_agent = OLD.user_agent)
       AND (NEW.detail = '{}' OR NEW.detail = OLD.detail) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'consent_log is append only: rows stay as they are, but for what names an erased person';
END $$;
COMMENT ON FUNCTION consent_log_is_append_only IS 'Lets an update remove what names a person, and nothing else.';
CREATE TRIGGER consent_log_append_only BEFORE UPDATE OR DELETE ON consent_log
    FOR EACH ROW EXECUTE FUNCTION consent_log_is_append_only();

CREATE TABLE confirmations (
    id uuid PRIMARY KEY,
    address_hash bytea NOT NULL,
    topic text NOT NULL,
    brand text NOT NULL DEFAULT '',
    requested_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    mails integer NOT NULL DEFAULT 1,
    mailed_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX confirmations_open ON confirmations (address_hash, topic, brand) WHERE used_at IS NULL;
COMMENT ON TABLE confirmations IS 'Subscriptions and preference pages that wait for the click on a mailed link.';
COMMENT ON COLUMN confirmations.id IS 'Id within the link.';
COMMENT ON COLUMN confirmations.address_hash IS 'contacts.address_hash.';
COMMENT ON COLUMN confirmations.topic IS 'The topic to be subscribed to; empty: a link to the preference page.';
COMMENT ON COLUMN confirmations.brand IS 'Of a preference page: whose topics it shows; empty: every brand''s.';
COMMENT ON COLUMN confirmations.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN confirmations.expires_at IS 'The link is good until then.';
COMMENT ON COLUMN confirmations.used_at IS 'When a subscription was confirmed; the link does nothing a second time.';
COMMENT ON COLUMN confirmations.mails IS 'How many mails with the link were queued.';
COMMENT ON COLUMN confirmations.mailed_at IS 'When the last of them was queued.';

-- Suppressions -----------------------------------------------------------------------------------------------------

CREATE TABLE suppressions (
    address_hash bytea NOT NULL,
    reason text NOT NULL CHECK (reason IN (
        'hard_bounce', 'soft_bounce', 'complaint', 'unsubscribe', 'manual', 'imported')),
    scope text NOT NULL CHECK (scope IN ('all', 'marketing', 'topic')),
    brand text NOT NULL DEFAULT '',
    topic text NOT NULL DEFAULT '',
    since timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    source text NOT NULL,
    event_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    echo boolean NOT NULL DEFAULT false,
    lifted_at timestamptz,
    active boolean NOT NULL GENERATED ALWAYS AS (lifted_at IS NULL OR (last_at > lifted_at AND NOT echo)) STORED,
    key_id smallint NOT NULL DEFAULT 1,
    normalization smallint NOT NULL DEFAULT 1,
    recipient_domain text,
    mailbox_provider text,
    expires_at timestamptz,
    note text NOT NULL DEFAULT '',
    lifted_by text,
    lift_reason text,
    PRIMARY KEY (address_hash, reason, scope, brand, topic),
    CHECK ((scope = 'topic') = (topic <> ''))
);
CREATE INDEX suppressions_reason ON suppressions (reason, last_at);
-- Of all addresses that are asked about, most have none: one page says so, where the key's tree takes three.
CREATE INDEX suppressions_address ON suppressions USING hash (address_hash);
COMMENT ON TABLE suppressions IS 'Why an address must not be mailed. Keyed by the address''s hash, so that it survives the deletion of the contact.';
COMMENT ON COLUMN suppressions.address_hash IS 'contacts.address_hash.';
COMMENT ON COLUMN suppressions.reason IS 'hard_bounce, soft_bounce (repeated), complaint, unsubscribe (from all marketing), manual or imported.';
COMMENT ON COLUMN suppressions.scope IS 'all: no mail at all. marketing: no marketing mail (of the brand). topic: not this topic.';
COMMENT ON COLUMN suppressions.brand IS 'The brand it concerns; empty: every brand.';
COMMENT ON COLUMN suppressions.topic IS 'The topic it concerns, with scope topic.';
COMMENT ON COLUMN suppressions.since IS 'occurred_at of the earliest event that says so.';
COMMENT ON COLUMN suppressions.last_at IS 'occurred_at of the latest event that says so.';
COMMENT ON COLUMN suppressions.source IS 'The source of the earliest event, or manual.';
COMMENT ON COLUMN suppressions.event_id IS 'The earliest event that says so.';
COMMENT ON COLUMN suppressions.created_at IS 'When the row was made.';
COMMENT ON COLUMN suppressions.echo IS 'Known only from a provider that held mail back; an event that reports the outcome itself takes its place.';
COMMENT ON COLUMN suppressions.lifted_at IS 'When someone lifted it; events older than this, and echoes, do not bring it back.';
COMMENT ON COLUMN suppressions.active IS 'Whether it counts: not lifted, or confirmed by an event since.';
COMMENT ON COLUMN suppressions.key_id IS 'address_keys.id.';
COMMENT ON COLUMN suppressions.normalization IS 'Version of the rules by which addresses are normalized.';
COMMENT ON COLUMN suppressions.recipient_domain IS 'The address''s domain, for lifting by it; NULL: not known, or the person is erased.';
COMMENT ON COLUMN suppressions.mailbox_provider IS 'Who runs the mailbox, as in events.';
COMMENT ON COLUMN suppressions.expires_at IS 'It counts until then; NULL: for good.';
COMMENT ON COLUMN suppressions.note IS 'Why, in somebody''s words, where it came by hand or an import.';
COMMENT ON COLUMN suppressions.lifted_by IS 'Who lifted it: an API key, a page, or an account of the operating system.';
COMMENT ON COLUMN suppressions.lift_reason IS 'Why, in their words.';

CREATE TABLE bounces (
    address_hash bytea NOT NULL,
    message text NOT NULL,
    bounce_class text NOT NULL,
    stream text NOT NULL DEFAULT '',
    at timestamptz NOT NULL,
    source text NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (address_hash, message)
);
COMMENT ON TABLE bounces IS 'Bounces since the contact''s last delivery, open or click that suppress only when they repeat: one row for each message, so that policies can count.';
COMMENT ON COLUMN bounces.address_hash IS 'contacts.address_hash.';
COMMENT ON COLUMN bounces.message IS 'The message: its id at the provider, else its Message-ID, else the event''s id.';
COMMENT ON COLUMN bounces.bounce_class IS 'events.bounce_class of its latest bounce; where that is undetermined, the bounce_category.';
COMMENT ON COLUMN bounces.stream IS 'events.stream.';
COMMENT ON COLUMN bounces.at IS 'occurred_at of its latest bounce.';
COMMENT ON COLUMN bounces.source IS 'events.source.';
COMMENT ON COLUMN bounces.event_id IS 'That event.';

CREATE TABLE bounce_incidents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mailbox_provider text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    release_at timestamptz,
    hard bigint NOT NULL,
    attempted bigint NOT NULL,
    baseline double precision NOT NULL,
    decision text CHECK (decision IN ('confirmed', 'released')),
    note text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX bounce_incidents_open ON bounce_incidents (mailbox_provider) WHERE ended_at IS NULL;
COMMENT ON TABLE bounce_incidents IS 'Bad days of mailbox providers: far more hard bounces than usual. Suppressions for hard bounces that rest on such a time alone are provisional.';
COMMENT ON COLUMN bounce_incidents.id IS 'Number, for people.';
COMMENT ON COLUMN bounce_incidents.mailbox_provider IS 'events.mailbox_provider.';
COMMENT ON COLUMN bounce_incidents.began_at IS 'Since when (occurred_at).';
COMMENT ON COLUMN bounce_incidents.ended_at IS 'Until when; NULL: it goes on.';
COMMENT ON COLUMN bounce_incidents.release_at IS 'From then on the provisional suppressions do not count; NULL: they count.';
COMMENT ON COLUMN bounce_incidents.hard IS 'Hard bounces in that time.';
COMMENT ON COLUMN bounce_incidents.attempted IS 'Messages delivered or bounced in that time.';
COMMENT ON COLUMN bounce_incidents.baseline IS 'The share of hard bounces that is usual there.';
COMMENT ON COLUMN bounce_incidents.decision IS 'What somebody has decided about it. confirmed: the addresses are dead, the suppressions stay; released: they do not count.';
COMMENT ON COLUMN bounce_incidents.note IS 'Why, in their words.';

CREATE TABLE bounce_hours (
    hour timestamptz NOT NULL,
    mailbox_provider text NOT NULL,
    sender_domain text NOT NULL,
    attempted bigint NOT NULL,
    hard bigint NOT NULL,
    block bigint NOT NULL,
    PRIMARY KEY (hour, mailbox_provider, sender_domain)
);
COMMENT ON TABLE bounce_hours IS 'Mail by the hour for the last weeks, so that what is unusual can be told from what is usual. Every hour that was counted has a row. Without tests, echoes and unverified reports.';
COMMENT ON COLUMN bounce_hours.hour IS 'Start of the hour (occurred_at).';
COMMENT ON COLUMN bounce_hours.mailbox_provider IS 'events.mailbox_provider; empty: not known.';
COMMENT ON COLUMN bounce_hours.sender_domain IS 'events.sender_domain; empty: not known, or the hour is some days ago.';
COMMENT ON COLUMN bounce_hours.attempted IS 'Messages that were delivered or bounced.';
COMMENT ON COLUMN bounce_hours.hard IS 'Of them, hard bounces.';
COMMENT ON COLUMN bounce_hours.block IS 'Of them, those refused because of the sender or the content.';

CREATE TABLE erasures (
    address_hash bytea PRIMARY KEY,
    erased_at timestamptz NOT NULL DEFAULT now(),
    who text NOT NULL
);
COMMENT ON TABLE erasures IS 'People who were erased: events that still arrive about them are stored without anything that names them.';
COMMENT ON COLUMN erasures.address_hash IS 'Hash of the address.';
COMMENT ON COLUMN erasures.erased_at IS 'When.';
COMMENT ON COLUMN erasures.who IS 'Who did it: an API key, or an account of the operating system.';

CREATE FUNCTION sendable(address_hash bytea, topic text DEFAULT NULL, stream text DEFAULT 'marketing')
    RETURNS TABLE (sendable boolean, reason text, since timestamptz, until timestamptz, event_id uuid)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
    AS $$
        SELECT found.reason IS NULL, found.reason,
               CASE WHEN found.reason IS NOT NULL THEN coalesce(e.erased_at, s.since, CASE c.state
                    WHEN 'pending' THEN c.requested_at WHEN 'unsubscribed' THEN c.unsubscribed_at END) END,
               CASE WHEN e.erased_at IS NULL THEN s.until END,
               CASE WHEN e.erased_at IS NULL THEN s.event_id END
        -- The topic is looked up once for a whole query: OFFSET keeps its being a value, which a join would not be.
        FROM (SELECT (SELECT t FROM topics t WHERE t.name = $2) AS topic OFFSET 0) AS about
        LEFT JOIN erasures e ON e.address_hash = $1
        LEFT JOIN LATERAL (
            SELECT s.reason, s.since, least(s.expires_at, bad.release_at) AS until, s.event_id
            FROM suppressions s
            LEFT JOIN LATERAL (
                -- Of several in which it lies each must let it go: one that is confirmed or goes on does not.
                SELECT nullif(max(coalesce(i.release_at, 'infinity')), 'infinity') AS release_at FROM bounce_incidents i
                WHERE s.reason = 'hard_bounce' AND i.mailbox_provider = s.mailbox_provider
                  AND s.since >= i.began_at AND s.last_at <= coalesce(i.ended_at, 'infinity')
            ) AS bad ON true
            WHERE s.address_hash = $1 AND s.active
              AND (s.expires_at IS NULL OR s.expires_at > now())
              AND (bad.release_at IS NULL OR bad.release_at > now())
              AND (s.scope = 'all'
                   OR s.scope = 'marketing' AND ($3 IS DISTINCT FROM 'transactional' OR (about.topic).stream = 'marketing')
                      AND (s.brand = '' OR $2 IS NULL OR (about.topic).brand IN ('', s.brand))
                   OR s.scope = 'topic' AND s.topic = $2
                      AND (s.brand = '' OR (about.topic).name IS NULL OR (about.topic).brand IN ('', s.brand)))
            ORDER BY array_position('{hard_bounce,complaint,soft_bounce,manual,imported,unsubscribe}', s.reason), s.since
            LIMIT 1
        ) AS s ON true
        LEFT JOIN subscriptions c ON c.address_hash = $1 AND c.topic = $2
        CROSS JOIN LATERAL (
            SELECT CASE
                WHEN $1 IS NULL THEN 'no_address'
                WHEN e.erased_at IS NOT NULL THEN 'erased'
                WHEN s.reason IS NOT NULL THEN s.reason
                WHEN $2 IS NULL THEN NULL
                WHEN (about.topic).name IS NULL AND $3 IS DISTINCT FROM 'transactional' THEN 'unknown_topic'
                WHEN (about.topic).archived_at IS NOT NULL THEN 'archived_topic'
                WHEN c.state = 'subscribed' THEN NULL
                WHEN c.state = 'unsubscribed' OR $3 IS DISTINCT FROM 'transactional'
                     OR (about.topic).stream = 'marketing'
                    THEN coalesce(c.state, 'not_subscribed')
            END AS reason
        ) AS found
    $$;
COMMENT ON FUNCTION sendable IS 'Whether mail about a topic, of a stream (marketing or transactional), may go to an address: yes, or no and why. Without a topic only suppressions are asked, of every brand.';

-- Sends ------------------------------------------------------------------------------------------------------------

CREATE TABLE sends (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    key text NOT NULL UNIQUE,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'leased', 'sent', 'unknown', 'failed', 'skipped', 'cancelled')),
    recipient text NOT NULL,
    template text NOT NULL,
    stream text NOT NULL CHECK (stream IN ('marketing', 'transactional')),
    topic text,
    data jsonb NOT NULL DEFAULT '{}',
    cancel_on text[] NOT NULL DEFAULT '{}',
    not_before timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    handler text NOT NULL,
    event_id uuid,
    created_at timestamptz NOT NULL DEFAULT now(),
    account text,
    brand text NOT NULL DEFAULT '',
    rule text,
    depth smallint NOT NULL DEFAULT 0,
    broadcast_id bigint,
    message jsonb,
    due_at timestamptz,
    expires_at timestamptz,
    worker text,
    lease_until timestamptz,
    begun_at timestamptz,
    settled_at timestamptz,
    reason text,
    detail text,
    provider_message_id text,
    internet_message_id text,
    asks smallint NOT NULL DEFAULT 0
);
CREATE INDEX sends_due ON sends (stream, account, not_before) WHERE state = 'queued';
CREATE INDEX sends_late ON sends (greatest(created_at, coalesce(due_at, not_before))) WHERE state = 'queued';
CREATE INDEX sends_expiring ON sends (expires_at) WHERE state = 'queued' AND expires_at IS NOT NULL;
CREATE INDEX sends_leased ON sends (lease_until) WHERE state = 'leased';
CREATE INDEX sends_unknown ON sends (settled_at) WHERE state = 'unknown';
CREATE INDEX sends_newest ON sends (created_at, id);
CREATE INDEX sends_recipient ON sends (recipient, created_at);
CREATE INDEX sends_broadcast ON sends (broadcast_id, state, not_before) WHERE broadcast_id IS NOT NULL;
CREATE INDEX sends_provider_message ON sends (provider_message_id) WHERE provider_message_id IS NOT NULL;
COMMENT ON TABLE sends IS 'The outbox: messages that handlers have asked for, one row for each recipient.';
COMMENT ON COLUMN sends.id IS 'Id of the send; travels with the message.';
COMMENT ON COLUMN sends.key IS 'Business key: the same key is never queued twice, however often a handler runs.';
COMMENT ON COLUMN sends.state IS 'queued, leased, sent, unknown (the outcome is not known), failed, skipped, cancelled.';
COMMENT ON COLUMN sends.recipient IS 'Normalized address.';
COMMENT ON COLUMN sends.template IS 'Name of the template.';
COMMENT ON COLUMN sends.stream IS 'marketing or transactional.';
COMMENT ON COLUMN sends.topic IS 'What the message is about, for consent.';
COMMENT ON COLUMN sends.data IS 'Values for the template.';
COMMENT ON COLUMN sends.cancel_on IS 'What makes the send pointless once its recipient has done it: event types, or a type with a tag (clicked:offer).';
COMMENT ON COLUMN sends.not_before IS 'Not to be sent earlier.';
COMMENT ON COLUMN sends.attempts IS 'How often sending was tried.';
COMMENT ON COLUMN sends.handler IS 'The handler that asked.';
COMMENT ON COLUMN sends.event_id IS 'The event it was asked for.';
COMMENT ON COLUMN sends.created_at IS 'When it was queued.';
COMMENT ON COLUMN sends.account IS 'Which account sends it; NULL: the one for its stream.';
COMMENT ON COLUMN sends.brand IS 'Whose mail it is; empty: the only brand there is.';
COMMENT ON COLUMN sends.rule IS 'The rule that asked for it; NULL: a handler, or the API.';
COMMENT ON COLUMN sends.depth IS 'How many sends of rules led to it: the event that caused it was about a send of depth one less.';
COMMENT ON COLUMN sends.broadcast_id IS 'broadcasts.id, for a message of a broadcast.';
COMMENT ON COLUMN sends.message IS 'The message, where the API was given one; NULL: it is made of the template.';
COMMENT ON COLUMN sends.due_at IS 'When it was first to be sent: not_before moves on with holds and retries. NULL: as not_before says, until somebody takes it in hand.';
COMMENT ON COLUMN sends.expires_at IS 'Not to be sent later; NULL: no limit but the account''s deadline.';
COMMENT ON COLUMN sends.worker IS 'Process that has leased it.';
COMMENT ON COLUMN sends.lease_until IS 'Another process may take it over after this time.';
COMMENT ON COLUMN sends.begun_at IS 'When the current attempt began to talk to the transport; NULL: it has not.';
COMMENT ON COLUMN sends.settled_at IS 'When it came to its last state (sent, failed, skipped, cancelled), or became unknown.';
COMMENT ON COLUMN sends.reason IS 'Why it was skipped, failed or is unknown, in a word: hard_bounce, not_subscribed, frequency_cap, ...';
COMMENT ON COLUMN sends.detail IS 'The same in words, without addresses.';
COMMENT ON COLUMN sends.provider_message_id IS 'The provider''s id of the message, as its webhooks give it (events.message_id).';
COMMENT ON COLUMN sends.internet_message_id IS 'The Message-ID header that it was given, without its angle brackets: the same at each attempt. SMTP and Mailgun keep it; other providers make their own.';
COMMENT ON COLUMN sends.asks IS 'How often the provider was asked whether it has taken the message, while the outcome is unknown.';

CREATE TABLE send_attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    send_id uuid NOT NULL REFERENCES sends ON DELETE CASCADE,
    attempt integer NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    account text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('sent', 'retry', 'rejected', 'pause', 'unknown', 'skipped', 'held')),
    detail text NOT NULL DEFAULT '',
    checks jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX send_attempts_send ON send_attempts (send_id, id);
COMMENT ON TABLE send_attempts IS 'Every attempt to send, with what the guard said before it.';
COMMENT ON COLUMN send_attempts.id IS 'Number, in order of time.';
COMMENT ON COLUMN send_attempts.send_id IS 'sends.id.';
COMMENT ON COLUMN send_attempts.attempt IS 'How often the transport had been asked, this time included.';
COMMENT ON COLUMN send_attempts.at IS 'When it began.';
COMMENT ON COLUMN send_attempts.account IS 'The account.';
COMMENT ON COLUMN send_attempts.outcome IS 'sent, retry (later), rejected, pause (the account cannot send, or rests), unknown (also while it goes on), or by the guard: skipped (never), held (later).';
COMMENT ON COLUMN send_attempts.detail IS 'In words, without addresses.';
COMMENT ON COLUMN send_attempts.checks IS 'The guard''s questions and answers, in their order.';

CREATE TABLE send_accounts (
    name text PRIMARY KEY,
    paused_at timestamptz,
    paused_until timestamptz,
    paused_by text,
    reason text NOT NULL DEFAULT '',
    failures integer NOT NULL DEFAULT 0,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE send_accounts IS 'Which accounts may not send now, for all workers. The name * stands for all of them: the kill switch.';
COMMENT ON COLUMN send_accounts.name IS 'Name of the account, or *.';
COMMENT ON COLUMN send_accounts.paused_at IS 'When it was paused; NULL: it is not.';
COMMENT ON COLUMN send_accounts.paused_until IS 'It goes on by itself after this time; NULL: once somebody says so.';
COMMENT ON COLUMN send_accounts.paused_by IS 'Account of the operating system or API key; NULL: the service itself.';
COMMENT ON COLUMN send_accounts.reason IS 'Why, in words.';
COMMENT ON COLUMN send_accounts.failures IS 'Failures of the account in a row, for its circuit breaker.';
COMMENT ON COLUMN send_accounts.changed_at IS 'When the row was last changed.';

CREATE TABLE send_budgets (
    account text NOT NULL,
    per text NOT NULL CHECK (per IN ('second', 'hour', 'day')),
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    began_at timestamptz NOT NULL DEFAULT '-infinity',
    used bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account, per)
) WITH (fillfactor = 50);
COMMENT ON TABLE send_budgets IS 'What the rate limits of accounts have left, for all workers together.';
COMMENT ON COLUMN send_budgets.account IS 'Name of the account.';
COMMENT ON COLUMN send_budgets.per IS 'second: evenly spaced. hour, day: so many within a fixed time.';
COMMENT ON COLUMN send_budgets.next_at IS 'For second: when the next message may go.';
COMMENT ON COLUMN send_budgets.began_at IS 'For hour and day: when that time began.';
COMMENT ON COLUMN send_budgets.used IS 'For hour and day: messages sent since.';

CREATE TABLE broadcasts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    template text NOT NULL,
    topic text NOT NULL,
    segment text,
    filter jsonb,
    brand text NOT NULL DEFAULT '',
    account text,
    data jsonb NOT NULL DEFAULT '{}',
    per_minute integer,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'done', 'cancelled')),
    reason text NOT NULL DEFAULT '',
    expected bigint NOT NULL,
    queued bigint NOT NULL DEFAULT 0,
    last_contact_id bigint NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz
);
COMMENT ON TABLE broadcasts IS 'A template to everybody in a segment, or subscribed to a topic.';
COMMENT ON COLUMN broadcasts.id IS 'Number, for people.';
COMMENT ON COLUMN broadcasts.name IS 'Its name: the same broadcast is never made twice.';
COMMENT ON COLUMN broadcasts.template IS 'Name of the template.';
COMMENT ON COLUMN broadcasts.topic IS 'What it is about: recipients must be subscribed to it.';
COMMENT ON COLUMN broadcasts.segment IS 'Who of them; NULL: all.';
COMMENT ON COLUMN broadcasts.filter IS 'The segment''s filter, as it was then.';
COMMENT ON COLUMN broadcasts.brand IS 'Whose mail it is: the topic''s brand.';
COMMENT ON COLUMN broadcasts.account IS 'Which account sends it; NULL: the one for its stream.';
COMMENT ON COLUMN broadcasts.data IS 'Values for the template.';
COMMENT ON COLUMN broadcasts.per_minute IS 'Most messages in a minute; NULL: as the account allows.';
COMMENT ON COLUMN broadcasts.state IS 'running, paused, done (all are queued) or cancelled.';
COMMENT ON COLUMN broadcasts.reason IS 'Why it is paused, in words.';
COMMENT ON COLUMN broadcasts.expected IS 'Recipients when it was made.';
COMMENT ON COLUMN broadcasts.queued IS 'Messages that are in the outbox, or were.';
COMMENT ON COLUMN broadcasts.last_contact_id IS 'contacts.id up to which they are.';
COMMENT ON COLUMN broadcasts.not_before IS 'When the next message that is not queued yet may go; per_minute moves it on.';
COMMENT ON COLUMN broadcasts.created_at IS 'When it was made.';
COMMENT ON COLUMN broadcasts.created_by IS 'Who made it: an API key, or an account of the operating system.';
COMMENT ON COLUMN broadcasts.changed_at IS 'When its state was last changed.';
COMMENT ON COLUMN broadcasts.done_at IS 'When all of it was queued; NULL: it is not yet.';

CREATE TABLE click_verdicts (
    event_id uuid PRIMARY KEY,
    actor text NOT NULL CHECK (actor IN ('human', 'machine', 'proxy', 'unknown')),
    score smallint NOT NULL CHECK (score BETWEEN 0 AND 100),
    reasons text[] NOT NULL,
    version smallint NOT NULL,
    judged_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE click_verdicts IS 'Clicks judged a second time, some minutes later, with all clicks of the message: bursts are those of scanners.';
COMMENT ON COLUMN click_verdicts.event_id IS 'events.id of the click.';
COMMENT ON COLUMN click_verdicts.actor IS 'Who it was; outweighs events.actor.';
COMMENT ON COLUMN click_verdicts.score IS 'How much speaks for a machine, from 0 to 100; from 60 on it is one.';
COMMENT ON COLUMN click_verdicts.reasons IS 'What speaks for it.';
COMMENT ON COLUMN click_verdicts.version IS 'Version of the rules.';
COMMENT ON COLUMN click_verdicts.judged_at IS 'When.';

-- The API ----------------------------------------------------------------------------------------------------------

CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    start text NOT NULL,
    hash bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    replaces bigint REFERENCES api_keys,
    used_at timestamptz
);
COMMENT ON TABLE api_keys IS 'Who may use the API. A key itself is shown once and stored nowhere.';
COMMENT ON COLUMN api_keys.id IS 'Number, for people.';
COMMENT ON COLUMN api_keys.name IS 'What it is for.';
COMMENT ON COLUMN api_keys.start IS 'How the key begins, to find it again.';
COMMENT ON COLUMN api_keys.hash IS 'SHA-256 of the key: 256 random bits need no salt and no slow hash.';
COMMENT ON COLUMN api_keys.scopes IS 'What it may do.';
COMMENT ON COLUMN api_keys.created_at IS 'When it was made.';
COMMENT ON COLUMN api_keys.created_by IS 'Account of the operating system that made it.';
COMMENT ON COLUMN api_keys.expires_at IS 'It is good until then; NULL: until it is revoked.';
COMMENT ON COLUMN api_keys.revoked_at IS 'When it was revoked.';
COMMENT ON COLUMN api_keys.replaces IS 'The key that it takes the place of (rotation).';
COMMENT ON COLUMN api_keys.used_at IS 'When it was last used, to a minute.';

CREATE TABLE api_requests (
    key_id bigint NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    idempotency_key text NOT NULL,
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key_id, idempotency_key)
);
COMMENT ON TABLE api_requests IS 'Requests that came with an Idempotency-Key and were done: a repetition within a day gets the first one''s answer.';
COMMENT ON COLUMN api_requests.key_id IS 'api_keys.id.';
COMMENT ON COLUMN api_requests.idempotency_key IS 'What the client chose.';
COMMENT ON COLUMN api_requests.fingerprint IS 'SHA-256 of method, path and body: the same key with another request is a mistake.';
COMMENT ON COLUMN api_requests.status IS 'HTTP status of the answer.';
COMMENT ON COLUMN api_requests.answer IS 'The answer, encrypted.';
COMMENT ON COLUMN api_requests.created_at IS 'When it was done, in the same transaction.';

CREATE TABLE imports (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file text NOT NULL,
    fingerprint bytea NOT NULL,
    options jsonb NOT NULL,
    rows_done bigint NOT NULL DEFAULT 0,
    report jsonb NOT NULL DEFAULT '{}',
    began_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    who text NOT NULL
);
CREATE UNIQUE INDEX imports_open ON imports (fingerprint) WHERE finished_at IS NULL;
COMMENT ON TABLE imports IS 'Imports of contacts and suppressions, and how far each has come: one that was interrupted goes on there.';
COMMENT ON COLUMN imports.id IS 'Number, for people.';
COMMENT ON COLUMN imports.file IS 'Name of the file.';
COMMENT ON COLUMN imports.fingerprint IS 'SHA-256 of the file and the options.';
COMMENT ON COLUMN imports.options IS 'What was asked for.';
COMMENT ON COLUMN imports.rows_done IS 'Rows that are stored, or were refused.';
COMMENT ON COLUMN imports.report IS 'What became of them, counted.';
COMMENT ON COLUMN imports.began_at IS 'When it was begun.';
COMMENT ON COLUMN imports.finished_at IS 'When it was done; NULL: not yet.';
COMMENT ON COLUMN imports.who IS 'Account of the operating system that began it.';

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
COMMENT ON COLUMN retention_steps.began_txid IS 'The oldest transaction that ran when that was begun: rows changed by it or since then make it begin anew.';
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
    notified_severity text,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT '-infinity',
    CHECK ((resolved_at IS NULL) = (resolution IS NULL))
);
CREATE UNIQUE INDEX alerts_open ON alerts (key) WHERE resolved_at IS NULL;
CREATE INDEX alerts_resolved ON alerts (resolved_at);
COMMENT ON TABLE alerts IS 'Problems that people should know of: one row for each, however many events it concerns.';
COMMENT ON COLUMN alerts.id IS 'Number, for people.';
COMMENT ON COLUMN alerts.key IS 'What the problem is and whose, such as silence:shop. Only one row of a key is open.';
COMMENT ON COLUMN alerts.kind IS 'What kind of problem: silence, backlog, breaker, dead_letters, quarantine, retention, retention_failed, replay, partitions, account, and those of bounces.';
COMMENT ON COLUMN alerts.severity IS 'warning or critical.';
COMMENT ON COLUMN alerts.text IS 'The problem in words, as it was last seen.';
COMMENT ON COLUMN alerts.since IS 'When it began, or was first seen.';
COMMENT ON COLUMN alerts.last_seen IS 'When it was last seen.';
COMMENT ON COLUMN alerts.resolved_at IS 'When it was gone; NULL: it is there.';
COMMENT ON COLUMN alerts.resolution IS 'Its end in words.';
COMMENT ON COLUMN alerts.notified_at IS 'When the webhook last accepted a notice of it.';
COMMENT ON COLUMN alerts.notified_severity IS 'How severe that notice said it was.';
COMMENT ON COLUMN alerts.attempts IS 'How often sending the next notice has failed.';
COMMENT ON COLUMN alerts.next_at IS 'When the next notice may be tried.';
