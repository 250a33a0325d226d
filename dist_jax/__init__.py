"""Video classification with DiST in JAX: a frozen CLIP, a temporal encoder and an integration branch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dist_jax.inference.loading import load
    from dist_jax.inference.predictor import Predictor

__all__ = ["Predictor", "load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Imports `load` and `Predictor` at first use, so that `import dist_jax` stays fast."""
    if name in __all__:
        from dist_jax.inference import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
