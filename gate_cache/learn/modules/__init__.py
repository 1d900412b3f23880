"""Modules of heads: what torch trains."""
