"""The names of the commands of `paredown`."""

from __future__ import annotations

# what each is, for the help and for completion
COMMANDS = {
    "demo": "five methods on embedded images in three minutes, then their report: no data needed",
    "run": "one experiment: paredown run method=ssc model=resnet32 sparsity=0.95",
    "sweep": "many experiments, on this machine or a cluster",
    "report": "from recorded runs to an answer: the front, the best under a budget",
    "export": "from a trained network to files that ship, each certified",
    "bench": "how fast a deployed network really is",
    "list": "what there is: paredown list methods|models|datasets|recipes|experiments|sweeps|published",
    "explain": "what a choice is, and every setting of it: paredown explain method=svd_training",
    "check": "whether a method of your own keeps the contract: paredown check method=mine",
    "completion": "completion for your shell: paredown completion bash|zsh|fish",
}
