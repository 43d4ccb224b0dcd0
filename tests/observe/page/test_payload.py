import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.observe.page.payload import encode_payload
from page_reader import read_payload

DTYPES = (np.uint8, np.uint16, np.uint32, np.int32, np.float16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 3, 5), (4, 0, 2)], ids=str)
def test_an_array_comes_back(dtype, shape):
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    found = read_payload(encode_payload({"a": [1, {"b": array}], "c": array.T}))
    np.testing.assert_array_equal(found["a"][1]["b"], array)
    np.testing.assert_array_equal(found["c"], array.T)
    assert found["c"].dtype == dtype


def test_any_byte_order_is_written_as_little_endian():
    assert read_payload(encode_payload({"a": np.array([1, 2], dtype=">i4")}))["a"].tolist() == [1, 2]


@given(st.dictionaries(st.text(st.characters(codec=None)), st.text(st.characters(codec=None))))
@settings(deadline=None, max_examples=50)
def test_any_text_comes_back(texts):
    assert read_payload(encode_payload({"texts": texts, "a": np.zeros(3, dtype=np.uint8)}))["texts"] == texts


def test_numbers_that_json_lacks_are_null_and_stay_in_arrays():
    values = [math.nan, math.inf, -math.inf, 0.5]
    found = read_payload(encode_payload({"plain": values, "array": np.array(values, dtype=np.float32)}))
    assert found["plain"] == [None, None, None, 0.5]
    np.testing.assert_array_equal(found["array"], np.array(values, dtype=np.float32))


def test_an_array_of_another_dtype_is_our_mistake():
    with pytest.raises(KeyError):
        encode_payload({"a": np.zeros(1, dtype=np.int64)})
