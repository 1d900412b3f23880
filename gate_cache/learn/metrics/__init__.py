"""Metrics, their protocol and their intervals."""
