"""Measured speed of a deployed network compared with the dense one, on this machine."""
