"""What we ask of a segment: one file per task, with its prompt, answer type and parser."""
