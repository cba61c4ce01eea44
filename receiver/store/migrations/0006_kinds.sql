-- What kinds of dead letters and of quarantine are open, asked every few seconds. Adds only; the release before this one
-- goes on working beside it.

CREATE INDEX dead_letters_kinds ON dead_letters (handler, error_type) WHERE resolved_at IS NULL;
CREATE INDEX quarantine_kinds ON quarantine (source, kind) WHERE resolved_at IS NULL;
