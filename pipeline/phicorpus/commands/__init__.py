"""The commands without a terminal: prepare, annotate, retry, status, show, verify, mend."""
