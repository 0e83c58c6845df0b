"""phicorpus: annotate whole corpora of images, slide decks and recordings with Phi models."""

from phicorpus.telemetry import report_nothing

report_nothing()
