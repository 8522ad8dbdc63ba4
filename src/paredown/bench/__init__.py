"""How fast a deployed network really is, beside the dense one, on this machine."""
