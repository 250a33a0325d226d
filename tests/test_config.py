"""Values that cannot be are refused before anything starts, each in words that name the field."""

import pytest

from dist_jax import config as settings
from dist_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "seed=-1: must be between 0 and 2147483647"),
        ("batch_size", 0, "batch_size=0: must be at least 1"),
        ("accumulate", 3, "accumulate=3: must divide batch_size"),
        ("model.alpha", 3, "model.alpha=3: must divide model.frames"),
        ("model.selected", (2, 1), r"model.selected=\(2, 1\): must be increasing"),
        ("augment.crop_area", (0.0, 1.0), "augment.crop_area"),
        ("augment.rand_augment", (2, 11), "augment.rand_augment"),
        ("augment.rand_augment", (2.5, 9), "augment.rand_augment"),
        ("augment.flip_labels", (1, 2, 3), "must be pairs"),
        ("mix.group", 48, "mix.group=48: must be 1 or an even number that divides batch_size"),
        ("profile_steps", (3,), "must be empty or two steps"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name, value, message):
    config = settings.defaults()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=message):
        settings.validate(config)


def test_the_defaults_and_all_rand_augment_settings_are_valid():
    config = settings.defaults()
    settings.validate(config)
    config.augment.rand_augment = (2, 9.0)
    settings.validate(config)
