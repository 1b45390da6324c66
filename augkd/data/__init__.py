"""Where images come from, and how batches are made of them: one's own, or a cohort's.

Fetching and preparing data sets, and which of them a cohort learns from, is the study's.
"""
