"""Where images come from, and how a cohort's batches are drawn from them."""

from augkd.data.batch import Batch

__all__ = ["Batch"]
