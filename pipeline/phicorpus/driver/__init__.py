"""The process that drives a run: its signals, its parent process, and when it gives up."""
