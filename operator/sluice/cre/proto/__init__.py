"""The messages, written by us from CRE's field numbers; ``make proto`` writes the Python."""
