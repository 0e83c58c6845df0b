"""What each command does, without a terminal: annotate, retry, status, verify, mend."""
