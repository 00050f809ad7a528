"""What a compiled graph is made of."""

import torch


def ops_of(fn, *inputs):
    """The registered ops in the graph that ``fn`` compiles to."""
    torch._dynamo.reset()
    seen = []

    def record(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(fn, fullgraph=True, backend=record)(*inputs)
    return [name for name in seen if "pyaegpu" in name]
