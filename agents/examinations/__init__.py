"""Examinations: what is known, asked without a trace, and where what was forgotten was lost."""
