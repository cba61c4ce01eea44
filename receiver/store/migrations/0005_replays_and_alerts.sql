-- What a replay was told and what became of it, and how severe an alert was when it was told. Adds only; the release
-- before this one goes on working beside it.

ALTER TABLE replays
    ADD COLUMN rate double precision,
    ADD COLUMN taken_back bigint;
COMMENT ON COLUMN replays.rate IS 'Events a second at most; NULL: as fast as the workers are.';
COMMENT ON COLUMN replays.taken_back IS 'How many of those that were put it took out of retries when it was cancelled; NULL: not cancelled, or its handler was removed.';

ALTER TABLE alerts ADD COLUMN notified_severity text;
COMMENT ON COLUMN alerts.notified_severity IS 'How severe that notice said it was.';
COMMENT ON COLUMN alerts.kind IS 'What kind of problem: silence, backlog, breaker, dead_letters, quarantine, retention, retention_failed, replay, partitions, account, and those of bounces.';

COMMENT ON COLUMN retention_steps.began_txid IS 'The oldest transaction that ran when that was begun: rows changed by it or since then make it begin anew.';
