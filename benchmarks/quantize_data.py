"""Models with the data to judge quantization by: each sample scores between 0 and 1.

Photos and text lines are few: their models are judged by agreement with the float model, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.models import trained
from benchmarks.models.carried import ocr_lines
from benchmarks.models.exiting import (
    TUNED,
    LastOnly,
    fashion,
    fashion_net,
    review_texts,
    reviews_net,
    tokenized,
)

Array = NDArray[Any]
STAMPS = "usr/share/tuxpaint/stamps"  # apt-get download tuxpaint-stamps-default; dpkg-deb -x
# ImageNet classes of photos, by file name; from the names alone, before any model saw them.
PHOTOS: Mapping[str, tuple[int, ...]] = {
    "frog": (30, 31, 32), "chicken_profile": (8,), "hen": (8,), "rooster": (7,), "magpie": (18,),
    "owl": (24,), "vulture": (23,), "peacock": (84,), "ostrich": (9,), "penguin": (145,),
    "magellanic_penguin": (145,), "pink_flamingo": (130,), "pelican": (144,), "tucan": (96,),
    "drake": (97,), "heron_greatblue": (131,), "gander": (99,), "crowned_crane": (134,),
    "clownfish": (393,), "lionfish": (396,), "lobster": (122, 123), "bee": (309,), "fly": (308,),
    "grasshopper": (311,), "mantis": (315,), "Brown_slug": (114,), "Woodlouse": (126,),
    "iguana": (39,), "chimp": (367,), "gorilla": (366,), "orca": (148,), "whale": (147,),
    "otter": (360,), "sea_lion": (150,), "badger": (362,), "bear": (294,), "bison": (347,),
    "bull": (345,), "zebu": (345,), "ram": (348, 349), "camel": (354,), "dromedary": (354,),
    "lion": (291,), "tiger": (292,), "tiger_sumatran": (292,), "fox": (277, 278, 279, 280),
    "dingo": (273,), "dog": (248, 249, 250), "echidna": (102,), "elephant": (101, 385, 386),
    "zebra": (340,), "hedgehog": (334,), "hippopotamus": (344,), "pig": (341,), "wildboar": (342,),
    "rabbit": (330, 331, 332), "rabbit_little": (330, 331, 332), "beaver": (337,), "marmot": (336,),
    "squirrel": (335,), "ferret": (356, 357, 358, 359), "horse": (339,), "kangaroo": (104,),
    "koala": (105,), "wombat": (106,), "strawberry": (949,), "Strawberry2": (949,),
    "apple_granny_smith": (948,), "apple_green": (948,), "banana": (954,), "lemon": (951,),
    "orange": (950,), "mandarine": (950,), "pineapple": (953,), "pomegranate": (957,),
    "cherimoya": (956,), "broccoli": (937,), "corn": (987,), "mushroom": (947,), "pepper": (945,),
    "yellowpepper": (945,), "pattypan_squash": (939, 940, 941, 942), "pizza": (963,),
    "binoculars": (447,), "camera_35mm": (759,), "trumpet": (513,), "cello": (486,),
    "guitar2": (402,), "guitar_classical": (402,), "guitar_electric": (546,), "violin": (889,),
    "bassoon": (432,), "drumkit": (541,), "mug": (504,), "teapot": (849,), "hammer": (587,),
    "paintbrush_large": (696,), "garbagecan": (412,), "toilet": (861,), "stethoscope": (823,),
    "syringe": (845,), "bandage_adhesive": (419,), "sombrero": (808,), "t_sock": (806,),
    "firetruck": (555,), "garbagetruck": (569,), "sportscar2": (817,), "indycar": (751,),
    "balloon360": (417,), "wheel_tractor": (866,), "pink_tricycle": (870,), "f22_raptor": (895,),
    "bradley": (847,), "basketball": (430,), "soccer": (805,), "tennis_ball": (852,),
    "tennis_racket": (752,), "candle": (470,), "jackolantern_mean": (607,), "usps_mailbox": (637,),
    "cep": (997,), "cep-1": (997,), "747": (404,),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, samples to calibrate with and to judge on, and what a right answer is.

    `score` gives a number per sample for the first output of all of them. Each `together` samples
    in a row are views of one thing, which an interval counts as one.
    """

    name: str
    model: nn.Module
    calibration: Mapping[str, Array]
    held_out: Mapping[str, Array]
    score: Callable[[Array], Array]
    batch: int
    together: int = 1

    def apart(self) -> Case:
        """The same with one view of each thing."""
        most, step, score = len(next(iter(self.held_out.values()))), self.together, self.score

        def scored(found: Array) -> Array:
            return score(np.repeat(found, step, axis=0))[::step]

        part = {name: array[:most:step] for name, array in self.held_out.items()}
        return replace(self, held_out=part, score=scored, together=1)

    def first(self, count: int) -> Case:
        """The same with at most `count` samples to judge on."""
        most = len(next(iter(self.held_out.values())))
        step = self.batch * self.together
        kept = min(count, most) // step * step
        part = {name: array[:kept] for name, array in self.held_out.items()}
        score = self.score

        def scored(found: Array) -> Array:
            filled = np.zeros((most, *found.shape[1:]), found.dtype)
            filled[:kept] = found
            return score(filled)[:kept]

        return replace(self, held_out=part, score=scored)


def classes(labels: Array) -> Callable[[Array], Array]:
    """1 for a sample whose highest score is its label's."""
    return lambda scores: (scores.argmax(-1) == labels).astype(float)


def fashion_case(folder: Path) -> Case:
    """The Fashion-MNIST CNN: 500 of the images it was not trained on, judged on the test set."""
    (images, _), (others, labels) = fashion(folder)
    net, calibration = LastOnly(fashion_net(folder)), {"x": images[50_000:50_500]}
    return Case("Fashion-MNIST CNN", net, calibration, {"x": others}, classes(labels), 50)


def reviews_case(folder: Path) -> Case:
    """MiniLM-L6 tuned on reviews: 200 it was not trained on, judged on 4,900 others."""
    texts = review_texts(folder)[TUNED:]
    ids, mask = tokenized([text for text, _ in texts])
    labels = np.array([label for _, label in texts])

    def part(start: int, stop: int) -> dict[str, Array]:
        return {"input_ids": ids[start:stop], "attention_mask": mask[start:stop]}

    net = LastOnly(reviews_net(folder))
    return Case("MiniLM reviews", net, part(0, 200), part(200, 5100), classes(labels[200:5100]), 20)


def photos_case(folder: Path) -> Case:
    """EfficientNet-Lite0 on 123 photos in 8 views each, calibrated on photos of other things."""
    named, others = photo_files(folder)
    images = np.stack([photo(path, view) for path in named for view in VIEWS])
    net = trained.efficientnet_lite0()[0]
    calibration = {"inputs": np.stack([photo(path) for path in others[::9]])[:40]}
    truth = np.repeat([classes_of(path) for path in named], len(VIEWS), axis=0)
    return Case(
        "EfficientNet-Lite0",
        net,
        calibration,
        {"inputs": images},
        lambda scores: right_photos({"": scores}, truth),
        1,
        len(VIEWS),
    )


def photo_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photos whose classes are known, and others."""
    paths = sorted((folder / STAMPS).rglob("*.png"))
    paths = [path for path in paths if "cartoon" not in str(path)]
    return [p for p in paths if p.stem in PHOTOS], [p for p in paths if p.stem not in PHOTOS]


def classes_of(path: Path) -> Array:
    """The classes that are right for a photo, filled up with -1."""
    found = PHOTOS[path.stem]
    return np.array([*found, *[-1] * (4 - len(found))], np.int64)


def right_photos(outputs: Mapping[str, Array], truth: Array) -> Array:
    """A metric: 1 where the highest score is that of a right class."""
    scores = next(iter(outputs.values()))
    right: Array = (scores.argmax(-1)[:, None] == truth).any(1).astype(np.float64)
    return right


@dataclass(frozen=True)
class View:
    """How a photo lies on its paper: the paper's side over the photo's, its grey, mirrored."""

    side: float = 1.1
    paper: int = 255
    mirrored: bool = False


VIEWS = tuple(
    View(side, paper, mirrored)
    for side, paper in ((1.1, 255), (1.0, 255), (1.25, 255), (1.1, 225))
    for mirrored in (False, True)
)


def photo(path: Path, view: View = View(), size: int = 224) -> Array:
    """A photo as the network takes it, [3, size, size]."""
    from PIL import Image, ImageOps

    image = Image.open(path).convert("RGBA")
    image = ImageOps.mirror(image) if view.mirrored else image
    width, height = image.size
    side = int(max(width, height) * view.side)
    square = Image.new("RGB", (side, side), (view.paper,) * 3)
    square.paste(image, ((side - width) // 2, (side - height) // 2), image)
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    return (pixels.transpose(2, 0, 1) - 127) / 128


def lines_case(folder: Path) -> Case:
    """PP-OCRv4's recogniser on 2,000 drawn lines of reviews: the share of signs that are right."""
    images, truth = lines(folder, 2060)
    net = ocr_lines()[0]
    return Case(
        "PP-OCRv4 lines",
        net,
        {"x": images[:60]},
        {"x": images[60:]},
        lambda scores: right_signs({"": scores}, truth[60:]),
        1,
    )


def lines(folder: Path, count: int) -> tuple[Array, Array]:
    """Drawn lines [count, 3, 48, 320], and their signs' numbers, filled up with zeros."""
    texts = [_line(text) for text, _ in review_texts(folder)]
    texts = [text for text in dict.fromkeys(texts) if len(text) > 4 and text.isascii()][:count]
    draw = np.random.default_rng(0)
    images = np.stack([_drawn(text, draw) for text in texts])
    codes = [[ord(sign) for sign in text] for text in texts]
    return images, np.array([[*code, *[0] * (24 - len(code))] for code in codes], np.int64)


def right_signs(outputs: Mapping[str, Array], truth: Array) -> Array:
    """A metric: the share of a line's signs that are read right (Levenshtein 1966)."""
    signs, found = _signs(), next(iter(outputs.values())).argmax(-1).tolist()
    texts = ["".join(chr(code) for code in row if code) for row in truth.tolist()]
    pairs = zip(found, texts, strict=True)
    return np.array([1 - _distance(_read(row, signs), text) / len(text) for row, text in pairs])


def _line(text: str) -> str:
    words = text.split()[:4]
    while len(" ".join(words)) > 22:
        words.pop()
    return " ".join(words)


def _drawn(text: str, draw: np.random.Generator) -> Array:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=int(draw.integers(22, 34)))
    paper, ink = int(draw.integers(150, 256)), int(draw.integers(0, 90))
    width = int(font.getlength(text)) + 20
    image = Image.new("L", (width, 48), paper)
    ImageDraw.Draw(image).text((10, int(draw.integers(2, 10))), text, fill=ink, font=font)
    angle = float(draw.uniform(-1.5, 1.5))
    image = image.rotate(angle, fillcolor=paper, resample=Image.Resampling.BILINEAR)
    noisy = np.asarray(image, np.float32) + draw.standard_normal((48, width)) * 12
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).resize((min(320, width), 48))
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    return np.pad(np.stack([pixels] * 3), ((0, 0), (0, 0), (0, 320 - pixels.shape[1])))


@cache
def _signs() -> list[str]:
    import onnx

    path = trained.package("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    found = {item.key: item.value for item in onnx.load(path).metadata_props}
    return ["", *found["character"].splitlines(), " "]


def _read(places: list[int], signs: list[str]) -> str:
    """Repeated signs are one; sign 0 is none (Graves et al. 2006)."""
    pairs = zip([0, *places], places, strict=False)
    return "".join(signs[now] for before, now in pairs if now and now != before)


def _distance(a: str, b: str) -> int:
    """How many signs to insert, delete or replace (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


CASES: Mapping[str, Callable[[Path], Case]] = {
    "fashion": fashion_case,
    "reviews": reviews_case,
    "photos": photos_case,
    "lines": lines_case,
}


def example(case: Case) -> tuple[torch.Tensor, ...]:
    """The first batch, to capture the model with."""
    return tuple(torch.from_numpy(array[: case.batch]) for array in case.held_out.values())
