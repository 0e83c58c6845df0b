"""How a model is run: requests in, completions out."""
