"""The parameter table that a run prints when it starts."""

import math

import jax


def parameter_table(frozen: dict, trainable: dict) -> str:
    """Parameters by part of the network: name, frozen or trainable, millions, MiB."""
    rows = [
        (f"{prefix}{name}", kind, sum(math.prod(leaf.shape) for leaf in leaves), sum(leaf.nbytes for leaf in leaves))
        for kind, prefix, tree in (("frozen", "clip/", frozen["vision"]), ("trainable", "dist/", trainable))
        for name, leaves in ((name, jax.tree.leaves(part)) for name, part in tree.items())
    ]
    for kind in ("frozen", "trainable"):
        of_kind = [row for row in rows if row[1] == kind]
        rows.append((f"all {kind}", kind, sum(row[2] for row in of_kind), sum(row[3] for row in of_kind)))
    lines = [f"{'parameters':<28} {'':<10} {'millions':>10} {'MiB':>9}"]
    lines += [f"{name:<28} {kind:<10} {count / 1e6:>10.3f} {size / 2**20:>9.2f}" for name, kind, count, size in rows]
    return "\n".join(lines)
