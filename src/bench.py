"""How fast a deployed network really is: python src/bench.py run=ID (see --help)."""

from paredown.bench.cli import main

if __name__ == "__main__":
    main()
