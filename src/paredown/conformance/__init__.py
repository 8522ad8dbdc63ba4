"""The contract of a method, runnable on any of them."""
