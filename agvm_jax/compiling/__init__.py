"""A training step on chips that are not here: compiled, and what its text says."""
