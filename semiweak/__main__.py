"""``python -m semiweak`` and the ``semiweak`` command."""

from __future__ import annotations

import sys

USAGE = """\
usage: semiweak COMMAND [options]

Learn segmentation from few and weak labels.

commands:
  fit        train a model
  validate   score a checkpoint on the validation images
  test       score a checkpoint on the test images
  predict    write one label image for each image of a folder
  inspect    say what is annotated in a data set, and what each method would use of it

examples:
  semiweak fit --config examples/supervised_synthetic.yaml
  semiweak predict --ckpt_path best.ckpt --data.root new/ --out labels/
  semiweak inspect --config examples/supervised_synthetic.yaml

options:
  --version  print the version
  --help     print this; `semiweak fit --help` prints all options of a command
"""


def main(args: list[str] | None = None) -> None:
    """Runs one command; see ``semiweak --help``."""
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
    elif args[0] == "--version":
        from semiweak import __version__

        print(f"semiweak {__version__}")
    else:
        # Everything below needs torch and Lightning, which take seconds to import.
        from semiweak.cli import run

        run(args)


if __name__ == "__main__":
    main()
