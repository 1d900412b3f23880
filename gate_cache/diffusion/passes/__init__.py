"""Passes of a model: which are needed, running them, and reading maps off them."""
