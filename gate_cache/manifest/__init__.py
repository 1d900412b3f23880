"""The manifest: its sections, typed, and the YAML they are written in. Floor 2; no torch."""
