"""Everything that is SQL: the schema, the writing of deliveries, the log, and what people ask about."""
