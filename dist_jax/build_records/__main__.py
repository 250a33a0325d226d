"""Entry point of `python -m dist_jax.build_records`: see command.py."""

from dist_jax.build_records import command
from dist_jax.errors import exit_with_message

if __name__ == "__main__":
    exit_with_message(command.main)
