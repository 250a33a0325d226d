"""The table of trainable networks that read the backbone's features (config.model.network).

A network is a Flax module built as `Network(config, dtype, remat)`, with config: DistConfig. It is called with
`features` [L_selected, S, B, prefix + N, D], `frame_summary` [S, B, D] and `video` [B, T, H, W, 3], and returns
float32 [B, E], not normalised. `docs/extending.md` shows how to add one.
"""

import flax.linen as nn

from dist_jax.models.dist_network import DistNetwork

NETWORKS: dict[str, type[nn.Module]] = {"dist": DistNetwork}
