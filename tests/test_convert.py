"""Arguments of dist_jax.convert. tests/weights/test_model_files.py tests the conversion."""

from dist_jax import convert


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    names = ("input", "output", "clip", "labels", "tokenizer")
    args = vars(convert._parser().parse_args([f"--{name}=~/{name}" for name in names]))
    assert [args[name] for name in names] == [f"/home/me/{name}" for name in names]
