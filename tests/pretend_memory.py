"""CPU tensors that say they are on a card, for tests where there is none.

A tensor is on the pretended card where its storage is. As on a real one, an operation on tensors of both places is an
error, and so is a host synchronisation while ``set_sync_debug_mode("error")`` holds.
"""

from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
_aten = torch.ops.aten
_MIX = {_aten.copy_, _aten.index, _aten._unsafe_index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu}
_WAITS = {_aten._local_scalar_dense, _aten.equal, _aten.nonzero, _aten.masked_select, _aten._unique2}
_DEVICE_OF = torch._C.TensorBase.device.__get__

# A weak reference keeps the address of a storage from being used again.
_stored: dict[int, StorageWeakRef] = {}
_sync_debug = "default"


def set_sync_debug_mode(mode):
    global _sync_debug
    _sync_debug = mode


def device_of(tensor):
    actual = _DEVICE_OF(tensor)
    return CARD if actual.type == "cpu" and _is_on_card(tensor) else actual


def _storage(tensor):
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a tensor without memory, as a sparse or a fake one
        return None


def _address(tensor):
    """What tells storages apart; None of a tensor without memory."""
    storage = _storage(tensor)
    return None if storage is None else storage._cdata


def _is_on_card(tensor):
    reference = _stored.get(_address(tensor))
    return reference is not None and not reference.expired()


def _put(tensor, device):
    storage = _storage(tensor)
    if storage is None:
        return
    if device.type == "cuda":
        _stored[storage._cdata] = StorageWeakRef(storage)
    else:
        _stored.pop(storage._cdata, None)


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _asked(value):
    """The device that an argument names, or None."""
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"):
        return torch.device(value)
    return None


def _wait():
    if _sync_debug == "error":
        raise RuntimeError("called a synchronizing CUDA operation")


class Names(TorchFunctionMode):
    """Whatever is asked for on the card is made on the host, and noted."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "_parse_to":  # what Module.to is asked for
            device, *rest = func(*args, **kwargs)
            like = _tensors((args, kwargs))
            return device_of(like[0]) if like else device, *rest
        if func in _MOVES:
            return _moved(func, *args, **kwargs)
        asked = [device for device in map(_asked, (*args, *kwargs.values())) if device is not None]
        if not asked:
            return func(*args, **kwargs)
        _check_generator(kwargs.get("generator"), asked[-1])
        result = func(*map(_on_host, args), **{name: _on_host(value) for name, value in kwargs.items()})
        for tensor in _tensors(result):
            _put(tensor, asked[-1])
        return result


def _check_generator(generator, device):
    if generator is not None and generator.device.type != device.type:
        raise RuntimeError(f"Expected a {device.type!r} device type for generator but found {generator.device.type!r}")


def _on_host(value):
    device = _asked(value)
    return HOST if device is not None and device.type == "cuda" else value


def _moved(func, tensor, *args, **kwargs):
    """The results of ``to``, ``cuda`` and ``cpu``."""
    named = [device for device in map(_asked, (*args, *kwargs.values())) if device is not None]
    named += [device_of(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    target = named[0] if named else {Tensor.cuda: CARD, Tensor.cpu: HOST}.get(func, device_of(tensor))
    kwargs = {name: _on_host(value) for name, value in kwargs.items()}
    if func is Tensor.to:
        result = func(tensor, *map(_on_host, args), **kwargs)
    else:
        result = tensor.to(HOST, **{name: value for name, value in kwargs.items() if name != "device"})
    source = device_of(tensor)
    if source.type != target.type:
        if source.type == "cuda" and not kwargs.get("non_blocking"):
            _wait()
        if _address(result) == _address(tensor):
            result = result.clone()
        _put(result, target)
    return result


class Devices(TorchDispatchMode):
    """A result is where its operands are, and they are all in one place."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operands = _tensors((args, kwargs))
        on_card = [_is_on_card(t) for t in operands]
        default = _asked(kwargs.get("device"))  # torch.set_default_device's, which no function mode of ours sees
        if default is not None and default.type == "cuda":
            result = func(*args, **kwargs | {"device": HOST})
            _put(result, CARD)
            return result
        if not any(on_card):
            return func(*args, **kwargs)
        if func.overloadpacket in _WAITS:
            _wait()
        elsewhere = [t for t, is_on in zip(operands, on_card, strict=True) if not is_on]
        if func.overloadpacket not in _MIX and any(t.dim() for t in elsewhere):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} got some on cuda:0, some on cpu")
        result = func(*args, **kwargs)
        on_host = {_address(t) for t in elsewhere}
        for tensor in _tensors(result):
            if _address(tensor) not in on_host:
                _put(tensor, CARD)
        return result


def _only_on_host(function):
    def call(tensor, *args, **kwargs):
        if device_of(tensor).type == "cuda":
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return function(tensor, *args, **kwargs)

    return call


def pretend():
    """Patches torch for the rest of the process."""
    is_ = {"cuda": "is_cuda", "cpu": "is_cpu"}
    mock.patch.object(Tensor, "device", property(device_of), create=True).start()
    for kind, name in is_.items():
        said = property(lambda tensor, kind=kind: device_of(tensor).type == kind)
        mock.patch.object(Tensor, name, said, create=True).start()
    mock.patch.object(Tensor, "get_device", lambda t: 0 if device_of(t).type == "cuda" else -1, create=True).start()
    for name in ("numpy", "__array__"):
        mock.patch.object(Tensor, name, _only_on_host(getattr(Tensor, name)), create=True).start()
    mock.patch.object(Tensor, "pin_memory", Tensor.clone, create=True).start()
    # Ours is none of the modes that code asks for.
    modes = torch._C._len_torch_dispatch_stack
    mock.patch.object(torch._C, "_len_torch_dispatch_stack", lambda: max(0, modes() - 1)).start()
    names, run_backward = Names(), torch.autograd.graph._engine_run_backward

    def engine(*args, **kwargs):
        # torch leaves its function modes while it runs a backward
        with names:
            return run_backward(*args, **kwargs)

    mock.patch.object(torch.autograd, "_engine_run_backward", engine).start()
    Devices().__enter__()
    names.__enter__()
