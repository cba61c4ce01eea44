"""Handlers: what a handler is, what it is given, what it may answer, and how its file is loaded."""
