"""Checking what a store holds against its checksums."""
