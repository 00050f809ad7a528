"""Bad arguments of pooling and unpooling: stock PyTorch's type of error, and the argument's name."""

import pytest
import torch
import torch.nn.functional as F

import pyaegpu

X, LINE, VOLUME = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 6), torch.rand(2, 3, 6, 6, 6)
VALUES, INDICES = F.max_pool2d(X, 2, return_indices=True)
CODES = torch.zeros(INDICES.shape, dtype=torch.uint8)
each_backend = pytest.mark.parametrize("backend", ["reference", "cpu", "auto"])

POOL = {"input": X, "kernel_size": 2}
# What differs from a right call of max_pool2d, and what the message has.
POOL_AS_STOCK = {
    "input of rank 2": ({"input": X[0, 0]}, r"input.*\(6, 6\)"),
    "input of rank 5": ({"input": X[None]}, r"input.*\(1, 2, 3, 6, 6\)"),
    "input without channels": ({"input": X[:, :0]}, r"input.*only N may be 0.*\(2, 0, 6, 6\)"),
    "input without rows": ({"input": X[:, :, :0]}, "input"),
    "input as a list": ({"input": [1.0]}, "input.*list"),
    "kernel of 0": ({"kernel_size": 0}, "kernel_size.*at least 1.*0"),
    "negative kernel": ({"kernel_size": (2, -1)}, "kernel_size"),
    "kernel of three numbers": ({"kernel_size": (2, 2, 2)}, r"kernel_size.*2 of them.*\(2, 2, 2\)"),
    "kernel as text": ({"kernel_size": "2"}, "kernel_size.*'2'"),
    "kernel as a float": ({"kernel_size": 2.0}, "kernel_size.*2.0"),
    "kernel as nothing": ({"kernel_size": None}, "kernel_size.*None"),
    "kernel of floats": ({"kernel_size": (2, 2.5)}, "kernel_size.*2.5"),
    "stride of 0": ({"stride": 0}, "stride.*at least 1"),
    "stride of three numbers": ({"stride": (1, 1, 1)}, "stride"),
    "stride as text": ({"stride": "1"}, "stride"),
    "negative padding": ({"padding": -1}, "padding.*at least 0.*-1"),
    "padding over half of the window": ({"padding": 2}, "padding.*half.*2"),
    "padding over half of a dilated window": ({"kernel_size": 3, "padding": 2, "dilation": 3}, "padding.*half"),
    "padding as nothing": ({"padding": None}, "padding"),
    "dilation of 0": ({"dilation": 0}, "dilation.*at least 1"),
    "dilation of three numbers": ({"dilation": (1, 1, 1)}, "dilation"),
    "a window larger than the image": ({"kernel_size": 7}, r"input.*\(6, 6\).*kernel_size \(7, 7\)"),
    "complex input": ({"input": X.to(torch.complex64)}, ""),
}
POOL_OURS = {
    "int32 indices": ({"index_dtype": torch.int32}, ValueError, "index_dtype.*torch.int64 or torch.uint8.*int32"),
    "index dtype as text": ({"index_dtype": "uint8"}, ValueError, "index_dtype.*'uint8'"),
    "no index dtype": ({"index_dtype": None}, ValueError, "index_dtype.*None"),
    "True as a kernel": ({"kernel_size": True}, TypeError, "kernel_size.*True"),
    "too large a window for codes": (
        {"input": torch.rand(1, 1, 17, 17), "kernel_size": 17, "index_dtype": torch.uint8, "return_indices": True},
        ValueError,
        r"torch.uint8.*256.*kernel_size \(17, 17\).*torch.int64",
    ),
}
UNPOOL = {"input": VALUES, "indices": INDICES, "kernel_size": 2}
UNPOOL_AS_STOCK = {
    "input of rank 2": ({"input": VALUES[0, 0], "indices": INDICES[0, 0]}, "input"),
    "input without channels": ({"input": VALUES[:, :0], "indices": INDICES[:, :0]}, "input"),
    "shape of the indices": ({"indices": INDICES[:1]}, r"indices.*\(2, 3, 3, 3\).*\(1, 3, 3, 3\)"),
    "rank of the indices": ({"indices": INDICES[0]}, "indices"),
    "float indices": ({"indices": VALUES}, "indices.*int64.*float32"),
    "int16 indices": ({"indices": INDICES.short()}, "indices.*int16"),
    "boolean indices": ({"indices": INDICES.bool()}, "indices.*bool"),
    "indices as a list": ({"indices": [0]}, "indices.*list"),
    "indices as nothing": ({"indices": None}, "indices.*NoneType"),
    "input as a number": ({"input": 1.0}, "input"),
    "output size of one number": ({"output_size": (6,)}, r"output_size.*2 elements, or 4.*\(6,\)"),
    "output size of three numbers": ({"output_size": (3, 6, 6)}, "output_size"),
    "too large an output": ({"output_size": (6, 8)}, "output_size.*5 to 7.*dimension 1.*8"),
    "too small an output": ({"output_size": (4, 6)}, "output_size.*5 to 7.*dimension 0.*4"),
    "output size as an integer": ({"output_size": 6}, "output_size.*int"),
    "output size of text": ({"output_size": ("6", "6")}, "output_size"),
    "kernel as text": ({"kernel_size": "2"}, "kernel_size"),
    "stride as text": ({"stride": "2"}, "stride"),
}
UNPOOL_OURS = {
    # stock's type depends on its version
    "negative output": (
        {"input": VALUES[..., :1, :1], "indices": INDICES[..., :1, :1], "padding": 2},
        ValueError,
        "output_size.*negative",
    ),
    "kernel of 0": ({"kernel_size": 0}, RuntimeError, "kernel_size"),
    "stride of 0": ({"stride": 0}, RuntimeError, "stride"),
    "negative padding": ({"padding": -1}, RuntimeError, "padding"),
    "dilation of 0": ({"dilation": 0, "indices": CODES}, RuntimeError, "dilation"),
    "kernel of three numbers": ({"kernel_size": (2, 2, 2)}, RuntimeError, "kernel_size"),
    "codes of too large a window": ({"kernel_size": 17, "indices": CODES}, ValueError, "kernel_size.*256.*int64"),
    "indices elsewhere": ({"indices": INDICES.to("meta")}, RuntimeError, "indices.*device.*cpu.*meta"),
    "output size of codes": ({"indices": CODES, "dilation": 2, "output_size": (6, 6)}, None, ""),
    "too small an output of codes": ({"indices": CODES, "dilation": 2, "output_size": (5, 6)}, ValueError, "6 to 8"),
}
DECODE = {"codes": CODES, "kernel_size": 2, "input_size": (6, 6)}
DECODE_OURS = {
    "codes as a list": ({"codes": [0]}, TypeError, "codes.*list"),
    "int64 codes": ({"codes": INDICES}, RuntimeError, "codes.*uint8.*int64"),
    "rank of the codes": ({"codes": CODES[0, 0, 0]}, (RuntimeError, ValueError), "codes"),
    "input size as an integer": ({"input_size": 6}, TypeError, "input_size.*6"),
    "input size of three numbers": ({"input_size": (6, 6, 6, 6, 6)}, ValueError, "input_size"),
    "input size of text": ({"input_size": "66"}, TypeError, "input_size"),
    "input size of floats": ({"input_size": (6.0, 6.0)}, TypeError, "input_size"),
    "input size of nothing": ({"input_size": ()}, (TypeError, ValueError), "input_size"),
    "kernel as text": ({"kernel_size": "2"}, TypeError, "kernel_size"),
    "kernel of 0": ({"kernel_size": 0}, RuntimeError, "kernel_size"),
    "dilation of 0": ({"dilation": 0}, RuntimeError, "dilation"),
}


def raised(fn, **arguments):
    with pytest.raises(Exception) as info:
        fn(**arguments)
    return info


def check_as_stock(ours, stock, right, wrong, text, backend):
    expected = raised(stock, **(right | wrong))
    with pyaegpu.backend(backend):
        found = raised(ours, **(right | wrong))
    same = issubclass(found.type, expected.type)
    # Where stock stumbles over a wrong type, TypeError says so.
    stumbled = expected.type in (AttributeError, IndexError, NotImplementedError) or found.type is TypeError
    assert same or stumbled, (found.value, expected.value)
    found.match(text)


@pytest.mark.parametrize("name", POOL_AS_STOCK)
@each_backend
def test_pooling(backend, name):
    wrong, text = POOL_AS_STOCK[name]
    check_as_stock(pyaegpu.max_pool2d, F.max_pool2d, POOL, wrong, text, backend)


@pytest.mark.parametrize("name", UNPOOL_AS_STOCK)
@each_backend
def test_unpooling(backend, name):
    wrong, text = UNPOOL_AS_STOCK[name]
    check_as_stock(pyaegpu.max_unpool2d, F.max_unpool2d, UNPOOL, wrong, text, backend)


OURS = {
    **{f"pool: {name}": (pyaegpu.max_pool2d, POOL, *case) for name, case in POOL_OURS.items()},
    **{f"unpool: {name}": (pyaegpu.max_unpool2d, UNPOOL, *case) for name, case in UNPOOL_OURS.items()},
    **{f"decode: {name}": (pyaegpu.decode_pool_codes, DECODE, *case) for name, case in DECODE_OURS.items()},
}


@pytest.mark.parametrize("name", OURS)
@each_backend
def test_what_stock_does_not_know(backend, name):
    function, right, wrong, error, text = OURS[name]
    with pyaegpu.backend(backend):
        if error is None:
            function(**(right | wrong))
            return
        with pytest.raises(error, match=text):
            function(**(right | wrong))


@each_backend
def test_each_dimension_checks_its_own(backend):
    with pyaegpu.backend(backend):
        for name, input in (("1d", X), ("2d", LINE[0]), ("3d", LINE), ("1d", VOLUME), ("3d", VOLUME[0, 0])):
            with pytest.raises(RuntimeError, match="input"):
                getattr(pyaegpu, f"max_pool{name}")(input, 2)
            with pytest.raises(RuntimeError, match="input"):
                getattr(pyaegpu, f"max_unpool{name}")(input, input.long(), 2)
        for name, input, count in (("1d", LINE, 1), ("2d", X, 2), ("3d", VOLUME, 3)):
            with pytest.raises(RuntimeError, match="kernel_size"):
                getattr(pyaegpu, f"max_pool{name}")(input, [2] * (count + 1))


def test_options_are_keywords():
    with pytest.raises(TypeError):
        pyaegpu.max_pool2d(X, 2, 2, 0, 1, False, True, torch.uint8)
    with pytest.raises(TypeError):
        pyaegpu.max_unpool2d(VALUES, INDICES, 2, 2, 0, None, 1)
    with pytest.raises(TypeError):
        pyaegpu.decode_pool_codes(CODES, 2, 2, 0, 1, (6, 6))
    with pytest.raises(TypeError):
        pyaegpu.decode_pool_codes(CODES, 2)


@pytest.mark.parametrize("name", POOL_AS_STOCK)
def test_the_error_is_the_same_without_and_with_gradients(name):
    wrong, _ = POOL_AS_STOCK[name]
    arguments = POOL | wrong
    plain = raised(pyaegpu.max_pool2d, **arguments)
    if isinstance(arguments["input"], torch.Tensor):
        needing = arguments | {"input": arguments["input"].clone().requires_grad_()}
        assert raised(pyaegpu.max_pool2d, **needing).type is plain.type


def test_meta_tensors_give_shapes():
    for dtype in (torch.int64, torch.uint8):
        values, indices = pyaegpu.max_pool2d(X.to("meta"), 3, 2, 1, return_indices=True, index_dtype=dtype)
        assert values.shape == indices.shape == (2, 3, 3, 3) and values.is_meta and indices.dtype == dtype
        assert pyaegpu.max_unpool2d(values, indices, 3, 2, 1, (6, 6)).shape == X.shape


def test_a_dilation_is_said_to_count_for_codes_alone():
    values, indices = pyaegpu.max_pool2d(torch.rand(1, 1, 8, 8), 2, 1, 0, 2, return_indices=True)
    with pytest.raises(ValueError, match=r"output_size must be from 7 to 7 .*dilation counts for codes alone"):
        pyaegpu.max_unpool2d(values, indices, 2, 1, output_size=(8, 8), dilation=2)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 9), (3, 8, 8), (2, 3, 8, 7), (3, 8, 8, 8), (2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("whole", [True, False])
def test_decoding_tells_a_batch_from_channels_by_the_sizes(shape, whole):
    dims = len(shape) - (1 if shape[0] == 3 else 2)
    pool = getattr(pyaegpu, f"max_pool{dims}d")
    x = torch.rand(shape)
    expected = pool(x, 2, ceil_mode=True, return_indices=True)[1]
    codes = pool(x, 2, ceil_mode=True, return_indices=True, index_dtype=torch.uint8)[1]
    for kernel in (2, (2,) * dims):
        sizes = shape if whole else shape[-dims:]
        assert torch.equal(pyaegpu.decode_pool_codes(codes, kernel, input_size=sizes), expected)


@pytest.mark.parametrize(
    "wrong", [{"input_size": (3, 8, 8)}, {"input_size": (9, 3, 8, 8)}, {"kernel_size": 3}], ids=str
)
def test_decoding_refuses_sizes_that_do_not_lead_to_the_codes(wrong):
    codes = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="input_size must have the sizes"):
        pyaegpu.decode_pool_codes(codes, **({"kernel_size": 2, "input_size": (8, 8)} | wrong))


def test_decoding_refuses_what_is_no_position():
    codes = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    codes[1, 2, 0, 3] = 4
    with pytest.raises(
        RuntimeError, match=r"codes must be codes of a 2 x 2 window \(0 to 3\); got 4 at \(1, 2, 0, 3\)"
    ):
        pyaegpu.decode_pool_codes(codes, 2, input_size=(8, 8))


@pytest.mark.parametrize("wrong", [{"padding": 2}, {"kernel_size": 9}], ids=str)
def test_no_explanation_of_a_call_that_fails(wrong):
    with pytest.raises(RuntimeError, match=f"{next(iter(wrong))}"):
        pyaegpu.explain(pyaegpu.max_pool2d, torch.rand(1, 1, 8, 8), **({"kernel_size": 2} | wrong))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_output_of_no_size(backend):
    indices = torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    with pyaegpu.backend(backend):
        assert pyaegpu.max_unpool2d(torch.rand(1, 1, 1, 1), indices, 2, 2, 1).shape == (1, 1, 0, 0)
