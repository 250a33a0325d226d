"""Tests of dist_jax.serving.limits: every limit is a positive finite number."""

import pytest

from dist_jax.errors import UserError
from dist_jax.serving.limits import Limits


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("field", "option"), [("max_upload_mb", "--max-upload-mb"), ("max_duration_s", "--max-duration")]
)
def test_limits_are_finite(field, option, value):
    with pytest.raises(UserError, match=f"^{option} {value:g}: must be greater than 0 and finite$"):
        Limits(**{field: value})
