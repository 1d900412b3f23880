"""What everything rests on: errors, paths, progress, fingerprints. Floor 1; no heavy library."""
