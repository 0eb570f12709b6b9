"""The innermost loops, in registers: a tile of M × V vectors of L lanes is added up and only then stored.

Written as LLVM instructions, because a loop over arrays stores each sum to memory and loads it again: with one
store for every multiplication, the multipliers wait. Here 11 loads serve 24 multiplications with AVX-512 (M = 8, V = 3),
7 serve 12 with AVX2 (M = 4), and everything around these loops is plain Numba.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import config
from numba.core.cgutils import get_or_insert_function
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

_INDEX = ir.IntType(64)


V = 3


def registers(features: str) -> tuple[int, int]:
    """Bytes of a vector register, and M, of a processor with `features` as LLVM writes them: `+avx2,-avx512f`. The tile of
    M × V and what feeds it take M·V + V + 1 registers: 28 of 32 with M = 8, all of 16 with M = 4."""
    there = {word.removeprefix("+") for word in features.split(",") if word.startswith("+")}
    if "avx512f" in there:
        return 64, 8
    if "avx" in there:
        return 32, 4
    return 16, 8 if "neon" in there else 4


def _target() -> str:
    """The features that Numba compiles for: this processor's, unless NUMBA_CPU_FEATURES or NUMBA_CPU_NAME say others."""
    given = vars(config)["CPU_FEATURES"]
    return get_host_cpu_features() if given is None else given


REGISTER_BYTES, M = registers(_target())


def lanes(itemsize: int) -> int:
    """L: numbers in a vector."""
    return REGISTER_BYTES // itemsize


def _add_products(typingctx, sums, to, pitch, x, start, offsets, weights, first, depth):
    """sums[to + m·pitch + v·L + l] = Σ_k weights[first + k·M + m] · x[start + offsets[k] + v·L + l], k < depth.

    Each k loads V vectors and M numbers for M·V multiply-adds.
    """
    whole = types.intp
    signature = types.void(sums, whole, whole, x, whole, offsets, weights, whole, whole)

    def codegen(context, builder, _, arguments):
        sums_, to_, pitch_, x_, start_, offsets_, weights_, first_, depth_ = arguments
        to_sums, to_x, to_offsets, to_weights = _pointers(
            context, builder, (sums, sums_), (x, x_), (offsets, offsets_), (weights, weights_)
        )
        _, vector = _types(context, x)
        to_x, to_weights = builder.gep(to_x, [start_]), builder.gep(to_weights, [first_])
        to_sums = builder.gep(to_sums, [to_])
        loop = _Loop(builder, vector, depth_)
        source = builder.gep(to_x, [builder.load(builder.gep(to_offsets, [loop.k]))])
        vectors = [loop.load(source, v) for v in range(V)]
        row = builder.gep(to_weights, [builder.mul(loop.k, _INDEX(M))])
        for m in range(M):
            spread = loop.spread(builder.load(builder.gep(row, [_INDEX(m)])))
            loop.add(m, [(spread, each) for each in vectors])
        found = loop.end(step=1)
        for m in range(M):
            for v in range(V):
                at = builder.add(builder.mul(_INDEX(m), pitch_), _INDEX(v * vector.count))
                loop.store(found[m][v], builder.gep(to_sums, [at]))
        return context.get_dummy_value()

    return signature, codegen


def _add_dots(typingctx, sums, first, pitch, a, a_start, a_pitch, b, b0, b1, b2, length):
    """sums[first + m·pitch + v] += Σ_i a[a_start + m·a_pitch + i] · b[b_v + i], i < length, a multiple of L.

    Each i loads M + V vectors for M·V multiply-adds; the lanes are added at the end.
    """
    whole = types.intp
    signature = types.void(sums, whole, whole, a, whole, whole, b, whole, whole, whole, whole)

    def codegen(context, builder, _, arguments):
        sums_, first_, pitch_, a_, a_start_, a_pitch_, b_, *starts, length_ = arguments
        to_sums, to_a, to_b = _pointers(context, builder, (sums, sums_), (a, a_), (b, b_))
        number, vector = _types(context, a)
        to_a = builder.gep(to_a, [a_start_])
        rows = [builder.gep(to_a, [builder.mul(_INDEX(m), a_pitch_)]) for m in range(M)]
        columns = [builder.gep(to_b, [each]) for each in starts]
        loop = _Loop(builder, vector, length_)
        vectors = [loop.load(builder.gep(each, [loop.k]), 0) for each in columns]
        for m in range(M):
            own = loop.load(builder.gep(rows[m], [loop.k]), 0)
            loop.add(m, [(own, each) for each in vectors])
        found = loop.end(step=vector.count)
        name = f"llvm.vector.reduce.fadd.v{vector.count}f{8 * number_bytes(number)}"
        add_up = get_or_insert_function(builder.module, ir.FunctionType(number, [number, vector]), name)
        for m in range(M):
            for v in range(V):
                at = builder.add(first_, builder.add(builder.mul(_INDEX(m), pitch_), _INDEX(v)))
                to = builder.gep(to_sums, [at])
                total = builder.call(add_up, [number(-0.0), found[m][v]], fastmath=["reassoc"])
                builder.store(builder.fadd(builder.load(to), total), to)
        return context.get_dummy_value()

    return signature, codegen


def combine(formula: Callable[..., list["Lanes"]], *, rows: int) -> Any:
    """An intrinsic: vector by vector, the results of `formula` of `rows` rows and a bias.

    f(to, at, to_pitch, x, start, offsets, length, bias, floor): to[at + r·to_pitch + i] = max(floor, result r of the numbers
    x[start + offsets[j] + i], j < rows), for i < length, which is L at least: the last vector ends where the rows end, and
    what it shares with the one before is written twice. NaN stays. Loaded once, a vector serves all results; a loop over
    arrays would load it for each, as it cannot know that storing one result leaves the rows as they were.
    """

    def typed(typingctx, to, at, to_pitch, x, start, offsets, length, bias, floor):
        whole = types.intp
        signature = types.void(to, whole, whole, x, whole, offsets, whole, x.dtype, x.dtype)

        def codegen(context, builder, _, arguments):
            to_, at_, to_pitch_, x_, start_, offsets_, length_, bias_, floor_ = arguments
            to_results, to_x, to_offsets = _pointers(context, builder, (to, to_), (x, x_), (offsets, offsets_))
            to_x = builder.gep(to_x, [start_])
            sources = [builder.gep(to_x, [builder.load(builder.gep(to_offsets, [_INDEX(j)]))]) for j in range(rows)]
            _, vector = _types(context, x)
            last = builder.sub(length_, _INDEX(vector.count))
            loop = _Loop(builder, vector, length_, sums=0)
            least, more = loop.spread(floor_), Lanes(builder, loop.spread(bias_))
            here = builder.select(builder.icmp_signed("<", loop.k, last), loop.k, last)
            given = [Lanes(builder, loop.load(builder.gep(each, [here]), 0)) for each in sources]
            for r, found in enumerate(formula(*given, more)):
                place = builder.add(builder.add(at_, here), builder.mul(_INDEX(r), to_pitch_))
                is_less = builder.fcmp_ordered("<", found.value, least)
                loop.store(builder.select(is_less, least, found.value), builder.gep(to_results, [place]))
            loop.end(step=vector.count)
            return context.get_dummy_value()

        return signature, codegen

    return intrinsic(typed)


class Lanes:
    """A vector register in a formula: sums, differences, and products with numbers known beforehand."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def __add__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.builder, self.builder.fadd(self.value, other.value, flags=["contract"]))

    def __sub__(self, other: "Lanes") -> "Lanes":
        return Lanes(self.builder, self.builder.fsub(self.value, other.value, flags=["contract"]))

    def __rmul__(self, factor: int) -> "Lanes":
        factors = ir.Constant(self.value.type, [float(factor)] * self.value.type.count)
        return Lanes(self.builder, self.builder.fmul(self.value, factors, flags=["contract"]))


add_products: Any = intrinsic(_add_products)  # as kernels call it, without the context
add_dots: Any = intrinsic(_add_dots)


class _Loop:
    """for k in range(0, length, step): …, with sums × V sums in registers from one pass to the next; length ≥ 1."""

    def __init__(self, builder: ir.IRBuilder, vector: ir.VectorType, length: ir.Value, *, sums: int = M):
        self.builder, self.vector, self.length = builder, vector, length
        before = builder.block
        self.body, self.after = builder.append_basic_block("tile"), builder.append_basic_block("tile.end")
        builder.branch(self.body)
        builder.position_at_end(self.body)
        self.k = builder.phi(_INDEX)
        self.k.add_incoming(_INDEX(0), before)
        self.sums = [[builder.phi(vector) for _ in range(V)] for _ in range(sums)]
        for each in chain(*self.sums):
            each.add_incoming(ir.Constant(vector, None), before)
        self.next: list[list[ir.Value]] = []

    def load(self, pointer: ir.Value, v: int) -> ir.Value:
        """The v-th vector behind `pointer`, wherever that is."""
        at = self.builder.gep(pointer, [_INDEX(v * self.vector.count)])
        found = self.builder.load(self.builder.bitcast(at, self.vector.as_pointer()))
        found.align = number_bytes(self.vector.element)
        return found

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        to = self.builder.bitcast(pointer, self.vector.as_pointer())
        self.builder.store(value, to).align = number_bytes(self.vector.element)

    def spread(self, number: ir.Value) -> ir.Value:
        """A vector whose lanes are all `number`."""
        nothing, first = ir.Constant(self.vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        lanes_ = ir.Constant(ir.VectorType(ir.IntType(32), self.vector.count), None)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, number, first), nothing, lanes_)

    def add(self, m: int, factors: list[tuple[ir.Value, ir.Value]]) -> None:
        """Row m of the sums grows by these products; `contract` makes one instruction of the two."""
        fused = {"flags": ["contract"]}
        self.next.append(
            [
                self.builder.fadd(self.builder.fmul(*pair, **fused), each, **fused)
                for pair, each in zip(factors, self.sums[m])
            ]
        )

    def end(self, *, step: int) -> list[list[ir.Value]]:
        """Closes the loop; the sums."""
        k = self.builder.add(self.k, _INDEX(step))
        self.k.add_incoming(k, self.body)
        for old, new in zip(chain(*self.sums), chain(*self.next)):
            old.add_incoming(new, self.body)
        self.builder.cbranch(self.builder.icmp_signed("<", k, self.length), self.body, self.after)
        self.builder.position_at_end(self.after)
        return self.next


def number_bytes(number: ir.Type) -> int:
    return 4 if isinstance(number, ir.FloatType) else 8


def _pointers(context, builder, *arrays):
    return [context.make_array(type_)(context, builder, value).data for type_, value in arrays]


def _types(context, array):
    number = context.get_value_type(array.dtype)
    return number, ir.VectorType(number, lanes(number_bytes(number)))
