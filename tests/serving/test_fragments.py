"""Tests of dist_jax.serving.fragments: requests that are not from the page."""

import pytest

from dist_jax.serving import fragments
from dist_jax.serving.limits import RequestError


@pytest.mark.parametrize(
    ("fragment", "answer"),
    [
        (fragments.classification, {"video": "a.mp4", "frames": [[0]], "predictions": []}),
        (fragments.timeline, {"video": "a.mp4", "classes": [], "windows": [], "segments": []}),
    ],
)
def test_an_answer_without_pictures_is_no_fragment(fragment, answer):
    with pytest.raises(RequestError, match="needs pictures=true") as error:
        fragment(answer)
    assert error.value.status == 400
