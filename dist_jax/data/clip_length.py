"""Mean length of the training clips: the default window of a timeline."""

import numpy as np

from dist_jax.data.source import Source

NUM_SAMPLED = 256  # clips; the standard error of the mean is then a sixteenth of the standard deviation


def mean_seconds(source: Source) -> float | None:
    """Mean length of evenly spaced clips, at most `NUM_SAMPLED`, in seconds; None: the clips have no times."""
    records = np.unique(np.linspace(0, source.size - 1, NUM_SAMPLED).astype(int)).tolist()
    lengths = [seconds for seconds in map(source.seconds, records) if seconds is not None and seconds > 0]
    return round(sum(lengths) / len(lengths), 3) if lengths else None
