"""Export of trained networks to files, each with a certificate of equivalence."""
