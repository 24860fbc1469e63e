"""Many chunks of a column under one running index; those that lie in the same file are gathered in one go."""

import numpy as np
import pyarrow as pa

from hf_seqrl.data.arrow import PackedBits

StepValues = np.ndarray | PackedBits


class ChunkedSteps:
    """The steps of several chunks, one after the other.

    A memory-mapped Arrow file holds a record batch for every thousand episodes or so. Since all its batches lie in
    one stretch of memory, a step is found there by where it begins, whatever batch it belongs to.

    Args:
        chunks: The values of each chunk's steps, `(steps, *shape_per_step)` views of Arrow's memory.
        arrays: The Arrow arrays that they are views of.
    """

    def __init__(self, chunks: list[StepValues], arrays: list[pa.Array]) -> None:
        self._offsets = np.cumsum([0, *map(len, chunks)])
        self._elements_per_step = int(np.prod(chunks[0].shape[1:]))
        files = [_file_of(array) for array in arrays]
        addresses = [file.address for file in files]
        places = np.array([_first_element(chunk, file) for chunk, file in zip(chunks, files, strict=True)])
        self._shift_of_chunk = places - self._offsets[:-1] * self._elements_per_step
        self._file_of_chunk = np.unique(addresses, return_inverse=True)[1]
        firsts = [addresses.index(address) for address in sorted(set(addresses))]
        self._files = [_steps_at_every_element(files[chunk], chunks[chunk]) for chunk in firsts]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The values of these steps, `(*indices.shape, *shape_per_step)`."""
        chunks = np.searchsorted(self._offsets, indices, side="right") - 1
        elements = indices * self._elements_per_step + self._shift_of_chunk[chunks]
        if len(self._files) == 1:
            return _gather(self._files[0], elements)
        taken = np.empty(indices.shape + self._files[0].shape[1:], self._files[0].dtype)
        files = self._file_of_chunk[chunks]
        for number in np.unique(files):
            here = files == number
            taken[here] = _gather(self._files[number], elements[here])
        return taken


def _file_of(array: pa.Array) -> pa.Buffer:
    """The memory-mapped file that an array's values lie in; for arrays in memory, their own buffer."""
    buffer = array.buffers()[-1]
    while buffer.parent is not None:
        buffer = buffer.parent
    return buffer


def _first_element(chunk: StepValues, file: pa.Buffer) -> int:
    """How many elements (bits for booleans) of the file come before the chunk."""
    if isinstance(chunk, PackedBits):
        return (chunk.address - file.address) * 8 + chunk.offset
    # Arrow aligns its buffers to 8 bytes, so that the distance is a whole number of elements
    return (chunk.__array_interface__["data"][0] - file.address) // chunk.itemsize


def _steps_at_every_element(file: pa.Buffer, chunk: StepValues) -> StepValues:
    """The file as steps of the chunk's shape and type that overlap, one beginning at every element."""
    if isinstance(chunk, PackedBits):
        return PackedBits(pa.Array.from_buffers(pa.bool_(), file.size * 8, [None, file]))
    elements = np.frombuffer(file, chunk.dtype, file.size // chunk.itemsize)
    shape, strides = chunk.shape[1:], chunk.strides[1:]
    count = len(elements) - int(np.prod(shape)) + 1
    return np.lib.stride_tricks.as_strided(elements, (count, *shape), (chunk.itemsize, *strides), writeable=False)


def _gather(values: StepValues, indices: np.ndarray) -> np.ndarray:
    # ndarray.take would first make a contiguous copy of the whole file
    return values.take(indices) if isinstance(values, PackedBits) else values[indices]
