"""python -m lsr: the command line."""

from lsr.cli import app

if __name__ == "__main__":
    app(prog_name="lsr")
