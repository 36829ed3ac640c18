"""MODEL_CARD.md: purpose, figures and limits of a model, in the format of the Hugging Face Hub.

The page starts with YAML that has the figures (`model-index`); the rest is for people. All of it comes from the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from frostline.checks.findings import KINDS
from frostline.classifier.artifact import has_photographs
from frostline.classifier.description import Description, read_description
from frostline.classifier.elsewhere import script
from frostline.report.facts import CALLED, data_of, percent, split_of, trained, trusted
from frostline.runs.run import Run, read_json, write_text
from frostline.tasks.summary import between, the_best_of
from frostline.terminal import printable

NAME = "model/MODEL_CARD.md"
SHOWN = 200  # at most this many classes are listed
LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0")
UNTOLD = ("unknown", "none")
PIPELINES = {"classification": "image-classification", "segmentation": "image-segmentation"}
KNOWN = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro F1", "loss": "Log-loss"}
KNOWN |= {"mean_iou": "Mean IoU", "mean_ap": "Mean average precision", "ece": "Expected calibration error"}
WHAT = {"classification": "An image classifier", "multilabel": "A classifier with several labels per image"}
FILES = (
    "`golden.safetensors` holds synthetic pictures made from a seed, and their logits. Frostline checks them when it "
    "loads the classifier. This folder has no image of the data set."
)
WITH_PHOTOGRAPHS = (
    "`golden.safetensors` holds synthetic pictures made from a seed, photographs of the data set (`--golden "
    "photographs`), and the logits of both. Frostline checks them when it loads the classifier."
)
FILES_OF_HUB = (
    "`model.safetensors` holds the weights under timm's names, `config.json` the architecture, the classes and the "
    "preprocessing. This folder has no image of the data set."
)
SURE_OF = 0.05  # a figure with a wider interval on either side is called rough


def write_card(run: Run) -> None:
    """Write the card of a finished run from the files of the run."""
    write_text(run, NAME, card_of(run))


def card_of(run: Run, *, hub: bool = False) -> str:
    """The card as text. hub: of the folder that `frostline export --format hub` writes, which timm loads."""
    metrics, description = run.metrics, read_description(run.model)
    split, data = split_of(metrics), data_of(run)
    head = _head(run.path.name, metrics, description, split, data)
    head |= {"library_name": "timm", "tags": [*head["tags"], "timm"]} if hub else {}
    classes = "\n".join(f"- {plain(name)}" for name in description.classes[:SHOWN])
    more = len(description.classes) - SHOWN
    classes += f"\n- and {more:,} more" if more > 0 else ""
    limits = _limits(metrics, split, read_json(run, "checks.json"))
    sections = {
        **(_use_of_hub(description) if hub else _use(description)),
        "Classes": classes,
        **({"Figures": f"{_figures(metrics)}\n\n{_about_figures(metrics)}"} if metrics[split] else {}),
        "Probabilities": _about_probabilities(description, hub=hub),
        "Limits": "\n".join(f"- {limit}" for limit in limits),
        "How it was made": _origin(run, metrics, description),
        "Files": FILES_OF_HUB if hub else WITH_PHOTOGRAPHS if has_photographs(run.model) else FILES,
    }
    written = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{written}---\n\n# {plain(run.path.name)}\n\n{_what(metrics, split, data)}\n" + "".join(
        f"\n## {title}\n\n{text}\n" for title, text in sections.items()
    )


def _what(metrics: Mapping[str, Any], split: str, data: str) -> str:
    """What the model is, on what it was trained and how accurate it is, if that was measured."""
    what = f"{WHAT.get(metrics['task'], 'A classifier of pixels')}, trained with Frostline"
    if not metrics[split]:
        return f"{what}. It was saved without data, so its accuracy is unknown."
    own, known = metrics[split], trusted(metrics, split)
    others = "" if known is own else f" without a copy in another split ({percent(own['accuracy'])} on all)"
    return (
        f"{what} on {plain(data)}: {percent(known['accuracy'])} accurate{between(known['interval'], percent)} on "
        f"{known['n']:,} {CALLED[split]} images{others}."
    )


def _use(description: Description) -> dict[str, str]:
    """How to use `model/` of a run, with Frostline and without."""
    return {
        "Use": "```python\nimport frostline\n\nfor prediction in frostline.predict('RUN', ['new.jpg']):\n"
        "    print(prediction.label, prediction.probability)\n```",
        "Use without Frostline": _elsewhere(description),
    }


def _use_of_hub(description: Description) -> dict[str, str]:
    """How to use a folder of the Hub."""
    how = "sigmoid()" if description.task == "multilabel" else "softmax(1)"
    return {
        "Use": f"""In the folder of this file; from the Hub with `hf-hub:USER/NAME` instead of `local-dir:.`:

```python
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("new.jpg")).convert("RGB")
with torch.inference_mode():
    probabilities = model(transform(image)[None]).{how}[0].tolist()
print(dict(zip(model.pretrained_cfg["label_names"], probabilities)))
```"""
    }


def plain(text: str) -> str:
    """Any name, escaped for Markdown."""
    return "".join("\\" + c if c in r"\`*_{}[]<>#|&~" else c for c in printable(text))


def _head(name: str, metrics: Mapping[str, Any], description: Description, split: str, data: str) -> dict[str, Any]:
    licence = description.licence.lower()
    known = licence in LICENCES
    pipeline = PIPELINES.get(metrics["task"], "image-classification")
    measured = {**metrics[split], "accuracy": trusted(metrics, split)["accuracy"]} if metrics[split] else {}
    figures = [
        {"type": key, "name": text, "value": round(float(measured[key]), 6)}
        for key, text in KNOWN.items()
        if measured.get(key) is not None
    ]
    dataset = {"name": data, "type": "imagefolder", "split": CALLED[split]}
    result = {"task": {"type": pipeline}, "dataset": dataset, "metrics": figures}
    measurements = {
        "metrics": [figure["type"] for figure in figures],
        "model-index": [{"name": name, "results": [result]}],
    }
    return {
        "license": licence if known else "unknown" if licence in UNTOLD else "other",
        **({} if known or licence in UNTOLD else {"license_name": description.licence}),
        "library_name": "frostline",
        "pipeline_tag": pipeline,
        "tags": [pipeline, "transfer-learning", description.backbone],
        **(measurements if figures else {}),
    }


def _figures(metrics: Mapping[str, Any]) -> str:
    """A table of the figures, with one column per split."""
    splits = [split for split in ("valid", "test") if metrics.get(split)]
    lines = ["| | " + " | ".join(f"{CALLED[split]} (n = {metrics[split]['n']:,})" for split in splits) + " |"]
    lines.append("|---" * (len(splits) + 1) + "|")
    for key, text in KNOWN.items():
        if any(metrics[split].get(key) is not None for split in splits):
            lines.append(f"| {text} | " + " | ".join(_cell(metrics[split], key) for split in splits) + " |")
    return "\n".join(lines)


def _cell(measured: Mapping[str, Any], key: str) -> str:
    if measured.get(key) is None:
        return "–"
    own = {"accuracy": measured["interval"], "ece": measured.get("ece_interval")}
    interval = own.get(key) or (measured.get("intervals") or {}).get(key)
    return f"{measured[key]:.4f}{between(interval)}"


def _about_figures(metrics: Mapping[str, Any]) -> str:
    n = f"{metrics['valid']['n']:,}"
    if metrics["validation"] == "crossed":
        return (
            f"Figures on the {n} training images come from heads that had not seen the image (cross-fitted); "
            "the head of this model is solved on all of them."
        )
    if metrics["validation"] == "training images":
        return "There were too few images to hold some out for validation: the figures do not hold for new images."
    best_of = the_best_of(metrics["chosen_of"])
    figures = f"Figures on the {n} validation images are those of {best_of or 'one solution'}"
    figures += ", chosen on the same images: expect a little less on others." if best_of else "."
    if metrics["refit"]:
        figures += " They come from a head that had not seen these images; the final head is also solved on them."
    return f"{figures} Figures on test images, if any, were measured once, after all choices."


def _about_probabilities(description: Description, *, hub: bool) -> str:
    if description.temperature == 1:
        return "The probabilities are the network's own (temperature 1)."
    if hub:
        return (
            f"Weights and biases of the last layer are divided by the temperature {description.temperature:.4f}, which "
            "was fitted on the validation images. So the probabilities are calibrated as they are."
        )
    return (
        f"The network's logits are divided by the temperature {description.temperature:.4f}, fitted on the validation "
        "images, before they become probabilities. If you use `model.safetensors` alone, divide them too."
    )


def _elsewhere(description: Description) -> str:
    """How to get the same probabilities without Frostline, or why that is not possible."""
    code = script(description)
    if not code:
        return (
            "`model.safetensors` is a plain state dict, but its network ends inside the backbone and has a head "
            "for maps, which only Frostline builds. `frostline.load('RUN').model` is a plain `torch.nn.Module`."
        )
    own = "" if ":" in description.backbone else f" The code of the class `{plain(description.backbone)}` is needed."
    return (
        f"`model.safetensors` is a plain state dict. Run in the folder of this file:{own}\n\n```python\n{code}\n```\n\n"
        "The probabilities equal Frostline's; for large JPEGs, which are decoded at a smaller size, to three digits. "
        "First put images with transparency on white, and reduce grey with more than 8 bits to 8 bits."
    )


def _limits(metrics: Mapping[str, Any], split: str, checks: Mapping[str, Any]) -> Sequence[str]:
    """The limits of the model, from the figures and the checks."""
    limits = _limits_of_figures(metrics, metrics[split]) if metrics[split] else []
    counts = {kind: n for kind, n in checks.get("counts", {}).items() if n and kind in KINDS}
    if counts:
        listed = ", ".join(f"{n:,} {KINDS[kind][n > 1]}" for kind, n in counts.items())
        limits.append(f"The checks of the data found: {listed}.")
    told = " (`frostline predict --coverage 0.95` marks many of these)" if metrics["task"] == "classification" else ""
    limits.append(f"It predicts one of these classes for any image, also for images of no known class{told}.")
    if metrics[split]:
        limits.append("It was measured on images from the same source as its training images; others may be harder.")
    return limits


def _limits_of_figures(metrics: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    clean, limits = metrics.get("without_leaks"), []
    low, high = own["interval"]
    if clean and clean["n"]:
        limits.append(
            f"{own['n'] - clean['n']:,} of the measured images are also in another split; without them "
            f"its accuracy is {percent(clean['accuracy'])} (n = {clean['n']:,})."
        )
    if high - low > 2 * SURE_OF:
        limits.append(
            f"Its accuracy is only roughly known: by {own['n']:,} images it is between {percent(low)} "
            f"and {percent(high)}."
        )
    weak = [
        f"{plain(name)} ({percent(row['recall'])} of {row['n']:,})"
        for name, row in own["per_class"].items()
        if row.get("recall_interval") and row["recall_interval"][1] < low
    ]
    if weak:
        limits.append(f"Classes that it finds less often than others: {', '.join(weak[:10])}.")
    return limits


def _origin(run: Run, metrics: Mapping[str, Any], description: Description) -> str:
    counts = Counter(record["split"] for record in run.split)
    images = ", ".join(f"{n:,} for {CALLED.get(split, split)}" for split, n in counts.items())
    channels = len(description.preprocessing.mean)
    size = description.preprocessing.size
    return "\n".join(
        (
            f"- backbone: {plain(description.backbone)} (weights: {plain(description.weights)})",
            f"- licence of these weights: {plain(description.licence)}; SHA-256: {description.sha256 or 'none'}",
            f"- trained: {plain(trained(metrics))}",
            f"- images: {images}",
            f"- input: {'RGB' if channels == 3 else 'grey'}, {size} × {size} pixels",
        )
    )
