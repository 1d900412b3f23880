"""Backbones that differ from Stable Diffusion 1.x and 2.x, one file each."""
