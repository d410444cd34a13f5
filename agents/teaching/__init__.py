"""Teaching memory policies: before one reader, from logged operations, and as an environment."""
