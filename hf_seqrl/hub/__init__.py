"""Saving, loading and sharing agents: one folder holds weights, processor, results, training record and card."""
