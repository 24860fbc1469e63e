"""Training with transformers' `Trainer`: rollouts at evaluation, the card at saving, runs that survive a kill."""
