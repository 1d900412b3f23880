"""Amalgamation: weight assigners and the models around them (paper, A.4)."""
