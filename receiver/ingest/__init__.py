"""From an authentic delivery to committed rows."""
