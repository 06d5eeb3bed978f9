"""Recommendation: clicks, conversions and dwell time in one model; ratings with explanations."""
