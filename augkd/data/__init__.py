"""Where images come from, and how a cohort's batches are drawn from them."""

from augkd.data.sampler import Batch

__all__ = ["Batch"]
