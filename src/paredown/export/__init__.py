"""From a trained network to files that ship, each with a certificate that it computes the same."""
