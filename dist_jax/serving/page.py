"""The web page: Gradio's layout and inputs. A browser script sends the video to /page/... and shows the answer."""

from html import escape
from pathlib import Path

import gradio as gr

from dist_jax.serving.answers import DEFAULT_OVERLAP

CSS = (Path(__file__).parent / "page.css").read_text()
SCRIPT = (Path(__file__).parent / "page.js").read_text()
SHOWN_CLASSES = 12  # names of the model's classes on the page
DEFAULT_WINDOW_S = 2  # if the model does not know the length of its training clips
TITLE = "dist_jax: video classification"

DROP_ZONE = """
<label id="drop-zone"><input type="file" id="video-input" accept="video/*,.mkv,.avi,.ts,.gif">
<span>Drop a video here, or click to choose one</span></label>
<video id="preview" controls muted hidden></video><p id="file-facts"></p>
"""


def theme() -> gr.themes.Base:
    """Gradio's default theme with the fonts of the system: the page loads nothing from other hosts."""
    return gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )


def build_page(facts: dict) -> gr.Blocks:
    """The page of a model. `facts` are those of `answers.model_facts`."""
    limits = facts["limits"]
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f'<header id="header"><h1>{escape(TITLE)}</h1><p>{_model_line(facts)}</p></header>', padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                gr.HTML(DROP_ZONE, padding=False)
                labels = gr.Textbox(
                    label="Labels",
                    info=_labels_info(facts),
                    placeholder="surfing, swimming, a dog",
                    lines=3,
                    interactive=facts["labels"] != "not possible",
                    elem_id="labels",
                )
                mode = gr.Radio(
                    [("Whole video", "classify"), ("Timeline of a long video", "timeline")],
                    value="classify",
                    label="Result",
                    elem_id="mode",
                )
                with gr.Row(visible=False) as timeline_row:
                    window = gr.Number(facts["window"] or DEFAULT_WINDOW_S, label="Window (seconds)", minimum=0)
                    overlap = gr.Dropdown(
                        facts["overlaps"], value=DEFAULT_OVERLAP, label="Overlap (windows per moment)"
                    )
                button = gr.Button("Classify", variant="primary", elem_id="classify")
                gr.HTML(
                    f'<p class="note">At most {limits["max_upload_mb"]:g} MB and {limits["max_duration_s"]:g} s. '
                    "The server deletes the video after the answer.</p>",
                    padding=False,
                )
            with gr.Column(scale=3, min_width=300):
                result = gr.HTML('<p class="note">The result appears here.</p>', elem_id="result", padding=False)
        show_row = "mode => ({__type__: 'update', visible: mode === 'timeline'})"
        mode.change(None, mode, timeline_row, js=show_row, api_visibility="private")
        script = f"(...values) => classifyVideo({round(limits['max_upload_mb'] * 1e6)}, ...values)"
        button.click(None, [labels, mode, window, overlap], result, js=script, api_visibility="private")
    return page


def _model_line(facts: dict) -> str:
    return f"Model: {escape(facts['model'])}, clips of {facts['frames_per_clip']} frames"


def _labels_info(facts: dict) -> str:
    if facts["labels"] == "not possible":
        return f"This model classifies only its own classes: {_shown(facts['classes'])}"
    if facts["labels"] == "required":
        return "Type the possible labels, separated by commas or line breaks."
    return f"Separated by commas or line breaks. Empty: the model's own classes: {_shown(facts['classes'])}"


def _shown(classes: list[str]) -> str:
    shown = ", ".join(classes[:SHOWN_CLASSES])
    return shown if len(classes) <= SHOWN_CLASSES else f"{shown}, ... ({len(classes)} classes)"
