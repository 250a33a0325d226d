"""DiST for JAX: a frozen CLIP, a temporal encoder and an integration branch, for video classification."""
