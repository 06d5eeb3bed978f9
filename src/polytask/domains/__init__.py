"""Whole fields built from the library's parts: loaders, encoders, heads and metrics, never a loop of their own."""
