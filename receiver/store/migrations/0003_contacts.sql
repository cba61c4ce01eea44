-- Who may be mailed, and why: consent, suppressions, and one function that answers. Adds only; the release before this
-- one goes on working beside it.

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

ALTER TABLE contacts
    ADD COLUMN external_id text UNIQUE,
    ADD COLUMN display_address text,
    ADD COLUMN name text,
    ADD COLUMN locale text,
    ADD COLUMN time_zone text,
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    ADD COLUMN updated_at timestamptz,
    ADD COLUMN soft_streak integer NOT NULL DEFAULT 0,
    ADD COLUMN prefetched_at timestamptz;
ALTER TABLE contacts SET (fillfactor = 85);
CREATE INDEX contacts_tags ON contacts USING gin (tags);
COMMENT ON TABLE contacts IS 'One row for each address that the team or events told of. Whether it may be mailed is what sendable() says, never one status here.';
COMMENT ON COLUMN contacts.address_hash IS 'HMAC-SHA256 of the normalized address under the address key; what suppressions and subscriptions refer to.';
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

ALTER TABLE suppressions DROP CONSTRAINT suppressions_reason_check;
ALTER TABLE suppressions
    ADD CONSTRAINT suppressions_reason_check
        CHECK (reason IN ('hard_bounce', 'soft_bounce', 'complaint', 'unsubscribe', 'manual', 'imported')),
    ADD COLUMN key_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN normalization smallint NOT NULL DEFAULT 1,
    ADD COLUMN recipient_domain text,
    ADD COLUMN mailbox_provider text,
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN note text NOT NULL DEFAULT '',
    ADD COLUMN lifted_by text,
    ADD COLUMN lift_reason text;
CREATE INDEX suppressions_reason ON suppressions (reason, last_at);
-- Of all addresses that are asked about, most have none: one page says so, where the key's tree takes three.
CREATE INDEX suppressions_address ON suppressions USING hash (address_hash);
COMMENT ON COLUMN suppressions.reason IS 'hard_bounce, soft_bounce (repeated), complaint, unsubscribe (from all marketing), manual or imported.';
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

-- An unsubscribe from one topic is a matter of that topic's subscription from now on.
INSERT INTO subscriptions (address_hash, topic, unsubscribed_at)
SELECT address_hash, topic, max(last_at) FROM suppressions
WHERE reason = 'unsubscribe' AND scope = 'topic' AND active GROUP BY address_hash, topic;

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

COMMENT ON COLUMN events.attribution IS 'ambiguous: the provider named several recipients and does not say which of them it was. unverified: a bounce message or feedback report, which anybody can forge. erased: it was about a person who has been erased.';
COMMENT ON COLUMN events.raw IS 'The provider''s own object. NULL once retention has removed it, or its person was erased.';
COMMENT ON COLUMN events.raw_altered IS 'Characters or numbers that Postgres cannot hold were replaced in raw, or an erased person was taken out of it.';
