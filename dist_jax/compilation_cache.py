"""The cache of compiled programs, which later processes with the same programs read instead of compiling."""

import os

import jax


def enable(folder: str) -> None:
    """Caches compiled programs in `folder` ("auto": the user's cache directory; "": no cache)."""
    if folder == "auto":
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(cache, "dist_jax", "compiled")
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
