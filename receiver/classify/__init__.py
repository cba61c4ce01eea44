"""Judgements on single values, without I/O: bounces, who opened or clicked, mailbox providers, addresses."""
