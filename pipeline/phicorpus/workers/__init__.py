"""The processes that Ray runs: the cluster, quarantine of rows that kill, watchdog, metrics."""
