"""Where a network can be cut, and its parts.

A block is a class that repeats in Sequentials or ModuleLists and holds no other such class. A cut is a block after
which one tensor is live. A stage is what lies between two cuts: a GraphModule over the model's own modules, so that
parameters keep their identity and their names, and `.train()` and `.eval()` reach them.
"""

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fanlight.errors import ConfigError, near
from fanlight.models import told
from fanlight.models.decoder import Decoder

ALSO_BLOCKS = {  # blocks although they do not repeat, stand in no container, or hold other blocks
    "DepthwiseSeparableConv",  # first stage of EfficientNet and MobileNet
    "ConvBnAct",  # last stage of MobileNetV3 and GhostNet
    "InceptionA",
    "InceptionB",
    "InceptionC",
    "InceptionD",
    "InceptionE",
    "Inception",  # GoogLeNet
    "MobileVitBlock",  # a shortcut goes around the transformer blocks inside
    "Bottleneck",  # RegNet's stage is no container
}
_PREFIX = "model."  # of targets while tracing


def blocks(model: nn.Module) -> list[str]:
    """Names of the model's blocks, in module order; none lies inside another."""
    containers = [module for module in model.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    counts = Counter(type(child) for container in containers for child in container.children() if _is_compound(child))
    repeated = {kind for kind, count in counts.items() if count > 1}
    holders = {
        type(module)
        for module in model.modules()
        if type(module) in repeated and any(type(part) in repeated - {type(module)} for part in module.modules())
    }
    found: list[str] = []
    for name, module in model.named_modules():
        is_block = type(module) in repeated - holders or type(module).__name__ in ALSO_BLOCKS
        if name and is_block and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def cuts(model: nn.Module, example: Tensor) -> list[str]:
    """Names of the blocks (in a model without blocks: of the layers) after which the model can be cut, in order of
    execution. `example`: a batch [B, 3, H, W]. ConfigError names the family when `torch.fx` cannot follow the model."""
    return [node.target for node in _cut_nodes(model, _trace(model), example)]  # type: ignore[misc]


def stages(model: nn.Module, at: Sequence[str], example: Tensor) -> list[fx.GraphModule]:
    """The model in len(at) + 1 parts, cut after each name in `at`, which are some of `cuts`, in their order.

    Called one after the other they compute the model. Each parameter and buffer belongs to one stage.
    """
    graph = _trace(model)
    allowed = {str(node.target): node for node in _cut_nodes(model, graph, example)}
    for name in at:
        if name not in allowed:
            raise ConfigError(
                f"{_family(model)} cannot be cut after {name!r}.{near(name, allowed)} It can be cut after {', '.join(allowed)}"
            )
    nodes = list(graph.nodes)
    ends = [nodes.index(allowed[name]) for name in at]
    if ends != sorted(set(ends)):
        raise ConfigError(
            f"cuts should be distinct and in the model's order, got {', '.join(at)}; its order is {', '.join(allowed)}"
        )
    bounds = list(zip([0, *(end + 1 for end in ends)], [*(end + 1 for end in ends), len(nodes)]))
    parts = [_stage(model, nodes, start, stop, name=f"Stage{i}") for i, (start, stop) in enumerate(bounds)]
    _check_state(model, parts)
    return parts


def check(model: nn.Module, parts: Sequence[nn.Module], example: Tensor) -> None:
    """Chains the stages once in training and once in eval mode: their output must be the model's, bit for bit.

    Changes no buffer, mode or random state. In training mode each stage gets a leaf that wants a gradient, and
    `example` needs two or more images where BatchNorm would else see one value per channel. Keyed dropout is
    installed after the check, or its keys are those of the example.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [example.device.index or 0] if example.is_cuda else []
    with modes_kept([model, *parts]):
        try:
            for training in (True, False):
                results = []
                for chain in ([model], parts):
                    with torch.random.fork_rng(devices=devices):  # so that both see the same dropout
                        results.append(_chain(chain, example, training=training))
                    _restore(model, buffers)
                if not torch.equal(*results):
                    mode = "training" if training else "eval"
                    raise _refused(model, f"its stages compute something else in {mode} mode")
        except ConfigError:
            raise
        except Exception as error:  # whatever the model's own code raises
            raise _refused(model, f"its stages do not run: {error}") from error
        finally:
            _restore(model, buffers)


class _Whole(nn.Module):
    """A forward of one argument: the model's other arguments are then its defaults, as plain values."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class _Tracer(fx.Tracer):
    """Goes into modules that hold blocks and into Sequentials without any, no further: what lies inside a block may
    branch on values, shapes and the mode."""

    def __init__(self, model: nn.Module):
        super().__init__()
        parts = [name.split(".") for name in blocks(model)]
        self._holders = {".".join(part[:depth]) for part in parts for depth in range(1, len(part))}
        self._goes_into = () if parts else (nn.Sequential,)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Decoder):  # of captions: it holds blocks, and reads words that are no input
            return True
        if isinstance(m, self._goes_into) or f"{module_qualified_name}." == _PREFIX:
            return False
        return module_qualified_name.removeprefix(_PREFIX) not in self._holders


def _trace(model: nn.Module) -> fx.Graph:
    """The model's graph, the same in training and in eval mode; targets are names in `model`."""
    graphs = []
    with modes_kept([model]):
        for training in (True, False):
            model.train(training)
            try:
                graphs.append(_Tracer(model).trace(_Whole(model)))
            except Exception as error:  # TraceError, or whatever the model's own code makes of a proxy
                raise _refused(model, f"torch.fx cannot follow its forward: {error}") from error
    codes = {graph.python_code("self").src for graph in graphs}
    if len(codes) > 1:
        raise _refused(model, "it computes different things in training and in eval mode outside its blocks")
    for node in graphs[0].nodes:
        if node.op in ("call_module", "get_attr"):
            if not str(node.target).startswith(_PREFIX):
                raise _refused(model, f"its forward makes a constant tensor ({node.target})")
            node.target = str(node.target).removeprefix(_PREFIX)
    return graphs[0]


def _cut_nodes(model: nn.Module, graph: fx.Graph, example: Tensor) -> list[fx.Node]:
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    last = [max((place[user] for user in node.users), default=i) for i, node in enumerate(nodes)]
    spans = _state_spans(model, nodes, place)
    batches = _batch_nodes(model, nodes, example)
    names = set(blocks(model)) or {str(node.target) for node in nodes if node.op == "call_module"}
    end = max((last_use for _, last_use in spans), default=0)
    found = []
    for i, node in enumerate(nodes[:end]):
        live = [n for n in nodes[: i + 1] if n.op != "get_attr" and last[place[n]] > i]
        shared = any(first <= i < final for first, final in spans)
        overwritten = any(_writes_its_input(model, user) for user in node.users)
        is_layer = node.op == "call_module" and node.target in names
        if is_layer and live == [node] and node.name in batches and not shared and not overwritten:
            found.append(node)
    return found


def _state_spans(model: nn.Module, nodes: list[fx.Node], place: dict[fx.Node, int]) -> list[tuple[int, int]]:
    """First and last use of each parameter and buffer: a cut in between would give it to two stages."""
    uses: dict[int, list[int]] = {}
    for node in nodes:
        if node.op == "get_attr":
            tensors, at = [operator.attrgetter(str(node.target))(model)], [place[user] for user in node.users]
        elif node.op == "call_module":
            module = model.get_submodule(str(node.target))
            tensors, at = [*module.parameters(), *module.buffers()], [place[node]]
        else:
            continue
        for tensor in tensors:
            uses.setdefault(id(tensor), []).extend(at)
    return [(min(at), max(at)) for at in uses.values() if at]


def _batch_nodes(model: nn.Module, nodes: list[fx.Node], example: Tensor) -> set[str]:
    """Names of the nodes whose value on `example` is a float tensor with one row per image."""
    found = set()

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == example.shape[:1]:
                found.add(n.name)
            return value

    with torch.no_grad(), modes_kept([model]), told.standing_in(model):
        model.eval()
        try:
            Watch(fx.GraphModule(model, nodes[0].graph)).run(example)
        except Exception as error:  # whatever the model's own code raises
            raise _refused(model, f"it does not run on images of shape {list(example.shape)}: {error}") from error
    return found


def _writes_its_input(model: nn.Module, node: fx.Node) -> bool:
    """A stage's input is a leaf of its autograd graph and may not be overwritten."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    named = node.op == "call_method" and str(node.target).endswith("_")
    return named or bool(node.kwargs.get("inplace", False))


def _stage(model: nn.Module, nodes: list[fx.Node], start: int, stop: int, *, name: str) -> fx.GraphModule:
    """Nodes start … stop-1 as a module of the value that is live before them."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    copies[nodes[start - 1] if start else nodes[0]] = graph.placeholder("x")

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # parameters are read where they are used, wherever the trace first met them
            copies[node] = graph.node_copy(node, copy)
        return copies[node]

    for node in nodes[start:stop]:
        if node.op not in ("get_attr", "output"):
            copy(node)
    output = nodes[-1].args[0] if stop == len(nodes) else nodes[stop - 1]
    graph.output(fx.map_arg(output, copy))
    graph.lint()
    return fx.GraphModule(model, graph, class_name=name)


def _check_state(model: nn.Module, parts: list[fx.GraphModule]) -> None:
    """What checkpoints keep lies in one stage each, under its own name."""
    held = Counter(name for part in parts for name in part.state_dict())
    wanted = model.state_dict()
    odd = [name for name in wanted if held[name] != 1] + [name for name in held if name not in wanted]
    if odd:
        few = ", ".join(odd[:3])
        raise _refused(model, f"{len(odd)} of its parameters and buffers belong to no stage or to several ({few})")


def _chain(parts: Sequence[nn.Module], x: Tensor, *, training: bool) -> Tensor:
    with torch.set_grad_enabled(training):
        for part in parts:
            part.train(training)
            x = part(x.detach().requires_grad_(training))
    return x.detach()


def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


@contextmanager
def modes_kept(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, modules may change between training and eval mode; afterwards each is in its own again."""
    modes = [(module, module.training) for root in roots for module in root.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _refused(model: nn.Module, why: str) -> ConfigError:
    return ConfigError(
        f"{_family(model)} cannot be cut into stages: {why}; use a layout without `pipe` or another --model"
    )


def _family(model: nn.Module) -> str:
    return type(model).__name__


def _is_compound(module: nn.Module) -> bool:
    """Two or more layers with weights, and no container: a convolution with its norm and activation is no block."""
    layers = [part for part in module.modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1]
    return not isinstance(module, (nn.Sequential, nn.ModuleList)) and len(layers) > 1
