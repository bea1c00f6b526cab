"""`--data` and what goes with it, for the commands that measure quality."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from optc.ir.diagnostics import error
from optc.quality.learning import Learning

if TYPE_CHECKING:
    from optc.quality.evidence import DataRequest

SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(%?)")


class Share(click.ParamType[float]):
    """`1%` or `0.01`, as 0.01."""

    name = "share"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A number from 0 to 1; fails with what one looks like."""
        if isinstance(value, float):
            return value
        found = SHARE.fullmatch(str(value).strip())
        number = float(found[1]) / (100 if found[2] else 1) if found else 2.0
        if number > 1 or (found and not found[2] and number == 1):
            self.fail(f"{value!r} is no share such as 1% or 0.01", param, ctx)
        return number


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`, `--labels`, `--metric`, `--samples`, `--data-seed`: one argument `request`.

    It is None without `--data`. What `--accuracy-drop` and `calibration_options` say joins it where
    the command has them.
    """

    @functools.wraps(command)
    def run(
        *args: Any,
        data: str | None,
        labels: str | None,
        metric: str | None,
        samples: int | None,
        data_seed: int,
        accuracy_drop: float | None = None,
        calibration_data: str | None = None,
        calibration_labels: str | None = None,
        calibration_share: float | None = None,
        **kwargs: Any,
    ) -> Any:
        asked: dict[str, object] = {"--labels": labels, "--metric": metric, "--samples": samples}
        asked["--accuracy-drop"] = accuracy_drop
        alone = next((name for name, value in asked.items() if value is not None), None)
        if data is None and alone is not None:
            raise error("E0703", f"{alone} needs --data", help="--data calib.npz")
        learning = Learning(calibration_data, calibration_labels, calibration_share)
        learning.check(judged=data is not None)
        request = None
        if data is not None:
            request = _request(data, labels, metric, accuracy_drop, samples, data_seed)
            request = learning.of(request)
        return command(*args, request=request, **kwargs)

    made: Callable[..., Any] = run
    for decorate in (
        click.option(
            "--data-seed",
            type=click.IntRange(0),
            default=0,
            metavar="SEED",
            help="Seed of the split into calibration and held-out samples.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(1),
            metavar="N",
            help="Use the first N samples only, of each set.",
        ),
        click.option(
            "--metric",
            metavar="NAME[@OUTPUT]",
            help="accuracy, top5, f1, mse, cosine, perplexity, agreement, or module:function; "
            "without it, what the output's shape and the labels suggest.",
        ),
        click.option(
            "--labels",
            metavar="FILE",
            help="A .npy file, file.npz:name, or the name of an array in the data.",
        ),
        click.option(
            "--data",
            metavar="DATA",
            help="Samples: a .npz file, a folder of .npy files, or module:function; arrays by "
            "input name, the first axis being samples.",
        ),
    ):
        made = decorate(made)
    return made


def budget_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--accuracy-drop`, above `data_options`."""
    return click.option(
        "--accuracy-drop",
        type=Share(),
        metavar="1%",
        help="The largest loss on held-out samples: points of a proportion, or a share of the "
        "original's perplexity or error.",
    )


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What passes learn from, for commands that run passes; above `data_options`."""
    for decorate in (
        click.option(
            "--calibration-share",
            type=Share(),
            metavar="30%",
            help="How many of --data's samples passes may learn from, 10% to 90% in tens; without "
            "it 30%. On the others the verdict is given.",
        ),
        click.option(
            "--calibration-labels",
            metavar="FILE",
            help="Labels beside --calibration-data, as --labels beside --data.",
        ),
        click.option(
            "--calibration-data",
            metavar="DATA",
            help="A set of its own for passes to learn from, given as --data is, on whose samples "
            "then only the verdict is given. What is in both is not learnt from.",
        ),
    ):
        command = decorate(command)
    return command


def _request(
    data: str,
    labels: str | None,
    metric: str | None,
    budget: float | None,
    samples: int | None,
    seed: int,
) -> DataRequest:
    from optc.quality.choose import check_metric
    from optc.quality.evidence import DataRequest

    check_metric(metric)
    return DataRequest(data, labels, metric, budget, samples, seed)
