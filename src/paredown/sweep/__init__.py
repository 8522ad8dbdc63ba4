"""Sweeps: many experiments on Ray Tune, where nothing is trained twice and nothing is lost."""
