"""The table of trainable networks that read the backbone's features (config.model.network).

A network is a Flax module built as `Network(config, dtype, remat, device_kind)`, see DistNetwork. It is called with
`features` [L_selected, S, B, prefix + N, D], `frame_summary` [S, B, D] and `video` [B, T, H, W, 3], and returns
float32 [B, config.output_dim]: embeddings, not normalised, or logits of all labels, one label after the other.
`docs/extending.md` shows how to add one.

Optional class attributes, which are False by default:
    has_own_classes: it returns logits of a linear classifier, and config.num_classes is the number of its outputs.
    reads_last_layer: it reads only the last of the selected backbone blocks; `features` then has only this block.
"""

import flax.linen as nn

from dist_jax.models.dist_network import DistNetwork
from dist_jax.models.probes import AttentiveProbe, LinearProbe

NETWORKS: dict[str, type[nn.Module]] = {
    "dist": DistNetwork,
    "linear_probe": LinearProbe,
    "attentive_probe": AttentiveProbe,
}
NO_NETWORK = "none"  # the name of a model without trained network


def has_own_classes(name: str) -> bool:
    """True if the network (a key of NETWORKS, or NO_NETWORK) has its own linear classifier."""
    return getattr(NETWORKS.get(name), "has_own_classes", False)


def reads_last_layer(name: str) -> bool:
    """True if the network (a key of NETWORKS, or NO_NETWORK) reads only the last of the selected backbone blocks."""
    return getattr(NETWORKS.get(name), "reads_last_layer", False)
