"""Many experiments: python src/sweep.py sweep=NAME (see --help)."""

from paredown.sweep.command import main

if __name__ == "__main__":
    main()
