"""Decks: PPTX, ODP, PPT and PDF, their pixels and what the file itself says."""
