"""Task heads, one a file: a name, options, a task (`gate_cache.manifest.heads`). No torch at the top."""
