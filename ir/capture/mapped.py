"""Weights of an archive, mapped from the file: models of several GB stay on disk."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

from optc.ir.diagnostics import error

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # PKWARE APPNOTE 4.3.7


class MappedWeights:
    """Tensors of one archive, by the names that its configuration files give them."""

    def __init__(self, path: Path, file: zipfile.ZipFile, root: str) -> None:
        self._path = path
        self._zip = file
        self._root = root
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def load(self, folder: str, model: str) -> dict[str, torch.Tensor]:
        """Weights or constants of a model; raises E0205 for what only a pickle could restore."""
        name = f"{self._root}/data/{folder}/{model}_{folder}_config.json"
        config = json.loads(self._zip.read(name))["config"]
        return {fqn: self._tensor(folder, fqn, meta) for fqn, meta in config.items()}

    def _tensor(self, folder: str, fqn: str, meta: dict[str, Any]) -> torch.Tensor:
        tensor = meta.get("tensor_meta")
        if meta.get("use_pickle") or tensor is None:
            raise error(
                "E0205",
                f"{self._path} stores {fqn} as a pickle, and unpickling runs code of the file",
                help="export the model with plain tensors as weights",
            )
        dtype = _SERIALIZE_TO_TORCH_DTYPE[tensor["dtype"]]
        sizes = [size["as_int"] for size in tensor["sizes"]]
        strides = [stride["as_int"] for stride in tensor["strides"]]
        flat = self._payload(f"{self._root}/data/{folder}/{meta['path_name']}", dtype)
        if flat.numel() == 0:
            view = torch.empty(sizes, dtype=dtype)
        else:
            view = flat.as_strided(sizes, strides, tensor["storage_offset"]["as_int"])
        if not meta.get("is_param"):
            return view
        return torch.nn.Parameter(view, requires_grad=bool(tensor["requires_grad"]))

    def _payload(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        key = (name, dtype)
        if key not in self._flat:
            content = self._content(self._zip.getinfo(name))
            with warnings.catch_warnings():
                # Nobody writes to weights; torch cannot know that.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._flat[key] = torch.from_numpy(content).view(dtype)
        return self._flat[key]

    def _content(self, info: zipfile.ZipInfo) -> np.ndarray:
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(bytearray(self._zip.read(info)), dtype=np.uint8)
        header = self._bytes[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        fields = _LOCAL_HEADER.unpack(header.tobytes())
        start = info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
        content = self._bytes[start : start + info.file_size]
        if len(content) != info.file_size:
            raise EOFError(f"{info.filename} ends early")
        if zlib.crc32(content.data) != info.CRC:
            raise zipfile.BadZipFile(f"the checksum of {info.filename} is wrong")
        # torch wants elements aligned; archives of torch are, others are copied.
        return content if content.ctypes.data % 8 == 0 else np.array(content)
