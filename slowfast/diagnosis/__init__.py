"""Diagnosis of a machine: what works here, what is missing, and how to mend it."""
