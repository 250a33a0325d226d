"""Rotary positions of the patches of a frame (Su et al., arXiv 2104.09864; two axes: Heo et al., arXiv 2403.13298)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dist_jax.models.layers import last_axis

BASE = 10_000  # of the frequencies


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotates queries and keys by the column and the row of their patch. Prefix tokens are not rotated.

    A head has pairs of channels (2i, 2i + 1): the first half is for the columns, the second for the rows. A pair (a, b)
    becomes (a cos - b sin, b cos + a sin). The positions of another grid are scaled to the grid of the training.
    """

    grid: int  # patches along each side of a frame
    trained_grid: int  # of the training
    num_prefix: int  # tokens before the patches
    first: int  # position of the first row and of the first column

    def __call__(self, x: jax.Array, head_dim: int) -> jax.Array:
        """Queries or keys [..., P+N, width], head after head -> the same shape and dtype. Computed in float32."""
        heads = x.reshape(*x.shape[:-1], -1, head_dim)  # [..., P+N, heads, head_dim]
        cos, sin = (jnp.asarray(table[:, None]) for table in self.tables(head_dim))  # [P+N, 1, head_dim]
        # (a, b) -> (-b, a) as a product with 0, 1 and -1. It is exact, and fast where shifts along channels are not.
        turn = np.kron(np.eye(head_dim // 2), [[0, 1], [-1, 0]])  # [head_dim, head_dim]
        turned = jnp.einsum(
            "...d,de->...e",
            heads,
            jnp.asarray(turn, x.dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        rotated = heads.astype(jnp.float32) * last_axis(cos, heads) + turned * last_axis(sin, heads)
        return rotated.astype(x.dtype).reshape(x.shape)

    def tables(self, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine of the angle of each token and channel: float32 [P+N, head_dim].

        Args:
            head_dim: width of a head, a multiple of 4.
        """
        frequencies = BASE ** -(np.arange(head_dim // 4) / (head_dim // 4))
        positions = (np.arange(self.grid) + self.first) * self.trained_grid / self.grid
        angles = np.repeat(np.outer(positions, frequencies), 2, axis=1)  # [grid, head_dim / 2]
        by_column = np.broadcast_to(angles[None], (self.grid, *angles.shape))
        by_row = np.broadcast_to(angles[:, None], (self.grid, *angles.shape))
        patches = np.concatenate([by_column, by_row], axis=-1).reshape(self.grid**2, head_dim)
        angles = np.concatenate([np.zeros((self.num_prefix, head_dim)), patches])  # [P+N, head_dim]
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
