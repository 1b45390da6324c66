"""What networks, steps and budgets cost, before and after they are run."""
