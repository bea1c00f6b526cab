"""Which metric, on which output, against what: as the user says, or by the shape of the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from optc.arrays import Tensor
from optc.data.function import find_function
from optc.ir.diagnostics import OptcError, error
from optc.quality.metrics import (
    F1,
    Accuracy,
    Against,
    Agreement,
    Array,
    Cosine,
    Custom,
    MeanSquaredError,
    Metric,
    Perplexity,
    Top5,
)

METRICS: Mapping[str, type[Metric]] = {
    kind.name: kind
    for kind in (Accuracy, Top5, F1, MeanSquaredError, Cosine, Perplexity, Agreement)
}
NEED_LABELS = (Accuracy, Top5, F1, Perplexity)
FLOATS = ("f64", "f32", "f16", "bf16")


def check_metric(text: str | None) -> None:
    """Raise E0745 for a metric that there is not, before long work."""
    name = (text or "accuracy").partition("@")[0]
    if name not in METRICS and ":" not in name:
        raise _unknown(name)


def choose_metric(
    text: str | None, outputs: Sequence[Tensor], batch: int | None, labels: Array | None
) -> Metric:
    """The metric called `text`, `NAME` or `NAME@OUTPUT`; None: the one that output and labels fit.

    `batch` is the number of samples of a call, None where a call is one sample; `labels` are some
    of the labels. Raises E0744 for labels of text, E0745 for a metric that does not fit the
    model, E0749 without labels.
    """
    name, _, wanted = (text or "").partition("@")
    if labels is not None and labels.dtype.kind not in "biuf" and ":" not in name:
        raise error(
            "E0744",
            f"labels are {labels.dtype}, not numbers",
            help="numpy.unique(labels, return_inverse=True)[1], in the order of the model's scores",
        )
    port = _output(outputs, wanted, batch)
    name = name or _fitting(port, batch, labels)
    if ":" in name:
        function: Callable[..., object] = find_function(name)
        against = Against.LABELS if labels is not None else Against.ORIGINAL
        return Custom(port.name, against, function, name)
    if name not in METRICS:
        raise _unknown(name)
    kind = METRICS[name]
    shape = port.shape if batch is None else port.shape[1:]
    if issubclass(kind, NEED_LABELS) and labels is None:
        raise error(
            "E0749", f"{name} needs labels", help="--labels labels.npy, or --metric agreement"
        )
    is_float = port.dtype.endswith(FLOATS)
    scored = is_float and bool(shape) and shape[-1] > 1
    if not scored and (issubclass(kind, NEED_LABELS) or (kind is Agreement and is_float)):
        raise error(
            "E0745",
            f"{name} takes a score for each class along the last axis, {port} has none",
            help="--metric mse, cosine, or module:function with a function of your own",
        )
    if kind is F1:
        return F1(port.name, classes=shape[-1])
    if kind is Agreement or labels is None:
        return kind(port.name, Against.ORIGINAL)
    return kind(port.name)


def without_labels(metric: Metric) -> Metric | None:
    """What stands for a metric on samples that have no labels; None where nothing does.

    Where the candidate answers as the original does, it is as often right: agreement loses at least
    what accuracy does. Errors of labels and losses have another scale than distances to an answer.
    """
    if metric.against is Against.ORIGINAL:
        return metric
    if isinstance(metric, Accuracy | F1):
        return Agreement(metric.output)
    if isinstance(metric, Cosine):
        return replace(metric, against=Against.ORIGINAL)
    return None


def _output(outputs: Sequence[Tensor], wanted: str, batch: int | None) -> Tensor:
    named = {port.name: port for port in outputs}
    if wanted and wanted not in named:
        near = get_close_matches(wanted, named, 1, 0.4)
        offer = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(named)
        raise error("E0745", f"the model has no output {wanted!r}; it has {known}{offer}")
    fit = [
        port
        for port in outputs
        if batch is None or (port.shape and port.shape[0] == batch)
        if not wanted or port.name == wanted
    ]
    if not fit:
        text = "; ".join(map(str, outputs))
        raise error(
            "E0745", f"no output has the batch of {batch} samples as its first axis: {text}"
        )
    return fit[0]


def _fitting(port: Tensor, batch: int | None, labels: Array | None) -> str:
    shape = port.shape if batch is None else port.shape[1:]
    classes = bool(shape) and shape[-1] > 1
    if labels is not None:
        return "accuracy" if labels.dtype.kind in "iub" and classes else "mse"
    if not port.dtype.endswith(FLOATS):
        return "agreement"
    return "agreement" if classes else "cosine"


def _unknown(name: str) -> OptcError:
    near = get_close_matches(name, METRICS, 2, 0.4)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    known = ", ".join(METRICS)
    return error(
        "E0745", f"there is no metric {name!r}{offer}", help=f"--metric {known} or module:function"
    )
