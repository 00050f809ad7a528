"""The kernels of the corruption family; corrupt.py launches them."""

import triton
import triton.language as tl

from .philox import normal_tile, seed_of, word_tile
from .tiles import integer, load, program_range, scalar, store, tile_mask, tile_offsets

GAUSSIAN = tl.constexpr(0)
MASKING = tl.constexpr(1)

# Arguments whose value gains nothing: without this each new seed or offset could recompile.
NUMBERS = ["seed_value", "offset", "threshold", "rows", "splits"]


@triton.jit(do_not_specialize=NUMBERS)
def corrupt_kernel(
    p_x, p_seed, p_out, seed_value: tl.int64, offset: tl.int64, stride_x: tl.int64,
    rows: tl.int64, cols: tl.int64, span: tl.int64, splits,
    threshold: tl.int64, amount: tl.float64, low: tl.float64, high: tl.float64,
    KIND: tl.constexpr, QUADS: tl.constexpr, ACC: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """GAUSSIAN adds amount * noise; else the elements whose word is below the threshold are replaced: by 0
    (MASKING), by low in the lower half and high in the upper (salt and pepper)."""
    i_row, m_row, i_start, i_stop = program_range(tl.program_id(0).to(tl.int64), rows, cols, span, splits, B_ROWS)
    seed = seed_of(p_seed, seed_value)
    offset = integer(offset)
    threshold = integer(threshold)
    for i_col in range(i_start, i_stop, B_COLS):
        m = tile_mask(m_row, i_col, cols, B_COLS)
        x = load(p_x, tile_offsets(i_row, i_col, stride_x, B_ROWS, B_COLS), m, ACC)
        if KIND == GAUSSIAN:
            noise = normal_tile(
                seed, offset, i_row, i_col, cols, p_x.dtype.element_ty, QUADS, ACC, B_ROWS, B_COLS
            )  # fmt: skip
            x += noise * scalar(amount, ACC)
        else:
            word = word_tile(seed, offset, i_row, i_col, cols, QUADS, B_ROWS, B_COLS).to(tl.int64)
            if KIND == MASKING:
                x = tl.where(word < threshold, 0.0, x)
            else:
                extreme = tl.where(word < (threshold >> 1), scalar(low, ACC), scalar(high, ACC))
                x = tl.where(word < threshold, extreme, x)
        store(p_out, tile_offsets(i_row, i_col, cols, B_ROWS, B_COLS), x, m)
