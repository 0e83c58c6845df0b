"""The stages, in the order of the flow: fetch, decode, infer, commit."""
