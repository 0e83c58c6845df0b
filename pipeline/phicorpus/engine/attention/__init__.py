"""The attention of a step over KV pages: backends, and the layout that they share."""
