"""The study: everything that runs and reports the experiment. The core imports nothing of it."""
