"""Sending: the outbox's messages go out, once, to people who may be mailed.

`message` is what is sent, `transport` how a transport is asked and what it answers; one file for each transport.
"""
