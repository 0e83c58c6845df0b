"""Proof that our models answer as the original code: golden packs, and the runner that checks one.

A pack holds what the original code computed for weights, images and sounds that are themselves
computed, from integer hashes; so it is small, and needs no published weights.
"""
