"""From a trained network to files that ship: python src/export.py run=ID format=onnx (see --help)."""

from paredown.core import interrupt

interrupt.install()

from paredown.cli.export import main  # noqa: E402 (seconds, in which Ctrl-C is one line already)

if __name__ == "__main__":
    main()
