"""Trains the small Phi-4-multimodal that the demo ships, from the demo's own generators."""
