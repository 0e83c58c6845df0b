"""phicorpus: annotate whole corpora of images, slide decks and recordings with Phi models."""
