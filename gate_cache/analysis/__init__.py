"""Looking into a store: pictures, matches, content shift. Floor 6, above training."""
