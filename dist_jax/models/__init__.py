"""The networks, as Flax linen modules: the only place in dist_jax that knows Flax modules."""
