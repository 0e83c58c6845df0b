"""The processes that Ray runs: cluster, quarantine of rows that kill, watchdog, logs, metrics."""
