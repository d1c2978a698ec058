"""GGUF files in plain NumPy: read, write, dequantise, quantise, fingerprint.

Written from the public description of the format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and
of the block types, and from nothing else: it is one half of every comparison in tests/golden, so it shares no
code with the engine. Shapes are NumPy's here: a tensor that the file calls [in, out] is an array (out, in).
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass

import numpy as np

MAGIC = b"GGUF"
ALIGNMENT = 32

# Value types of keys.
U8, I8, U16, I16, U32, I32, F32_VALUE, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_SCALARS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32_VALUE: "<f", BOOL: "<?",
            U64: "<Q", I64: "<q", F64: "<d"}

# Tensor types: name -> (number in the file, elements in a block, bytes of a block).
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
         "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210), "BF16": (30, 1, 2)}
TYPE_NAMES = {number: name for name, (number, _, _) in TYPES.items()}


# ---- Dequantisation: blocks (n, bytes) of uint8 -> (n, elements) of float32 ---------------------------------


def _halves(blocks, begin, end):
    """Columns [begin, end) as float16 fields, widened to float32."""
    return np.ascontiguousarray(blocks[:, begin:end]).view(np.float16).astype(np.float32)


def _nibbles(packed):
    """(n, 16) bytes -> (n, 32): low nibbles are elements 0..15, high nibbles 16..31."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks, begin):
    """Four bytes at `begin`, a little-endian word: bit i is the fifth bit of element i. -> (n, 32) of 0 or 16."""
    word = np.ascontiguousarray(blocks[:, begin:begin + 4]).view("<u4")
    return ((word >> np.arange(32, dtype=np.uint32)) & 1).astype(np.uint8) << 4


def _q4_0(b):
    return _halves(b, 0, 2) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b):
    return _halves(b, 0, 2) * _nibbles(b[:, 4:]).astype(np.float32) + _halves(b, 2, 4)


def _q5_0(b):
    return _halves(b, 0, 2) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.float32) - 16)


def _q5_1(b):
    q = (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)).astype(np.float32)
    return _halves(b, 0, 2) * q + _halves(b, 2, 4)


def _q8_0(b):
    return _halves(b, 0, 2) * np.ascontiguousarray(b[:, 2:]).view(np.int8).astype(np.float32)


def _k_scales(packed):
    """The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minimums. -> two (n, 8)."""
    low, mid, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    mins = np.concatenate([mid & 63, (high >> 4) | ((mid >> 6) << 4)], axis=1)
    return scales.astype(np.float32), mins.astype(np.float32)


def _k_affine(b, q):
    """w = (d * scale) * q - dmin * min, with q (n, 8, 32)."""
    scales, mins = _k_scales(b[:, 4:16])
    scales, mins = scales * _halves(b, 0, 2), mins * _halves(b, 2, 4)
    return (scales[:, :, None] * q.astype(np.float32) - mins[:, :, None]).reshape(len(b), 256)


def _q4_k(b):
    qs = b[:, 16:].reshape(len(b), 4, 32)  # 64 elements in each 32 bytes: low nibbles first
    return _k_affine(b, np.stack([qs & 15, qs >> 4], axis=2).reshape(len(b), 8, 32))


def _q5_k(b):
    qs = b[:, 48:].reshape(len(b), 4, 32)
    q = np.stack([qs & 15, qs >> 4], axis=2).reshape(len(b), 8, 32)
    group = np.arange(8, dtype=np.uint8)[None, :, None]  # byte i, bit g: fifth bit of element i of group g
    return _k_affine(b, q | (((b[:, None, 16:48] >> group) & 1) << 4))


def _q6_k(b):
    n = len(b)
    ql = b[:, :128].reshape(n, 2, 2, 32)       # half, 32 bytes of it
    qh = b[:, 128:192].reshape(n, 2, 1, 32)
    low = np.concatenate([ql & 15, ql >> 4], axis=2)   # (n, half, quarter, 32)
    high = (qh >> np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]) & 3
    q = (low | (high << 4)).astype(np.float32) - 32
    scales = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32) * _halves(b, 208, 210)
    return (scales[:, :, None] * q.reshape(n, 16, 16)).reshape(n, 256)


def _bf16(b):
    return (np.ascontiguousarray(b).view("<u2").astype(np.uint32) << 16).view(np.float32)


_DEQUANTISE = {"F32": lambda b: np.ascontiguousarray(b).view("<f4"),
               "F16": lambda b: np.ascontiguousarray(b).view("<f2").astype(np.float32),
               "BF16": _bf16, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
               "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}


def dequantise(type_name, data):
    """Bytes of whole blocks -> flat float32 array."""
    _, _, block_bytes = TYPES[type_name]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, block_bytes)
    return _DEQUANTISE[type_name](blocks).reshape(-1)


def quantise_q8_0(x):
    """Floats (a multiple of 32) -> bytes. scale = max|x| / 127, stored as float16; q = round(x / scale)."""
    x = np.ascontiguousarray(x, np.float32).reshape(-1, 32)
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    product = x * inverse
    q = np.trunc(product + np.copysign(np.float32(0.5), product)).astype(np.int8)  # half away from zero
    return np.concatenate([scale.astype(np.float16).view(np.uint8), q.view(np.uint8)], axis=1).tobytes()


def to_bf16_bytes(x):
    """Round to nearest even; NaN is not expected here."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def encode(type_name, x):
    """Floats -> the bytes of a tensor of this type."""
    if type_name == "F32":
        return np.ascontiguousarray(x, "<f4").tobytes()
    if type_name == "F16":
        return np.ascontiguousarray(x, np.float32).astype("<f2").tobytes()
    if type_name == "BF16":
        return to_bf16_bytes(x)
    if type_name == "Q8_0":
        return quantise_q8_0(x)
    raise ValueError(f"no encoder for {type_name}")


# ---- Reading -------------------------------------------------------------------------------------------------


@dataclass
class Tensor:
    name: str
    type: str       # "Q4_1"
    dims: tuple     # as in the file: dims[0] is contiguous
    data: memoryview

    def floats(self):
        """Float32 array in NumPy's order, (out, in) for a matrix."""
        return dequantise(self.type, self.data).reshape(self.dims[::-1])


class Reader:
    """A file, mapped; keys in `keys` (name -> value), tensors in `tensors` (name -> Tensor), both in file order."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)
        self._at = 0
        if self._take(4) != MAGIC:
            raise ValueError(f"{path}: not a GGUF file")
        self.version = self._number(U32)
        if self.version not in (2, 3):
            raise ValueError(f"{path}: GGUF version {self.version}")
        n_tensors, n_keys = self._number(U64), self._number(U64)
        self.keys, self.key_types, self.element_types = {}, {}, {}
        for _ in range(n_keys):
            name = self._string()
            kind = self._number(U32)
            self.key_types[name] = kind
            if kind == ARRAY:
                self.element_types[name] = struct.unpack_from("<I", self._view, self._at)[0]
            self.keys[name] = self._value(kind)
        headers = []
        for _ in range(n_tensors):
            name = self._string()
            dims = tuple(self._number(U64) for _ in range(self._number(U32)))
            headers.append((name, TYPE_NAMES[self._number(U32)], dims, self._number(U64)))
        alignment = self.keys.get("general.alignment", ALIGNMENT)
        base = -(-self._at // alignment) * alignment
        self.tensors = {}
        for name, kind, dims, offset in headers:
            _, block, block_bytes = TYPES[kind]
            size = int(np.prod(dims, dtype=np.int64)) // block * block_bytes
            self.tensors[name] = Tensor(name, kind, dims, self._view[base + offset:base + offset + size])

    def _take(self, n):
        piece = bytes(self._view[self._at:self._at + n])
        if len(piece) != n:
            raise ValueError(f"file ends at {self._at}")
        self._at += n
        return piece

    def _number(self, kind):
        form = _SCALARS[kind]
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self):
        return self._take(self._number(U64)).decode("utf-8", "surrogateescape")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(kind)
        element, count = self._number(U32), self._number(U64)
        if element in (STRING, ARRAY):
            return [self._value(element) for _ in range(count)]
        form = np.dtype(_SCALARS[element].replace("?", "u1").lstrip("<"))
        return np.frombuffer(self._take(count * form.itemsize), form.newbyteorder("<")).tolist()

    def floats(self, name):
        return self.tensors[name].floats()


# ---- Writing -------------------------------------------------------------------------------------------------


class Writer:
    """Collects keys and tensors, then writes a version 3 file."""

    def __init__(self):
        self._keys, self._tensors = [], []

    def put(self, key, kind, value, element=None):
        """A key of value type `kind`; for ARRAY, `element` is the type of its elements."""
        self._keys.append(_string(key) + struct.pack("<I", kind) + _encode_value(kind, value, element))

    def tensor(self, name, x, type_name="F32"):
        """x: array in NumPy's order, (out, in) for a matrix."""
        self.raw_tensor(name, type_name, tuple(reversed(np.shape(x))), encode(type_name, x))

    def copy_keys(self, reader, changed=None):
        """All keys of a file, those in `changed` with another value of the same type."""
        for key, kind in reader.key_types.items():
            self.put(key, kind, (changed or {}).get(key, reader.keys[key]), reader.element_types.get(key))

    def raw_tensor(self, name, type_name, dims, data):
        _, block, block_bytes = TYPES[type_name]
        assert dims[0] % block == 0, (name, dims)
        assert len(data) == int(np.prod(dims, dtype=np.int64)) // block * block_bytes, name
        self._tensors.append((name, type_name, dims, data))

    def write(self, path):
        out = bytearray(MAGIC + struct.pack("<IQQ", 3, len(self._tensors), len(self._keys)))
        for key in self._keys:
            out += key
        offset = 0
        for name, type_name, dims, data in self._tensors:
            out += _string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            out += struct.pack("<IQ", TYPES[type_name][0], offset)
            offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
        out += bytes(-len(out) % ALIGNMENT)
        for _, _, _, data in self._tensors:
            out += data + bytes(-len(data) % ALIGNMENT)
        with open(path, "wb") as file:
            file.write(out)


def _string(text):
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _encode_value(kind, value, element=None):
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        return struct.pack("<IQ", element, len(value)) + b"".join(_encode_value(element, v) for v in value)
    return struct.pack(_SCALARS[kind], value)


def fingerprint(reader):
    """SHA-256 over the tensors sorted by name: name, a zero byte, type and n_dims as u32, dims as u64, data."""
    digest = hashlib.sha256()
    for name in sorted(reader.tensors, key=lambda text: text.encode("utf-8", "surrogateescape")):
        tensor = reader.tensors[name]
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(struct.pack("<II", TYPES[tensor.type][0], len(tensor.dims)))
        digest.update(struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims))
        digest.update(tensor.data)
    return digest.hexdigest()
