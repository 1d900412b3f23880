"""Stage 1: planning, extracting, keeping a store in step with a manifest. Floor 6."""
