"""paredown: compress image classifiers, every method under one protocol."""

__version__ = "0.1.0"
