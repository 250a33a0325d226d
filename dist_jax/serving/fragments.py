"""Answers as HTML fragments for the page. Every text is escaped."""

from html import escape

from dist_jax.inference.times import clock_time
from dist_jax.serving.limits import RequestError


def classification(answer: dict) -> str:
    """Bars of the probabilities, the frames, and the attention maps if there are any.

    Raises:
        RequestError: status 400, an answer without pictures.
    """
    pictures = _pictures(answer)
    num_views, num_frames = len(answer["frames"]), len(answer["frames"][0])
    views = f"{num_views} view{'s'[: num_views != 1]} of {num_frames} frames"
    rows = "".join(_bar(one["label"], one["probability"]) for one in answer["predictions"])
    parts = [
        f"<h3>{escape(answer['video'])}</h3>",
        f'<table class="bars">{rows}</table>',
        _figure("frames", pictures["frames"], f"The frames that the model used: {views}, in the order of time."),
    ]
    if "attention" in pictures:
        caption = (
            "Attention of the last pooling layer: which frames and patches it reads most. It does not depend on the "
            "class, and it is no proof of what causes the prediction."
        )
        parts.append(_figure("attention", pictures["attention"], caption))
    return _result(parts)


def timeline(answer: dict) -> str:
    """The plot, and a table of the segments. Raises RequestError as `classification`."""
    pictures = _pictures(answer)
    rows = "".join(
        f"<tr><td>{clock_time(segment['start'])}</td><td>{clock_time(segment['end'])}</td>"
        f"<td>{escape(segment['label'])}</td><td>{_percent(segment['probability'])}</td></tr>"
        for segment in answer["segments"]
    )
    head = "<tr><th>start</th><th>end</th><th>class</th><th>mean probability</th></tr>"
    caption = f"{len(answer['windows'])} windows: probabilities over time, and the most probable class as a band."
    return _result(
        [
            f"<h3>{escape(answer['video'])}</h3>",
            _figure("timeline", pictures["timeline"], caption),
            f'<table class="segments">{head}{rows}</table>',
        ]
    )


def _pictures(answer: dict) -> dict:
    if "pictures" not in answer:
        raise RequestError(400, "pictures is missing: /page/... needs pictures=true")
    return answer["pictures"]


def _bar(label: str, probability: float) -> str:
    return (
        f'<tr><th>{escape(label)}</th><td class="bar"><span style="width:{100 * probability:.1f}%"></span></td>'
        f"<td>{_percent(probability)}</td></tr>"
    )


def _figure(name: str, source: str, caption: str) -> str:
    image = f'<div><img src="{source}" alt="{name}"></div>'
    return f'<figure class="{name}">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}&nbsp;%"


def _result(parts: list[str]) -> str:
    return f'<div class="result">{"".join(parts)}</div>'
