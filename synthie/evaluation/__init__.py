"""Evaluation from the inside: counts and scores, resampling, errors, confidence, readers, the report."""
