"""phicorpus: annotate whole corpora of images, slide decks and recordings with Phi models."""

from pipeline.telemetry import report_nothing

report_nothing()
