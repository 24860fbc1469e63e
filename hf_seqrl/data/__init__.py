"""Trajectories: what they are, where they come from, and how windows of them are gathered."""
