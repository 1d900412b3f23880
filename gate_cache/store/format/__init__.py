"""What a store looks like on disk: documents, tables, shards, marks, encodings."""
