"""Where a store's files may be: a folder, a bucket, a web server."""
