"""From a trained network to files that ship: python src/export.py run=ID format=onnx (see --help)."""

from paredown.export.cli import main

if __name__ == "__main__":
    main()
