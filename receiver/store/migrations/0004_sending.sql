-- Sending what the outbox holds. Adds only; the release before this one goes on working beside it.

ALTER TABLE sends
    ADD COLUMN account text,
    ADD COLUMN brand text NOT NULL DEFAULT '',
    ADD COLUMN rule text,
    ADD COLUMN depth smallint NOT NULL DEFAULT 0,
    ADD COLUMN broadcast_id bigint,
    ADD COLUMN message jsonb,
    ADD COLUMN due_at timestamptz,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN worker text,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN begun_at timestamptz,
    ADD COLUMN settled_at timestamptz,
    ADD COLUMN reason text,
    ADD COLUMN detail text,
    ADD COLUMN provider_message_id text,
    ADD COLUMN internet_message_id text,
    ADD COLUMN asks smallint NOT NULL DEFAULT 0;
DROP INDEX sends_due;
CREATE INDEX sends_due ON sends (stream, account, not_before) WHERE state = 'queued';
CREATE INDEX sends_late ON sends (greatest(created_at, coalesce(due_at, not_before))) WHERE state = 'queued';
CREATE INDEX sends_expiring ON sends (expires_at) WHERE state = 'queued' AND expires_at IS NOT NULL;
CREATE INDEX sends_leased ON sends (lease_until) WHERE state = 'leased';
CREATE INDEX sends_unknown ON sends (settled_at) WHERE state = 'unknown';
CREATE INDEX sends_newest ON sends (created_at, id);
CREATE INDEX sends_recipient ON sends (recipient, created_at);
CREATE INDEX sends_broadcast ON sends (broadcast_id, state, not_before) WHERE broadcast_id IS NOT NULL;
CREATE INDEX sends_provider_message ON sends (provider_message_id) WHERE provider_message_id IS NOT NULL;
COMMENT ON COLUMN sends.cancel_on IS 'What makes the send pointless once its recipient has done it: event types, or a type with a tag (clicked:offer).';
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

COMMENT ON COLUMN alerts.kind IS 'What kind of problem: silence, backlog, breaker, dead_letters, quarantine, retention, replay, partitions, account, and those of bounces.';
