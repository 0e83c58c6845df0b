"""The input: manifests built, read, checked, and cut into units."""
