"""Contacts: who may be mailed, and why. `handling` is what handlers see of it."""
