"""``python -m catalogue`` is the command ``catalogue``."""

from catalogue.cli import app

# Worker processes import this module under another name; only the command itself may start it.
if __name__ == "__main__":
    app(prog_name="catalogue")
