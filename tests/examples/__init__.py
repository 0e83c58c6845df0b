"""CONTRIBUTING's recipes, followed to the letter: what an addition touches, and no more."""
