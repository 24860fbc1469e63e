"""Agents to and from the Hub: one folder holds weights, processor, results, how they came to be, and the card."""
