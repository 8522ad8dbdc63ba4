"""One experiment: python src/run.py method=ssc model=resnet32 sparsity=0.95 (see --help)."""

from paredown.cli import main

if __name__ == "__main__":
    main()
