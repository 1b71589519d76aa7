"""External data: reads and appends tensors in the file next to a graph (``TensorProto.external_data``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PAGE: Final = 4096
"""Page size in bytes: tensors of at least this size are aligned to pages, since they are memory-mapped."""
_LINE: Final = 64


def file_of(graph: Any) -> str:
    """Name of the one file that has a graph's external tensors."""
    (name,) = {_place(tensor)["location"] for tensor in graph.initializer if tensor.external_data}
    return name


def content_of(folder: Path, tensor: Any) -> bytes:
    """A tensor's bytes, from the graph or from the file next to it. :param folder: the graph's folder."""
    if not tensor.external_data:
        from onnx import numpy_helper

        return bytes(numpy_helper.to_array(tensor).tobytes())
    place = _place(tensor)
    with (folder / place["location"]).open("rb") as data:
        data.seek(int(place.get("offset", 0)))
        content: bytes = data.read(int(place["length"]))
    return content


def values_of(folder: Path, tensor: Any) -> npt.NDArray[Any]:
    """A tensor's values as an array; parameters as for ``content_of``."""
    import numpy as np
    from onnx import helper

    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(content_of(folder, tensor), dtype).reshape(list(tensor.dims))


def append(folder: Path, location: str, tensor: Any, content: bytes) -> None:
    """Appends a tensor's bytes to the file ``location`` and makes the tensor refer to them."""
    with (folder / location).open("ab") as data:
        data.write(bytes(-data.tell() % (_PAGE if len(content) >= _PAGE else _LINE)))
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", data.tell()), ("length", len(content))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        data.write(content)
    tensor.ClearField("raw_data")
    tensor.data_location = type(tensor).EXTERNAL


def _place(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}
