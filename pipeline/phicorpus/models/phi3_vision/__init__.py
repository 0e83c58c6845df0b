"""Phi-3-vision and Phi-3.5-vision: CLIP tower and decoder."""
