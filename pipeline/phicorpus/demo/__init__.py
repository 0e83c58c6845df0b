"""The demo corpus: deterministic real files with their ground truth."""
