"""Task heads, one a file: a name, options, a task (`manifest.heads`). No torch at the top."""
