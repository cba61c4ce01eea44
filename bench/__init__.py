"""What one event costs in CPU time, beside the least that the same machine needs for it. `python -m bench --help`."""
