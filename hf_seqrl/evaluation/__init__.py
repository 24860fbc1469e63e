"""Evaluation of agents: rollouts in environments, offline estimates, collected data, plots and videos."""
