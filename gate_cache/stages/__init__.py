"""Stages: thin compositions of data set, diffusion, store and learning. Floor 4."""
