"""The model card (README.md) of a model directory on the Hugging Face hub."""

import dataclasses
import math

from etils import epath

from dist_jax.cost.run_network import forward_operations
from dist_jax.evaluation.run_summary import RunSummary, read_run
from dist_jax.evaluation.tables import markdown_table
from dist_jax.weights import table
from dist_jax.weights.model_directory import Model
from dist_jax.workdir.run_metadata import RunMetadata, read_run_metadata

CITATION = """@inproceedings{qing2023disentangling,
  title={Disentangling Spatial and Temporal Learning for Efficient Image-to-Video Transfer Learning},
  author={Qing, Zhiwu and Zhang, Shiwei and Huang, Ziyuan and Zhang, Yingya and
          Gao, Changxin and Zhao, Deli and Sang, Nong},
  booktitle={Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)},
  year={2023},
  url={https://arxiv.org/abs/2309.07911}
}
@software{dist_jax,
  title={dist_jax: DiST for JAX},
  author={{The dist_jax authors}}
}"""

_PAGE = """# {repository}

A video classifier: DiST ([arXiv 2309.07911](https://arxiv.org/abs/2309.07911)) on a frozen CLIP, trained with dist_jax.

## Use

```
python -m dist_jax.predict --model {repository} --video some.mp4{labels}
```

```python
import numpy as np
import dist_jax

model = dist_jax.load("{repository}")
video = np.zeros((1, {num_frames}, {resolution}, {resolution}, 3), np.uint8)  # clips of RGB pixels, [B, T, H, W, 3]
model.encode_video(video)  # float32 [1, {embed_dim}]{classify}
```

## Model

{sizes}
## Training data

{data}

## Accuracy

{accuracy}

## Citation

```bibtex
{citation}
```
"""


@dataclasses.dataclass(frozen=True)
class Origin:
    """What the training says about a model. None: unknown."""

    metadata: RunMetadata | None = None
    evaluation: RunSummary | None = None  # of results/val.json, or evaluate.json


def read_origin(source: str) -> Origin:
    """Reads the workdir that a model comes from; other models do not contain their training."""
    metadata = read_run_metadata(source)
    results = [epath.Path(source) / "results" / f"{name}.json" for name in ("val", "evaluate")]
    is_evaluated = metadata is not None and any(file.exists() for file in results)
    return Origin(metadata, read_run(source, "") if is_evaluated else None)


def make_card(repository: str, model: Model, origin: Origin, license_id: str) -> str:
    """The text of a model card, with its YAML front matter.

    Args:
        repository: owner/name.
        model: with class names, or without.
        origin: from `read_origin`.
        license_id: of the weights, an identifier of the Hugging Face hub.
    """
    from huggingface_hub import ModelCardData

    front_matter = ModelCardData(
        license=license_id,
        library_name="dist_jax",
        pipeline_tag="video-classification",
        tags=["jax", "dist", "clip", "video-classification"],
    )
    page = _PAGE.format(
        repository=repository,
        num_frames=model.dist.num_frames,
        resolution=model.clip_model.vision.resolution,
        embed_dim=model.dist.embed_dim,
        labels="" if model.class_names else ' --labels "surfing,swimming"',
        classify=f"\nmodel.classify(video)  # float32 [1, {len(model.class_names)}]" if model.class_names else "",
        sizes=_sizes(model),
        data=_data(model, origin.metadata),
        accuracy=_accuracy(origin.evaluation),
        citation=CITATION,
    )
    return f"---\n{front_matter.to_yaml()}\n---\n\n{page}"


def _sizes(model: Model) -> str:
    dist, vision = model.dist, model.clip_model.vision
    operations = forward_operations(model.network, dist, dataclasses.replace(model.clip_model.backbone(), text=None))
    rows = {
        "trained parameters": _millions(model.dist_params),
        "frozen parameters of the image tower": _millions(model.clip_model.params["vision"]),
        "GFLOPs per view (a multiply-add counts as two)": f"{operations / 1e9:,.4g}",
        "frames (CLIP + temporal encoder)": f"{dist.num_sparse_frames}+{dist.num_frames}",
        "resolution": f"{vision.resolution} pixels",
        "image tower": f"{vision.num_layers} blocks of width {vision.width}, patches of {vision.patch_size} pixels",
        "blocks of CLIP that DiST reads": str(len(dist.layers)),
        "classes": str(len(model.class_names)) if model.class_names else "none: pass your own texts",
        "sampling": model.eval_protocol.sampling,
        "views x crops per video": f"{model.eval_protocol.num_views} x {model.eval_protocol.num_crops}",
    }
    return markdown_table(["", "value"], [list(row) for row in rows.items()])


def _data(model: Model, metadata: RunMetadata | None) -> str:
    if metadata is None:
        return "Unknown: the model was converted from a file without run metadata."
    # Only the end of the path: folders of the author's machine are of no use to others.
    data = "/".join(str(metadata.config["data"]["train"]).rstrip("/").split("/")[-2:])
    clips = f", {model.clip_seconds:.3g} seconds on average" if model.clip_seconds else ""
    return f"`{data}`: {metadata.num_records:,} clips{clips}."


def _accuracy(evaluation: RunSummary | None) -> str:
    if evaluation is None or not evaluation.metrics:
        return "Not evaluated."
    cells = {"videos": f"{evaluation.videos:,}", "views": str(evaluation.views)}
    cells |= {name: f"{value:.1%}" for name, value in evaluation.metrics.items()}
    rows = markdown_table(list(cells), [list(cells.values())]).rstrip()
    return f"After {evaluation.step:,} training steps:\n\n{rows}"


def _millions(params: dict) -> str:
    return f"{sum(math.prod(leaf.shape) for leaf in table.flatten(params).values()) / 1e6:,.1f} M"
