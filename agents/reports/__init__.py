"""The log of a lifetime, and all that is told from it: tables, figures, comparisons."""
