"""Agents where the work is: a controller of one stream, constraints, a service, export."""
