"""Proof that our models answer as the original code: golden packs, and how one is checked.

A pack (`pack`) holds what the original code computed for weights (`hash_weights`), images and
sounds (`recipes`) that are themselves computed, from integer hashes; so it is small, and needs no
published weights.

`check.check_pack` checks one: `forward` compares sizes, pixels and features (`media`), ids
(`prompts`), logits and tokens of plain forward passes, each by `compare`; then `check` asks the
engine, alone, in batches and in a mix.
"""
