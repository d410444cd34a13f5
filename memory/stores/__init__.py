"""Where a lifelong memory is kept: tensors, SQLite or PostgreSQL, sealed against damage."""
