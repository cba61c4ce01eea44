"""Watching the installation: what it looks like, what is wrong with it, and telling people.

observer.py     looking at the database, at most every few seconds however many ask
troubles.py     what an observation says is wrong
alarm.py        each problem once: opening and resolving alerts, one process at a time
bad_days.py     mailbox providers' bad days, bad lists, and mail that is refused because of the sender
notices.py      what the alert webhook is told, signed
loop_lag.py     how long the event loop of this process is kept from its work
"""
