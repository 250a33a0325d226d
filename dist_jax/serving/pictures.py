"""Pictures of an answer as data URIs: no files, and no further requests."""

import base64
import io
import threading

import numpy as np
from PIL import Image

from dist_jax.inference.evidence_plots import plot_evidence
from dist_jax.inference.explain import Evidence
from dist_jax.inference.plots import montage

JPEG_QUALITY = 85
DRAWING = threading.Lock()  # matplotlib is not thread-safe


def contact_sheet(views: np.ndarray) -> str:
    """The frames of the views, uint8 [V, T, H, W, 3], as a JPEG data URI."""
    file = io.BytesIO()
    Image.fromarray(montage(views)).save(file, "JPEG", quality=JPEG_QUALITY)
    return data_uri(file, "image/jpeg")


def attention_maps(evidence: Evidence) -> str:
    """The picture of `plot_evidence` as a PNG data URI."""
    file = io.BytesIO()
    with DRAWING:
        plot_evidence(evidence, file)
    return data_uri(file, "image/png")


def data_uri(file: io.BytesIO, media_type: str) -> str:
    """A file in memory as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"
