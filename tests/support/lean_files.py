"""What holds for every file that is written: nothing in it is for nothing, and no two tensors share a name."""

from collections import Counter

from mobilenets_tf.tflite import flatbuffer


def assert_lean(content: bytes) -> None:
    tree = flatbuffer.read(content)
    for graph in tree.subgraphs:
        used = {index for table in [graph, *graph.operators] for index in [*table.inputs, *table.outputs]}
        assert used - {-1} == set(range(len(graph.tensors)))
        assert [name for name, count in Counter(tensor.name for tensor in graph.tensors).items() if count > 1] == []
    buffers = {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}
    buffers |= {entry.buffer for entry in tree.metadata or ()}
    assert buffers | {0} == set(range(len(tree.buffers)))
    assert {operator.opcodeIndex for graph in tree.subgraphs for operator in graph.operators} == set(
        range(len(tree.operatorCodes))
    )
