"""Handing events to handlers.

worker.py       a process's part: its handlers' loops, its leases, its end
loop.py         one handler: lease shards, read, run, acknowledge, again
reader.py       one read for all handlers that stand at the same place
batches.py      cutting what was read into batches
running.py      running a batch, and each event alone when the batch fails
calling.py      one call of a handler: its context, time limit, and what came of it
retrying.py     events that are due again
failing.py      what is kept of a failure, and when to try again
transaction.py  a transaction that opens when first used
database.py     connections, and which errors are the database's own
pulse.py        when to look for new events
listening.py    being woken by other processes
"""
