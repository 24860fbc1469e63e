"""Training with transformers' `Trainer`: rollouts at evaluation, model cards, and runs that can be resumed."""
