"""Arrays of every origin become the bytes that they hold, and bytes become arrays."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from gradstep._arrays import common_dtype, to_array, to_tensor, to_tensors

VALUES = [[1.5, -2.0, 3.25], [0.0, 1e-3, -7.0]]

NUMPY_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_a_numpy_array_is_sent_as_its_own_bytes(dtype: str) -> None:
    array = np.array(VALUES, NUMPY_DTYPES[dtype])
    tensor = to_tensor("w", array)
    assert (tensor.dtype, tensor.shape) == (dtype, (2, 3))
    assert bytes(tensor.data) == array.tobytes()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_a_torch_tensor_is_sent_as_the_array_of_the_same_values(dtype: str) -> None:
    tensor = to_tensor("w", torch.tensor(VALUES, dtype=TORCH_DTYPES[dtype]))
    expected = to_tensor("w", np.array(VALUES, NUMPY_DTYPES[dtype]))
    assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
    assert bytes(tensor.data) == bytes(expected.data)


def test_an_array_in_c_order_is_not_copied() -> None:
    array = np.zeros((4, 5), np.float32)
    tensor = to_tensor("w", array)
    array[0, 0] = 1.0
    assert bytes(tensor.data[:4]) == np.float32(1.0).tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.array(VALUES, np.float32)),
        np.array(VALUES, np.float32).T.copy().T,
        np.repeat(np.array(VALUES, np.float32), 2, axis=1)[:, ::2],
        np.array(VALUES, ">f4"),
        np.array(VALUES, np.float32)[::-1][::-1],
        torch.tensor(VALUES).T.contiguous().T,
        torch.tensor(VALUES, requires_grad=True),
        torch.nn.Parameter(torch.tensor(VALUES)),
    ],
    ids=[
        "Fortran order",
        "transposed",
        "strided",
        "big-endian",
        "reversed",
        "torch transposed",
        "torch with gradient",
        "torch parameter",
    ],
)
def test_any_layout_is_sent_in_c_order_and_little_endian(array: Any) -> None:
    tensor = to_tensor("w", array)
    assert tensor.shape == (2, 3)
    assert bytes(tensor.data) == np.array(VALUES, "<f4").tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array(2.0, np.float32),
        np.float32(2.0),
        torch.tensor(2.0),
        torch.tensor(2.0, dtype=torch.bfloat16),
        np.array(2.0, ml_dtypes.bfloat16),
    ],
    ids=["array", "scalar", "torch", "torch bfloat16", "bfloat16"],
)
def test_a_scalar_keeps_its_empty_shape(array: Any) -> None:
    tensor = to_tensor("w", array)
    assert tensor.shape == ()
    assert float(to_array(tensor.dtype, (), np.frombuffer(tensor.data, np.uint8))) == 2.0


def test_a_tensor_without_elements_has_no_bytes() -> None:
    for array in (np.empty((0, 3), np.float32), torch.empty((0, 3), dtype=torch.bfloat16)):
        tensor = to_tensor("w", array)
        assert (tensor.shape, bytes(tensor.data)) == ((0, 3), b"")


def test_what_only_converts_itself_to_an_array_is_accepted() -> None:
    class Own:
        def __array__(
            self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
        ) -> np.ndarray[Any, np.dtype[np.float64]]:
            return np.array([1.0, 2.0])

    assert to_tensor("w", Own()).dtype == "F64"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([1.0, 2.0], "'w': expected a NumPy array or a torch tensor, got list"),
        (1.0, "'w': expected a NumPy array or a torch tensor, got float"),
        (None, "'w': expected a NumPy array or a torch tensor, got NoneType"),
        (np.array([1, 2]), "'w': the dtype int64 is none of"),
        (np.array([1j]), "'w': the dtype complex128 is none of"),
        (np.array(["a"]), "'w': the dtype str32 is none of"),
        (torch.tensor([1, 2]), "'w': the dtype int64 is none of"),
        (torch.zeros(2).to_sparse(), "'w': a tensor of layout torch.sparse_coo cannot be sent"),
    ],
)
def test_what_holds_no_floating_point_numbers_is_refused_by_name(value: Any, what: str) -> None:
    with pytest.raises(TypeError) as caught:
        to_tensor("w", value)
    assert str(caught.value).startswith(what)


def test_every_bfloat16_is_widened_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    widened = to_array("BF16", bits.shape, bits.view(np.uint8))
    expected = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    assert widened.dtype == np.float32
    assert np.array_equal(
        widened.view(np.uint32)[~np.isnan(expected)], expected.view(np.uint32)[~np.isnan(expected)]
    )
    assert np.isnan(widened[np.isnan(expected)]).all()


def test_bytes_become_a_writable_view() -> None:
    raw = np.zeros(8, np.uint8)
    array = to_array("F32", (2,), raw)
    array[1] = 1.0
    assert raw.tobytes() == np.array([0.0, 1.0], "<f4").tobytes()


def test_bytes_that_are_not_aligned_are_copied() -> None:
    raw = np.frombuffer(b"\0" + np.array([1.5], "<f8").tobytes(), np.uint8)[1:]
    array = to_array("F64", (1,), raw)
    assert array.flags.aligned
    assert array.tolist() == [1.5]


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'I64' is none of F64, F32, F16, BF16"):
        to_array("I64", (1,), np.zeros(8, np.uint8))


def test_the_common_dtype_is_found_and_several_are_refused() -> None:
    single = np.zeros(2, np.float32)
    assert common_dtype(to_tensors({"w": single, "b": single})) == "F32"
    assert common_dtype({}) is None
    with pytest.raises(ValueError, match="several dtypes, F32, F64: say which with dtype="):
        common_dtype(to_tensors({"w": single, "b": np.zeros(2)}))


def test_neither_torch_nor_ml_dtypes_is_imported() -> None:
    program = "import sys, gradstep; print({'torch', 'ml_dtypes', 'safetensors'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
