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

-- Quarantine -------------------------------------------------------------------------------------------------------

COMMENT ON COLUMN quarantine.fingerprint IS 'SHA-256 of the content, or of the signed text where that is not the content: each is kept once while it is open.';
