"""Policies: who is written and who leaves; rules, learned ones, and how they decide on a CPU."""
