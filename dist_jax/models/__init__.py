"""The networks, as Flax linen modules, and the video model that combines them."""
